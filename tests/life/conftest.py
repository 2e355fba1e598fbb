"""Plays the selected cells of the matrix several at a time, and prints them all as one table.

A cell spends most of its time waiting, for a boot or for a graceful end: one after the other they
would take a quarter of an hour. Each test waits for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres

from ..doors.server import DOORS
from .stage import Cell, Stage

pytest.register_assert_rewrite("tests.life.boot", "tests.life.ending", "tests.life.signals")

AT_ONCE = 5

_seen: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """Ends the servers should the test run itself be killed."""
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(scope="session")
def playing(
    request: pytest.FixtureRequest,
    postgres: PrivatePostgres,
    janitor: Janitor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Cell, Future[str]]]:
    """Every selected cell, being played."""
    folder: Path = tmp_path_factory.mktemp("life")
    cells: list[Any] = [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "playing" in item.fixturenames
    ]

    def play(cell: Cell) -> str:
        stage = Stage(cell.door, cell.name, postgres=postgres, janitor=janitor, folder=folder)
        try:
            return cell.event(stage)
        finally:
            stage.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {cell: pool.submit(play, cell) for cell in cells}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def outcome(playing: dict[Cell, Future[str]]) -> Callable[[Cell], None]:
    """Waits for a cell; raises what it raised."""

    def outcome(cell: Cell) -> None:
        key = (cell.name, str(cell.door))
        _seen[key] = "FAILED"
        _seen[key] = playing[cell].result()

    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table: a row an event, a column a worker class."""
    if not _seen:
        return
    doors = [str(door) for door in DOORS]
    events = dict.fromkeys(name for name, _ in _seen)
    rows = [[event, *(_seen.get((event, door), "") for door in doors)] for event in events]
    rows.insert(0, ["", *doors])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("a worker's life")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        terminalreporter.line("  ".join(cells).rstrip())
