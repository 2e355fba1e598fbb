"""From gunicorn's start until all of its 1 to 16 workers are warm, a connect being slow."""

from __future__ import annotations

from statistics import mean, median
from time import perf_counter

import psycopg

from ..crew import Crew, Stage, Who
from ..processes import processor
from ..table import Row, Table

__all__ = ["run"]

ROUNDS = 5
WORKERS = (1, 4, 16)
SIZE = 4
WHOS: tuple[Who, ...] = ("nothing", "psycopg_pool", "psycopg_pool tuned", "poolguard")
CLASSES = ("gthread", "asgi")
GOAL = 1.0
"""Connects: the goal of ``life.boot``, however many workers boot at once."""


def run(stage: Stage) -> Table:
    """Measure; a worker is ready when it has its connections and is about to accept."""
    rounds = 1 if stage.quick else ROUNDS
    crews = [
        Crew(who, worker_class, workers, SIZE)
        for worker_class in CLASSES
        for workers in (WORKERS[1:2] if stage.quick else WORKERS)
        for who in WHOS
    ]
    connect = _one_connect(stage.far)
    took: dict[Crew, list[float]] = {crew: [] for crew in crews}
    ran: dict[Crew, list[float]] = {crew: [] for crew in crews}
    for nth in range(rounds):
        for crew in crews[:: -1 if nth % 2 else 1]:
            stage.say(f"round {nth + 1} of {rounds}, {crew.workers} of {crew}")
            with stage.running(crew, dsn=stage.far) as running:
                took[crew].append(running.seconds)
                ran[crew].append(mean(processor(pid) for pid in running.pids))
    rows = []
    for crew in crews:
        figures = {"all ready, s": took[crew], "a worker's processor, ms": ran[crew]}
        if crew.who == "poolguard":
            peer = Crew("psycopg_pool tuned", crew.worker_class, crew.workers, SIZE)
            figures["longer, connects"] = [
                (ours - theirs) / connect
                for ours, theirs in zip(took[crew], took[peer], strict=True)
            ]
        who = crew.who if crew.who != "nothing" else "no pool"
        goals = {"longer, connects": GOAL} if crew.who == "poolguard" else {}
        rows.append(Row(f"{crew.worker_class}, {crew.workers} worker(s): {who}", figures, goals))
    title = f"boot: until all workers are ready with {SIZE} connections each, a connect takes "
    notes = [
        "longer: than psycopg_pool tuned; it waits for its connections too, and opens as many at "
        "once as it wants, where psycopg_pool opens three",
        "a worker's processor: from the fork until it is ready",
    ]
    return Table(f"{title}{connect * 1e3:.0f} ms", rows, notes)


def _one_connect(dsn: str) -> float:
    took = []
    for _ in range(5):
        began = perf_counter()
        psycopg.connect(dsn).close()
        took.append(perf_counter() - began)
    return median(took)
