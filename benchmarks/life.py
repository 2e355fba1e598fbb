"""``life``: how long a worker boots, and what reloads cost, with poolguard and without.

Without it there is a psycopg_pool of the same size in each worker. Every connect goes through a
proxy that makes it slow.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from time import monotonic, perf_counter

from psycopg import Connection

from poolguard.lab import load
from poolguard.lab.story import Arrival

from .crew import Crew, Part, Stage, measure
from .kinds import drive
from .readme import Digest, Place
from .server import one_connect
from .table import Row, Table, turns

CLASSES = ("sync", "gthread", "gevent", "asgi", "uvicorn_worker.UvicornWorker")
IN_THREADS = ("sync", "gthread")
BOOTS = 7
CROWD, CROWDS = 16, 9
IMPORT = 0.5
"""Seconds of the interpreter's own that the slow application takes to import."""

WORKERS = 2
RATE = 300
ROUNDS, RELOADS = 2, 10
SETTLED, APART, OVER = 1.0, 2.0, 3.0
"""Seconds of load before the first reload, from one to the next, and after the last one began.

Many reloads in a row, and more load than a boot leaves room for: a race of the server's shows only
then, and not each time."""


def _pair(worker_class: str, workers: int = 1, import_seconds: float = 0.0) -> tuple[Crew, Crew]:
    """Without poolguard and with it: as many connections as the class uses at once."""
    size = 1 if worker_class == "sync" else 4
    without = Crew(
        "psycopg_pool", worker_class, workers, size, import_seconds=import_seconds, waits=False
    )
    return without, replace(without, who="poolguard")


def _boot(stage: Stage) -> Table:
    """The request needs no database, so what is compared is the boot alone.

    psycopg_pool as its documentation has it, and waiting for its connections: what that makes a
    boot longer, any pool must that is warm before the first request.
    """
    connect = drive(one_connect(Connection, stage.database.far))
    pairs = [_pair(name, import_seconds=slow) for slow in (0.0, IMPORT) for name in CLASSES]
    waiting = {without: replace(without, waits=True) for without, _ in pairs[: len(CLASSES)]}
    crews = [*(each for pair in pairs for each in pair), *waiting.values()]
    acts = {each: partial(_booted, stage, each) for each in crews}
    took = turns(1 if stage.quick else BOOTS, acts)
    rows = []
    for without, behind in pairs:
        slow, worker_class = behind.import_seconds, behind.worker_class

        def longer(crew: Crew, than: Crew = without) -> list[float]:
            return [(b - w) / connect for w, b in zip(took[than], took[crew], strict=True)]

        figures = {"without, s": took[without], "poolguard, s": took[behind]}
        if without in waiting:
            figures["waiting, s"] = took[waiting[without]]
            figures["waiting: longer, connects"] = longer(waiting[without])
        figures["longer, connects"] = longer(behind)
        in_threads = worker_class in IN_THREADS
        hidden = slow and in_threads
        goals = {"longer, connects": 0.2 if hidden else 1.15 if in_threads else 1.0}
        rows.append(Row(_name(worker_class, slow), figures, goals))
    title = f"boot: to the first answer, a connect takes {connect * 1e3:.0f} ms"
    notes = [
        "longer: than without, in connects; where the import hides it, 0.2 is within the noise",
        "waiting: psycopg_pool, too, has all its connections before its worker serves",
    ]
    return Table(title, rows, notes)


def _booted(stage: Stage, each: Crew) -> float:
    began = perf_counter()
    with stage.running(each, far=True, all_of_it=each.workers > 1):
        return perf_counter() - began


def _crowd(stage: Stage) -> Table:
    """Many workers on few processors: what each one computes while it boots, all of them wait for.

    gunicorn itself pauses between two forks, by chance, for up to 0.1 s.
    """
    connect = drive(one_connect(Connection, stage.database.far))
    pairs = [tuple(replace(each, waits=True) for each in _pair(name, CROWD)) for name in IN_THREADS]
    sharing = [replace(behind, shares_driver=True) for _, behind in pairs]
    crews = [*(each for pair in pairs for each in pair), *sharing]
    acts = {each: partial(_booted, stage, each) for each in crews}
    took = turns(1 if stage.quick else CROWDS, acts)
    rows = []
    for without, behind in [*pairs, *zip((pair[0] for pair in pairs), sharing, strict=True)]:
        figures = {
            "without, s": took[without],
            "poolguard, s": took[behind],
            "longer, connects": [
                (b - w) / connect for w, b in zip(took[without], took[behind], strict=True)
            ],
        }
        shares = ", psycopg in the master" if behind.shares_driver else ""
        goals = {} if shares else {"longer, connects": 1.3}
        rows.append(Row(f"{behind.worker_class}{shares}", figures, goals))
    title = f"crowd: until {CROWD} workers are ready, a connect takes {connect * 1e3:.0f} ms"
    note = "without: a psycopg_pool that has all its connections, too, before its worker serves"
    return Table(title, rows, [note])


