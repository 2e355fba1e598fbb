"""What a worker that has nothing to do takes of the processor: upkeep, and its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter, sleep

from ..crew import Crew, Running, Stage
from ..processes import processor
from ..table import Row, Table

__all__ = ["run"]

ROUNDS = 2
SECONDS = 75.0
"""Of a round: three times poolguard's ``check_interval``."""
QUICK = 0.5
CLASSES = ("sync", "gthread", "asgi")
SIZES = (1, 10, 60)
WITH_SDK = 10


def run(stage: Stage) -> Table:
    """Measure all at once, in the very same minutes: they do next to nothing."""
    crews = _crews(CLASSES[1:2] if stage.quick else CLASSES)
    rounds, seconds = (1, QUICK) if stage.quick else (ROUNDS, SECONDS)
    took: dict[Crew, list[float]] = {crew: [] for crew in crews}
    with ExitStack() as stack:
        running: dict[Crew, Running] = {}
        for crew in crews:
            stage.say(f"starting {crew}")
            running[crew] = stack.enter_context(stage.running(crew))
        for crew in crews:
            running[crew].ask(1)
        for nth in range(rounds):
            stage.say(f"round {nth + 1} of {rounds}: {seconds:g} s of nothing")
            for crew, ms in _idle(running, seconds).items():
                took[crew].append(ms)
    rows = []
    for crew in crews:
        figures = {"ms a minute": took[crew]}
        if crew.who == "poolguard":
            peer = Crew("psycopg_pool", crew.worker_class, 1, crew.size, crew.telemetry)
            figures["more"] = [a - b for a, b in zip(took[crew], took[peer], strict=True)]
        rows.append(Row(str(crew), figures))
    notes = [
        f"in {rounds} × {seconds:g} s, of all threads of the worker; more: than psycopg_pool; a "
        "gunicorn worker without any pool wakes by itself, to tell its master that it lives",
    ]
    return Table("idle: processor time of a worker without requests, all at once", rows, notes)


def _crews(classes: Sequence[str]) -> list[Crew]:
    crews = []
    for worker_class in classes:
        crews.append(Crew("nothing", worker_class))
        for who in ("psycopg_pool", "poolguard"):
            sizes = SIZES[:1] if worker_class == "sync" else SIZES
            crews += [Crew(who, worker_class, size=size) for size in sizes]
            if worker_class != "sync":
                crews.append(Crew(who, worker_class, size=WITH_SDK, telemetry=True))
    return crews


def _idle(running: Mapping[Crew, Running], seconds: float) -> dict[Crew, float]:
    """Milliseconds of the processor that each one's worker has used, as of a minute."""
    before = {crew: processor(each.pids[0]) for crew, each in running.items()}
    began = perf_counter()
    sleep(seconds)  # what is measured is that nothing happens
    after = {crew: processor(each.pids[0]) for crew, each in running.items()}
    minutes = (perf_counter() - began) / 60
    return {crew: (after[crew] - before[crew]) / minutes for crew in running}
