"""Reloads (HUP) under load: what requests they fail, and how long they make one wait.

Many in a row, and more load than a boot leaves room for: a race of the server's shows only then,
and not each time.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import statistics
from time import monotonic

from poolguard.lab.janitor import Janitor
from poolguard.lab.load import drive
from poolguard.lab.story import Arrival

from ..table import Progress, Row, Table
from .frame import CLASSES, Site, floor_of, gunicorn, one_connect

__all__ = ["run"]

WORKERS = 2
RATE = 300
ROUNDS, RELOADS = 2, 10
SETTLED, APART, OVER = 1.0, 2.0, 3.0
"""Seconds of load before the first reload, from one to the next, and after the last one began."""


def run(dsn: str, janitor: Janitor, progress: Progress, *, quick: bool) -> Table:
    """Measure. Without poolguard there is a psycopg_pool of the same size in each worker."""
    rounds, reloads = (1, 2) if quick else (ROUNDS, RELOADS)
    connect = one_connect(dsn)
    sites = [
        Site(name, guarded, floor_of(name), WORKERS)
        for name in CLASSES
        for guarded in (False, True)
    ]
    slowest: dict[Site, list[float]] = {site: [] for site in sites}
    failed: dict[Site, list[float]] = {site: [] for site in sites}
    for nth in range(rounds):
        for site in sites[:: -1 if nth % 2 else 1]:
            progress(f"round {nth + 1} of {rounds}, {site.worker_class}")
            each, failures = _reload(site, reloads, dsn, janitor)
            slowest[site].append(statistics.median(each))
            failed[site].append(failures)
    rows = []
    for name in CLASSES:
        without, behind = (
            Site(name, guarded, floor_of(name), WORKERS) for guarded in (False, True)
        )
        pairs = zip(slowest[without], slowest[behind], strict=True)
        figures = {
            "failed, without": failed[without],
            "failed": failed[behind],
            "slowest, without, s": slowest[without],
            "slowest, s": slowest[behind],
            "longer, connects": [(b - w) / connect for w, b in pairs],
        }
        goals = {"failed": 0.0, "longer, connects": 1.0}
        rows.append(Row(name.rpartition(".")[2], figures, goals))
    title = (
        f"reload: HUP of {WORKERS} workers {reloads} times, {APART:g} s apart, at {RATE} "
        f"requests/s, a connect takes {connect * 1e3:.0f} ms; of {_requests(reloads)} requests"
    )
    return Table(title, rows, ["slowest: of the requests around one reload, the median"])


def _requests(reloads: int) -> int:
    return round(RATE * (SETTLED + (reloads - 1) * APART + OVER))


def _reload(site: Site, reloads: int, dsn: str, janitor: Janitor) -> tuple[list[float], int]:
    """The slowest request around each reload, in seconds from when it was meant to start, and how
    many requests failed."""
    arrivals = [Arrival(nth / RATE, "reload") for nth in range(_requests(reloads))]
    times = [SETTLED + nth * APART for nth in range(reloads)]
    due = [*times]
    with gunicorn(site, dsn, janitor) as running:
        running.wait_healthy()

        def reload(at: float) -> None:
            if due and at >= due[0]:
                del due[0]
                os.kill(running.pid, signal.SIGHUP)

        samples, _ = asyncio.run(
            drive(running.address, arrivals, began=monotonic() + 0.2, progress=reload)
        )
    slowest = [
        max(sample.latency for sample in samples if begin <= sample.at < end)
        for begin, end in zip([0.0, *times[1:]], [*times[1:], math.inf], strict=True)
    ]
    return slowest, sum(sample.failed for sample in samples)