def _name(worker_class: str, slow: float = 0.0) -> str:
    return worker_class.rpartition(".")[2] + (f", import of {slow:g} s" if slow else "")


def _reload(stage: Stage) -> Table:
    """SIGHUP under load: which requests fail, and how long the slowest one waits."""
    rounds, reloads = (1, 2) if stage.quick else (ROUNDS, RELOADS)
    connect = drive(one_connect(Connection, stage.database.far))
    pairs = [_pair(name, WORKERS) for name in CLASSES]
    acts = {each: partial(_reloaded, stage, each, reloads) for pair in pairs for each in pair}
    played = turns(rounds, acts)
    slowest = {each: [statistics.median(of) for of, _ in played[each]] for each in acts}
    failed = {each: [failures for _, failures in played[each]] for each in acts}
    rows = []
    for without, behind in pairs:
        times = zip(slowest[without], slowest[behind], strict=True)
        figures = {
            "failed, without": failed[without],
            "failed": failed[behind],
            "slowest, without, s": slowest[without],
            "slowest, s": slowest[behind],
            "longer, connects": [(b - w) / connect for w, b in times],
        }
        goals = {"failed": 0.0, "longer, connects": 1.0}
        rows.append(Row(_name(behind.worker_class), figures, goals))
    title = (
        f"reload: HUP of {WORKERS} workers {reloads} times, {APART:g} s apart, at {RATE} "
        f"requests/s, a connect takes {connect * 1e3:.0f} ms; of {_requests(reloads)} requests"
    )
    return Table(title, rows, ["slowest: of the requests around one reload, the median"])


def _requests(reloads: int) -> int:
    return round(RATE * (SETTLED + (reloads - 1) * APART + OVER))


def _reloaded(stage: Stage, each: Crew, reloads: int) -> tuple[list[float], float]:
    """The slowest request around each reload, in seconds from when it was meant to start, and how
    many requests failed."""
    arrivals = [Arrival(nth / RATE, "reload") for nth in range(_requests(reloads))]
    times = [SETTLED + nth * APART for nth in range(reloads)]
    due = [*times]
    with stage.running(each, far=True) as running:

        def reload(at: float) -> None:
            if due and at >= due[0]:
                del due[0]
                os.kill(running.pid, signal.SIGHUP)

        samples, _ = asyncio.run(
            load.drive(running.address, arrivals, began=monotonic() + 0.2, progress=reload)
        )
    slowest = [
        max(sample.latency for sample in samples if begin <= sample.at < end)
        for begin, end in zip([0.0, *times[1:]], [*times[1:], math.inf], strict=True)
    ]
    return slowest, float(sum(sample.failed for sample in samples))


PARTS: Mapping[str, Part] = {"boot": _boot, "crowd": _crowd, "reload": _reload}
run = partial(measure, "life", PARTS)


_HUP = f"HUP of {WORKERS} workers at {RATE} requests/s: the slowest, without, s"
_FAILED = f"failed of {_requests(RELOADS):,} around {RELOADS} reloads, without / with"
_CROWD = f"{CROWD} workers, without / with, s"
_ROWS = (
    ("to the first answer, without, s", "boot", 0.0, "without, s"),
    ("a psycopg_pool that waits for its connections, s", "boot", 0.0, "waiting, s"),
    ("with poolguard: warm, s", "boot", 0.0, "poolguard, s"),
    ("where the application takes 0.5 s to import, without, s", "boot", IMPORT, "without, s"),
    ("where it takes 0.5 s to import, with poolguard, s", "boot", IMPORT, "poolguard, s"),
    (_CROWD, "crowd", 0.0, "without, s", "poolguard, s"),
    (_HUP, "reload", 0.0, "slowest, without, s"),
    ("HUP with poolguard: the slowest, s", "reload", 0.0, "slowest, s"),
    (_FAILED, "reload", 0.0, "failed, without", "failed"),
)
DIGEST = Digest(
    [_name(each) for each in CLASSES],
    {
        row: [[Place(part, _name(each, slow), figure) for figure in figures] for each in CLASSES]
        for row, part, slow, *figures in _ROWS
    },
)
