"""Reloads (HUP) under load: what requests they fail, and how long they make one wait."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic

from poolguard.lab.janitor import Janitor
from poolguard.lab.load import drive
from poolguard.lab.story import Arrival

from ..table import Progress, Row, Table
from .frame import CLASSES, Site, floor_of, gunicorn, one_connect

__all__ = ["in_a_row", "once"]

WORKERS = 2
SETTLED = 1.0
"""Seconds of load before the first reload."""
OVER = 3.0
"""Seconds of load after the last one began, by which its old workers are gone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What the gunicorns go through."""

    classes: Sequence[str]
    rounds: int
    rate: int
    """Requests per second."""
    reloads: int = 1
    apart: float = 0.0
    """Seconds from one reload to the next."""

    @property
    def due(self) -> list[float]:
        return [SETTLED + nth * self.apart for nth in range(self.reloads)]

    @property
    def requests(self) -> int:
        return round(self.rate * (self.due[-1] + OVER))


ONCE = Trial(CLASSES, rounds=5, rate=40)
IN_A_ROW = Trial(CLASSES[-2:], rounds=2, rate=300, reloads=20, apart=2.0)
"""More load than a boot leaves room for: a race of the server's shows only then, and not each time.
"""


def once(dsn: str, janitor: Janitor, progress: Progress, *, quick: bool) -> Table:
    """One reload of each gunicorn, of every class. Without poolguard there is a psycopg_pool of the
    same size in each worker."""
    return _table(replace(ONCE, rounds=1) if quick else ONCE, dsn, janitor, progress)


def in_a_row(dsn: str, janitor: Janitor, progress: Progress, *, quick: bool) -> Table:
    """Many reloads of one gunicorn, one after the other, of the classes that serve by asyncio."""
    trial = replace(IN_A_ROW, rounds=1, reloads=2) if quick else IN_A_ROW
    return _table(trial, dsn, janitor, progress)


def _table(trial: Trial, dsn: str, janitor: Janitor, progress: Progress) -> Table:
    connect = one_connect(dsn)
    sites = [
        Site(name, guarded, floor_of(name), WORKERS)
        for name in trial.classes
        for guarded in (False, True)
    ]
    slowest: dict[Site, list[float]] = {site: [] for site in sites}
    failed: dict[Site, list[float]] = {site: [] for site in sites}
    for nth in range(trial.rounds):
        for site in sites[:: -1 if nth % 2 else 1]:
            progress(f"round {nth + 1} of {trial.rounds}, {site.worker_class}")
            each, failures = _reloads(trial, site, dsn, janitor)
            slowest[site].append(statistics.median(each))
            failed[site].append(failures)
    rows = []
    for name in trial.classes:
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
    times = "" if trial.reloads == 1 else f" {trial.reloads} times, {trial.apart:g} s apart,"
    title = (
        f"reload: HUP of {WORKERS} workers{times} at {trial.rate} requests/s, a connect takes "
        f"{connect * 1e3:.0f} ms; of {trial.requests} requests"
    )
    notes = [] if trial.reloads == 1 else ["slowest: of the requests around one reload, the median"]
    return Table(title, rows, notes)


def _reloads(trial: Trial, site: Site, dsn: str, janitor: Janitor) -> tuple[list[float], int]:
    """The slowest request around each reload, in seconds from when it was meant to start, and how
    many requests failed."""
    arrivals = [Arrival(nth / trial.rate, "reload") for nth in range(trial.requests)]
    due = trial.due
    with gunicorn(site, dsn, janitor) as running:
        running.wait_healthy()

        def reload(at: float) -> None:
            if due and at >= due[0]:
                del due[0]
                os.kill(running.pid, signal.SIGHUP)

        samples, _ = asyncio.run(
            drive(running.address, arrivals, began=monotonic() + 0.2, progress=reload)
        )
    failures = sum(sample.failed for sample in samples)
    ends = [*trial.due[1:], float("inf")]  # the first one's time is from the start of the load
    begins = [0.0, *trial.due[1:]]
    slowest = [
        max(sample.latency for sample in samples if begin <= sample.at < end)
        for begin, end in zip(begins, ends, strict=True)
    ]
    return slowest, failures
