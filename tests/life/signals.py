"""Events of the matrix: signals to the master, under a light load that must not notice."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..doors.server import SYNC, Server
from ..support import alive, until
from .stage import Event, Stage
from .watching import WITHIN, Master, Traffic, census, free_port

__all__ = ["EVENTS", "WORKERS", "Scene", "scene"]

WORKERS = 2
LONGEST_STALL = 20.0
"""Seconds. The new workers import for a second or two, each on a share of a busy machine."""


@dataclass(frozen=True)
class Scene:
    """Two warm workers under load."""

    floor: int
    server: Server
    master: Master
    traffic: Traffic
    ending: ExitStack
    """What is to end when the load has ended."""

    def seen(self) -> str:
        """For the table: the longest gap between answers, and which requests were not warm."""
        spans = self.server.server_spans("/query")
        outcomes = Counter(str(span.tags.get("outcome")) for span in spans)
        cold = [f"{n} {each}" for each, n in sorted(outcomes.items()) if each != "acquired"]
        cut = [f"{n} cut"] if (n := len(self.traffic.failed())) else []
        return ", ".join([f"stall {self.traffic.stall():.1f} s", *cold, *cut])


@contextmanager
def scene(
    stage: Stage,
    *,
    generations: int,
    left: int = 0,
    patience: int = 10,
    kills: bool = False,
    **environ: Any,
) -> Iterator[Scene]:
    """Begin the load; in the end no request has failed, and the budget was kept.

    The budget has room for the floors of so many *generations* of workers, and for *left* more.
    Workers wait *patience* seconds to be warm, and some are killed where there are *kills*.
    *environ* are further variables of theirs.
    """
    floor = 1 if stage.door is SYNC else 3
    budget = generations * WORKERS * floor + left
    with stage.network() as network:
        server = stage.serve(
            stage.dsn(network),
            port=free_port(),
            POOLGUARD_BUDGET=str(budget),
            POOLGUARD_FLOOR=str(floor),
            TEST_WORKERS=str(WORKERS),
            POOLGUARD_WARMUP_TIMEOUT=str(patience),
            TEST_HEED_WINCH="1",
            **environ,
        )
        master = Master(server)
        with census(stage) as counted:
            master.until_warm(WORKERS, floor)
            with Traffic(server.port) as traffic:
                traffic.until_more()
                with ExitStack() as ending:
                    yield Scene(floor, server, master, traffic, ending)
                    traffic.until_more()
                    traffic.stop()
    assert traffic.refused(stage.door, kills=kills) == [], server.said()
    assert floor * WORKERS <= counted.peak <= budget
    assert traffic.stall() < LONGEST_STALL
    assert not server.lines("Traceback")


def reload(stage: Stage) -> str:
    """HUP: the old workers go and new ones serve, with a warm pool each."""
    with scene(stage, generations=2) as played:
        old = played.master.workers()
        played.master.signal(signal.SIGHUP)
        played.master.until_workers(WORKERS, without=old)
        played.master.until_warm(WORKERS, played.floor)
        until(lambda: len(stage.backends()) == WORKERS * played.floor)
    return played.seen()


def reload_in_reload(stage: Stage) -> str:
    """HUP while the workers of a HUP boot and those before them drain."""
    with scene(stage, generations=2) as played:
        old = played.master.workers()
        played.master.signal(signal.SIGHUP)
        until(lambda: len(played.master.workers() - old) == WORKERS, within=WITHIN)
        between = played.master.workers()
        played.master.signal(signal.SIGHUP)
        played.master.until_workers(WORKERS, without=old | between)
        played.master.until_warm(WORKERS, played.floor)
        until(lambda: len(stage.backends()) == WORKERS * played.floor)
    return played.seen()


def one_more_and_one_less(stage: Stage) -> str:
    """TTIN: the third worker serves with the one connection left. TTOU: back to two floors."""
    with scene(stage, generations=1, left=1, patience=2) as played:
        old = played.master.workers()
        played.master.signal(signal.SIGTTIN)
        (added,) = played.master.until_workers(WORKERS + 1) - old

        def serves() -> bool:
            status = played.master.statuses().get(added, {})
            return bool(status.get("ready") and status["acquires"].get("acquired"))

        until(serves, within=WITHIN)
        until(lambda: len(stage.backends()) == WORKERS * played.floor + 1)
        played.master.signal(signal.SIGTTOU)
        played.master.until_workers(WORKERS)
        played.master.until_warm(WORKERS, played.floor)
        until(lambda: len(stage.backends()) == WORKERS * played.floor)
    return played.seen()


def replaced(stage: Stage) -> str:
    """USR2, WINCH to the old master, then QUIT: the new one's workers serve, with warm pools."""
    with scene(stage, generations=2) as played:
        successor = played.ending.enter_context(played.master.successor())
        successor.until_workers(WORKERS)
        successor.until_warm(WORKERS, played.floor)
        played.master.signal(signal.SIGWINCH)
        until(lambda: not played.master.workers(), within=WITHIN)
        played.traffic.until_more()
        played.master.signal(signal.SIGQUIT)
        assert played.server.wait() == 0
        until(lambda: len(stage.backends()) == WORKERS * played.floor)
        assert alive(successor.pid)
        warm = successor.statuses().values()
        assert all(set(each["created"]) == {"warmup"} for each in warm), warm
    return played.seen()


EVENTS: Mapping[str, Event] = {
    "HUP": reload,
    "HUP in HUP": reload_in_reload,
    "TTIN, TTOU": one_more_and_one_less,
    "USR2, WINCH, QUIT": replaced,
}
