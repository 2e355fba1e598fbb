"""Matrices as tables at the end of a run: a row and a column name each cell.

A plugin of its own, since with several processes the one that prints has played nothing itself.
"""

from __future__ import annotations

from typing import Any

import pytest

seen: dict[tuple[str, str], str] = {}
"""Of a worker's life, by event and worker class: what came of it."""
held: dict[tuple[str, str], str] = {}
"""The same of the frameworks, by framework with worker class, and event."""

TABLES = {"a worker's life": seen, "frameworks": held}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes: hand over to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tables"] = {
            title: [[*cell, outcome] for cell, outcome in table.items()]
            for title, table in TABLES.items()
        }


def pytest_testnodedown(node: Any, error: object) -> None:
    """In the process that prints, as each of the others ends; one that crashed has no output."""
    for title, cells in getattr(node, "workeroutput", {}).get("tables", {}).items():
        for row, column, outcome in cells:
            TABLES[title][row, column] = outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print those that anything was played of."""
    for title, table in TABLES.items():
        if table:
            terminalreporter.section(title)
            for line in _lines(table):
                terminalreporter.line(line)


def _lines(table: dict[tuple[str, str], str]) -> list[str]:
    from ..doors.server import DOORS  # and gunicorn: no other test shall wait for that

    doors = [str(door) for door in DOORS]
    found = dict.fromkeys(column for _, column in table)
    # Where worker classes are the columns, they stand as everywhere; a sort keeps what is equal.
    columns = sorted(found, key=lambda each: doors.index(each) if each in doors else -1)
    rows = [
        [row, *(table.get((row, column), "") for column in columns)]
        for row in dict.fromkeys(row for row, _ in table)
    ]
    rows.insert(0, ["", *columns])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
