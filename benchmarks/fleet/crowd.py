"""A part of ``faults``: several hosts that join in one moment, where the budget is all lent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from time import monotonic
from typing import Any

from poolguard.budget.fleet.room import room_for_pools

from ..table import Row, say
from .clients import Clients, queries
from .hosts import EVERY, ROLE, field, until
from .stage import Stage
from .watch import Above, Scene

__all__ = ["crowd"]

BUDGET, HOSTS, MORE = 40, 3, 6
WORKERS, THREADS, FLOOR = 2, 8, 1
QUERY = 0.3, 0.9
"""Seconds: long enough for the processor to be idle most of the time, though all are in use."""
ROUNDS = 5


def crowd(stage: Stage) -> Iterator[Row]:
    """They join a fleet whose budget is all lent."""
    rounds = 1 if stage.quick else ROUNDS
    settings: dict[str, Any] = {"budget": BUDGET, "threads": THREADS, "POOLGUARD_FLOOR": str(FLOOR)}
    took: list[float] = []
    above: list[Above] = []
    with (
        field() as there,
        there.sampler(BUDGET, every=EVERY) as sampler,
        Clients(queries(*QUERY), stage.seed) as clients,
        stage.record.diary(there.server.dsn, ROLE, BUDGET),
    ):
        scene = Scene(there, clients, sampler, WORKERS * FLOOR, settings)
        with closing(scene.watch):
            scene.join(HOSTS, WORKERS * THREADS)
            for nth in range(rounds):
                say(f"{MORE} join at once, round {nth + 1} of {rounds}")
                began = monotonic()
                took.append(_joined_at_once(scene))
                above.append(Above.of([*sampler.series], BUDGET, began))
        for host in list(there.hosts):
            clients.withdraw(host)
    failed = [reply for reply in clients.replies if reply.status != 200]
    stage.record.tell("at once", sampler, failed)
    figures: dict[str, Sequence[float]] = {
        "seconds": took,
        "peak": [sampler.peak],
        "over": [len(sampler.over)],
        "failed": [len(failed)],
    }
    who = f"{MORE} hosts join at once, where all of {BUDGET} is lent"
    yield Row(f"{who}: the last has its floors", figures)
    figures = {
        "seconds": [each.seconds for each in above],
        "too many": [each.most for each in above],
    }
    yield Row(f"{who}: above the budget", figures)


def _joined_at_once(scene: Scene) -> float:
    """Seconds from the first one's control session until the last has its floors."""
    there, full = scene.there, room_for_pools(BUDGET, HOSTS)
    scene.watch.until(lambda sight: len(sight.names) >= full)
    time.sleep(1.0)  # all have looked since the last ones have left
    gate = there.janitor.folder() / "gate"
    os.mkfifo(gate)
    hosts = [there.start(**scene.settings, FLEET_GATE=str(gate)) for _ in range(MORE)]
    until(lambda: all("Using worker" in each.server.log() for each in hosts), "all are at the gate")
    time.sleep(0.5)  # none of them is still on its way there
    begins = os.open(gate, os.O_RDWR)
    began = scene.watch.until(lambda sight: len(sight.controls) > HOSTS)
    ended = scene.watch.until(
        lambda sight: all(sight.is_well(each.name, scene.floors) for each in hosts)
    )
    os.close(begins)
    for each in hosts:
        each.wait_ready()
        there.leave(each)
    scene.watch.until(lambda sight: len(sight.controls) == HOSTS)
    return ended - began
