"""Plays the selected cells of the matrix several at a time.

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

from .stage import Cell, Stage
from .table import seen

pytest.register_assert_rewrite("tests.life.boot", "tests.life.ending", "tests.life.signals")

AT_ONCE = 5


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
        seen[key] = "FAILED"
        seen[key] = playing[cell].result()

    return outcome
