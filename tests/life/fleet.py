"""Events of the matrix: a host of a fleet, whose budget is not its own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..support import until
from .signals import WORKERS, Scene, scene
from .stage import Event, Stage

__all__ = ["EVENTS"]

BESIDE = 2
"""Slots of the budget that no pool has: the control session's, and the door."""


@contextmanager
def _host(stage: Stage, *, kills: bool = False) -> Iterator[Scene]:
    """Two warm workers of the only host, with room for another generation."""
    label = re.sub(r"\W", "_", stage.name)
    with scene(
        stage,
        generations=2,
        left=BESIDE,
        kills=kills,
        POOLGUARD_LEDGER="fleet",
        POOLGUARD_LEDGER_LABEL=label,
    ) as played:
        yield played


def reload(stage: Stage) -> str:
    """HUP: the keeper is one of those that end, and hands its session on."""
    with _host(stage) as played:
        old = played.master.workers()
        played.master.signal(signal.SIGHUP)
        played.master.until_workers(WORKERS, without=old)
        played.master.until_warm(WORKERS, played.floor)
        until(lambda: len(stage.backends()) == WORKERS * played.floor)
    return played.seen()


def all_killed(stage: Stage) -> str:
    """``kill -9`` of each worker, one after the other: one of them is the keeper."""
    with _host(stage, kills=True) as played:
        for pid in played.master.workers():
            os.kill(pid, signal.SIGKILL)
            played.master.until_workers(WORKERS, without={pid})
            played.master.until_warm(WORKERS, played.floor)
    return played.seen()


EVENTS: Mapping[str, Event] = {"fleet: HUP": reload, "fleet: kill -9 of all": all_killed}
