"""A worker's life: each event under each worker class, on real gunicorn and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..doors.server import DOORS
from . import boot, ending, fleet, options, signals
from .stage import Cell

PARTS = (boot, signals, options, ending)
EVENTS = {name: event for part in PARTS for name, event in part.EVENTS.items()}

CELLS = [Cell(door, name, event) for name, event in EVENTS.items() for door in DOORS]
EACH_TIME = ("sync", "asgi")
"""The worker classes whose cells are played by CI; the others are played by hand."""
OF_FLEETS = [Cell(door, name, event) for name, event in fleet.EVENTS.items() for door in DOORS]


@pytest.mark.timeout(300)  # the first waits for its turn among all
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell,
            id=f"{cell.name}-{cell.door}",
            marks=pytest.mark.long if str(cell.door) in EACH_TIME else pytest.mark.matrix,
        )
        for cell in CELLS
    ],
)
def test_life(cell: Cell, outcome: Callable[[Cell], None]) -> None:
    """See the file that the event stands in."""
    outcome(cell)


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cell", OF_FLEETS, ids=lambda cell: f"{cell.name}-{cell.door}")
def test_life_as_a_host_of_a_fleet(cell: Cell, outcome: Callable[[Cell], None]) -> None:
    """See the file that the event stands in."""
    outcome(cell)
