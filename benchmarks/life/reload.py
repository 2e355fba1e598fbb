"""A reload (HUP) under load: what requests it fails, and how long it makes one wait."""

from __future__ import annotations

import asyncio
import os
import signal
from time import monotonic

from poolguard.lab.janitor import Janitor
from poolguard.lab.load import drive
from poolguard.lab.story import Arrival

from ..table import Progress, Row, Table
from .frame import CLASSES, Site, floor_of, gunicorn, one_connect

__all__ = ["run"]

ROUNDS = 5
RATE = 40
SECONDS = 4.0
RELOADED_AT = 1.0


def run(dsn: str, janitor: Janitor, progress: Progress, *, quick: bool) -> Table:
    """Measure. Without poolguard there is a psycopg_pool of the same size in each worker."""
    rounds = 1 if quick else ROUNDS
    connect = one_connect(dsn)
    sites = [
        Site(name, guarded, floor_of(name), 2) for name in CLASSES for guarded in (False, True)
    ]
    stall: dict[Site, list[float]] = {site: [] for site in sites}
    failed: dict[Site, list[float]] = {site: [] for site in sites}
    for nth in range(rounds):
        for site in sites[:: -1 if nth % 2 else 1]:
            progress(f"round {nth + 1} of {rounds}, {site.worker_class}")
            slowest, failures = _reload(site, dsn, janitor)
            stall[site].append(slowest)
            failed[site].append(failures)
    rows = []
    for name in CLASSES:
        without, behind = (Site(name, guarded, floor_of(name), 2) for guarded in (False, True))
        longer = [(b - w) / connect for w, b in zip(stall[without], stall[behind], strict=True)]
        figures = {
            "failed, without": failed[without],
            "failed": failed[behind],
            "slowest, without, s": stall[without],
            "slowest, s": stall[behind],
            "longer, connects": longer,
        }
        goals = {"failed": 0.0, "longer, connects": 1.0}
        rows.append(Row(name.rpartition(".")[2], figures, goals))
    title = (
        f"reload: HUP of 2 workers at {RATE} requests/s, a connect takes "
        f"{connect * 1e3:.0f} ms; of {round(RATE * SECONDS)} requests"
    )
    return Table(title, rows, [])


def _reload(site: Site, dsn: str, janitor: Janitor) -> tuple[float, int]:
    """The slowest request's seconds, from when it was meant to start, and how many failed."""
    arrivals = [Arrival(nth / RATE, "reload") for nth in range(round(RATE * SECONDS))]
    with gunicorn(site, dsn, janitor) as running:
        running.wait_healthy()
        due = [RELOADED_AT]

        def reload(at: float) -> None:
            if due and at >= due[0]:
                due.clear()
                os.kill(running.pid, signal.SIGHUP)

        samples, _ = asyncio.run(
            drive(running.address, arrivals, began=monotonic() + 0.2, progress=reload)
        )
    failures = sum(sample.failed for sample in samples)
    return max(sample.latency for sample in samples), failures
