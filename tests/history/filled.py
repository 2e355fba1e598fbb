"""A runtime folder with a history in it, told as workers tell it, of a past that is made up."""

from __future__ import annotations

import time
from pathlib import Path

from poolguard.history.minutes import Demand
from poolguard.history.ring import SUFFIX, WINDOWS, Ring, Row
from poolguard.util.rundir import RuntimeDir

from .past import MadeUp

__all__ = ["fill", "now", "row_of"]


def now() -> int:
    """This minute, of which nothing can be recorded yet."""
    return int(time.time() // 60)


def fill(path: Path, past: MadeUp, guard: str = "default", database: str = "shop") -> None:
    """Record *past* for *guard* in the folder, as one worker that is alone on its host."""
    folder = RuntimeDir(path)
    ring = Ring(folder, f"{database}-{guard.encode().hex()}{SUFFIX}", guard)
    for at, demand in past.items():
        ring.tell(row_of(at, demand))
        ring.settle(at)
    ring.close()
    folder.close()


def row_of(at: int, demand: Demand) -> Row:
    lent = (demand.one, *[0] * (WINDOWS - 1))
    return Row(at, lent, demand.waiting, demand.created, demand.level)
