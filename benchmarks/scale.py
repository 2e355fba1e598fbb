"""``scale``: what grows with threads and with connections, beside psycopg_pool in the same run.

*threads*: 1 to 64 threads that borrow. *idle*: workers that have nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter, sleep

from poolguard.lab.server import Gunicorn

from .crew import Crew, Part, Stage, ask, kinds, measure, worker
from .processes import measured, processor
from .table import Row, Table, ratios, say

THREADS = (1, 8, 64)
SHARERS = 4
"""Threads to a connection where they contend."""
TURNS = 15
BORROWINGS = 6400
"""Of all threads together in a turn."""
GOALS = {(8, 2): {"ratio": 0.8}}
"""By the numbers of threads and connections."""


def _threads(stage: Stage) -> Table:
    """What a request's borrowing costs, in a fresh process for each number of threads."""
    sizes = [(n, n // sharers) for n in THREADS for sharers in (1, SHARERS)[: 1 + (n > 1)]]
    title = "threads: one `with connection()`, all threads together, in µs"
    notes = [
        "they contend: four threads to a connection, and each lets the others go on while it "
        "holds one; otherwise each finds one free, and gives it back at once",
        f"a turn has {BORROWINGS} borrowings; the ratios are those of neighbouring turns",
    ]
    return Table(title, [row for size in sizes for row in _rows(stage, *size)], notes)


def _rows(stage: Stage, threads: int, size: int) -> Iterator[Row]:
    say(f"{threads} threads, {size} connections")
    turns, borrowings = (1, 128) if stage.quick else (TURNS, BORROWINGS)
    folder = stage.database.janitor.folder()
    numbers = (threads, size, turns, borrowings)
    found: dict[str, list[float]] = measured(
        "benchmarks.apps.borrowing", stage.database.role, folder, *numbers
    )
    plain, ours = found["plain"], found["ours"]
    name = f"{threads} thread(s), {size} connection(s)"
    yield Row(f"{name}: psycopg_pool", {"µs": plain})
    figures = {"µs": ours, "ratio": ratios(ours, plain)}
    yield Row(f"{name}: poolguard", figures, GOALS.get((threads, size), {}))


ROUNDS = 2
SECONDS = 75.0
"""Of a round: three times poolguard's ``check_interval``."""
QUICK = 0.5
CLASSES = (("gthread", (1, 10, 60)), ("sync", (1,)), ("asgi", (1, 10, 60)))
"""The sizes of their pools."""


def _idle(stage: Stage) -> Table:
    """What a worker without requests takes of the processor, for upkeep and for its status.

    All are measured in the same minutes, since they do next to nothing.
    """
    crews = [
        each for name, sizes in CLASSES[: 1 if stage.quick else None] for each in kinds(name, sizes)
    ]
    rounds, seconds = (1, QUICK) if stage.quick else (ROUNDS, SECONDS)
    took: dict[Crew, list[float]] = {crew: [] for crew in crews}
    with ExitStack() as stack:
        running: dict[Crew, Gunicorn] = {}
        for crew in crews:
            say(f"starting {crew}")
            running[crew] = stack.enter_context(stage.running(crew))
        for crew in crews:
            ask(running[crew], 1)
        for nth in range(rounds):
            say(f"round {nth + 1} of {rounds}: {seconds:g} s of nothing")
            for crew, ms in _used(running, seconds).items():
                took[crew].append(ms)
    rows = []
    for crew in crews:
        figures = {"ms a minute": took[crew]}
        if crew.who == "poolguard":
            peer = replace(crew, who="psycopg_pool")
            figures["more"] = [a - b for a, b in zip(took[crew], took[peer], strict=True)]
        rows.append(Row(str(crew), figures))
    notes = [
        f"in {rounds} × {seconds:g} s, of all threads of the worker; more: than psycopg_pool; a "
        "gunicorn worker without any pool wakes by itself, to tell its master that it lives"
    ]
    return Table("idle: processor time of a worker without requests, all at once", rows, notes)


def _used(running: Mapping[Crew, Gunicorn], seconds: float) -> dict[Crew, float]:
    """Milliseconds of the processor that each one's worker has used, as of a minute."""
    before = {crew: processor(worker(each)) for crew, each in running.items()}
    began = perf_counter()
    sleep(seconds)  # what is measured is that nothing happens
    after = {crew: processor(worker(each)) for crew, each in running.items()}
    minutes = (perf_counter() - began) / 60
    return {crew: (after[crew] - before[crew]) / minutes for crew in running}


PARTS: Mapping[str, Part] = {"threads": _threads, "idle": _idle}
run = partial(measure, "scale", PARTS)
