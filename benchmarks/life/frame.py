"""What boots and reloads have in common: the worker classes, and gunicorn with or without hooks."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psycopg

from poolguard.lab.janitor import Janitor
from poolguard.lab.server import Gunicorn, listen

__all__ = ["CLASSES", "CONNECT_DELAY", "Site", "floor_of", "gunicorn", "one_connect"]

CONNECT_DELAY = 0.15
CLASSES = ("sync", "gthread", "gevent", "asgi", "uvicorn_worker.UvicornWorker")


@dataclass(frozen=True, slots=True)
class Site:
    """What is booted."""

    worker_class: str
    guarded: bool
    floor: int
    workers: int = 1
    import_seconds: float = 0.0

    @property
    def environ(self) -> dict[str, str]:
        return {
            "BENCH_CLASS": self.worker_class,
            "BENCH_GUARDED": str(int(self.guarded)),
            "BENCH_FLOOR": str(self.floor),
            "BENCH_WORKERS": str(self.workers),
            "BENCH_IMPORT": str(self.import_seconds),
        }


def one_connect(dsn: str) -> float:
    """Seconds that a connect takes while nothing else happens: the unit of what is compared."""
    took = []
    for _ in range(5):
        began = perf_counter()
        psycopg.connect(dsn).close()
        took.append(perf_counter() - began)
    return statistics.median(took)


def floor_of(worker_class: str) -> int:
    """As many connections as the class uses at once, as poolguard has it."""
    return 1 if worker_class == "sync" else 4


@contextmanager
def gunicorn(site: Site, dsn: str, janitor: Janitor) -> Iterator[Gunicorn]:
    """One gunicorn with a listener of its own, whose backlog takes requests from the start."""
    with tempfile.TemporaryDirectory() as folder, listen() as listener:
        environ = {
            **site.environ,
            "DATABASE_URL": dsn,
            "POOLGUARD_RUNTIME_DIR": str(Path(folder) / "run"),
            "POOLGUARD_BUDGET": "60",
            "POOLGUARD_FLOOR": str(site.floor),
        }
        if not site.guarded:
            environ = {k: v for k, v in environ.items() if not k.startswith("POOLGUARD_")}
        with Gunicorn(
            "benchmarks.apps.life:app",
            "benchmarks.apps.life_conf",
            listener=listener,
            folder=Path(folder),
            environ=environ,
            janitor=janitor,
        ) as running:
            yield running
