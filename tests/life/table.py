"""The matrix as one table at the end: a row an event, a column a worker class.

A plugin of its own, since with several processes the one that prints has played nothing itself.
"""

from __future__ import annotations

from typing import Any

import pytest

seen: dict[tuple[str, str], str] = {}
"""By event and worker class: what came of it."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes: hand over to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["life"] = [[*cell, outcome] for cell, outcome in seen.items()]


def pytest_testnodedown(node: Any, error: object) -> None:
    """In the process that prints, as each of the others ends; one that crashed has no output."""
    for name, door, outcome in getattr(node, "workeroutput", {}).get("life", []):
        seen[name, door] = outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it, where any of the matrix was played."""
    if not seen:
        return
    from ..doors.server import DOORS  # and gunicorn: no other test shall wait for that

    doors = [str(door) for door in DOORS]
    events = dict.fromkeys(name for name, _ in seen)
    rows = [[event, *(seen.get((event, door), "") for door in doors)] for event in events]
    rows.insert(0, ["", *doors])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("a worker's life")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        terminalreporter.line("  ".join(cells).rstrip())
