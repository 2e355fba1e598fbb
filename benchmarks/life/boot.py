"""From gunicorn's start to its first answer, in connects, with poolguard and without."""

from __future__ import annotations

from time import perf_counter

from poolguard.lab.janitor import Janitor

from ..table import Progress, Row, Table
from .frame import CLASSES, Site, floor_of, gunicorn, one_connect

__all__ = ["run"]

ROUNDS = 7
IMPORT = 0.5
"""Seconds of the interpreter's own that the slow application takes to import."""


def run(dsn: str, janitor: Janitor, progress: Progress, *, quick: bool) -> Table:
    """Measure; the request needs no database, so what is compared is the boot alone."""
    rounds = 1 if quick else ROUNDS
    connect = one_connect(dsn)
    took: dict[Site, list[float]] = {}
    for nth in range(rounds):
        for site in _sites()[:: -1 if nth % 2 else 1]:
            progress(f"round {nth + 1} of {rounds}, {site.worker_class}")
            took.setdefault(site, []).append(_boot(site, dsn, janitor))
    rows = []
    for slow in (0.0, IMPORT):
        for worker_class in CLASSES:
            without, behind = (
                took[Site(worker_class, guarded, floor_of(worker_class), import_seconds=slow)]
                for guarded in (False, True)
            )
            longer = [(b - w) / connect for w, b in zip(without, behind, strict=True)]
            hidden = slow and worker_class in ("sync", "gthread")
            name = worker_class.rpartition(".")[2] + (f", import of {slow:g} s" if slow else "")
            figures = {"without, s": without, "poolguard, s": behind, "longer, connects": longer}
            rows.append(Row(name, figures, {"longer, connects": 0.2 if hidden else 1.0}))
    title = f"boot: to the first answer, a connect takes {connect * 1e3:.0f} ms"
    note = "longer: than without, in connects; where the import hides it, 0.2 is within the noise"
    return Table(title, rows, [note])


def _sites() -> list[Site]:
    return [
        Site(worker_class, guarded, floor_of(worker_class), import_seconds=slow)
        for slow in (0.0, IMPORT)
        for worker_class in CLASSES
        for guarded in (False, True)
    ]


def _boot(site: Site, dsn: str, janitor: Janitor) -> float:
    began = perf_counter()
    with gunicorn(site, dsn, janitor) as running:
        running.wait_healthy()
        return perf_counter() - began
