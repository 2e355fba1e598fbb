"""A crew: a gunicorn whose workers are all of one kind, behind no pool, psycopg_pool or poolguard.

Boots and reloads are measured on crews, and what a worker takes of memory and, with nothing to do,
of the processor. On Linux alone, whose /proc tells it.
"""

from __future__ import annotations

import compileall
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from typing import Literal

import poolguard
from poolguard.errors import LabError
from poolguard.lab.processes import descendants, processes
from poolguard.lab.server import Gunicorn, WebServer, listen

from .server import Database, database
from .table import Table, show

Who = Literal["nothing", "psycopg_pool", "poolguard"]

CONNECT_DELAY = 0.15
MAX_CONNECTIONS = 400
"""The server's: all that is here at once must fit, several times over."""
ANSWERED_WITHIN = 60.0
BOOTED = "booted"
"""The file in which each worker notes that it is ready to serve, but for a lifespan."""


@dataclass(frozen=True, slots=True)
class Crew:
    """What its workers have."""

    who: Who
    worker_class: str = "gthread"
    workers: int = 1
    size: int = 1
    """Connections that each worker holds open; with poolguard it may borrow as many again."""
    telemetry: bool = False
    """OpenTelemetry's SDK is set up."""
    import_seconds: float = 0.0
    """How long the interpreter works on the import of the application."""
    waits: bool = True
    """psycopg_pool has all of its connections before its worker serves, as poolguard has."""
    shares_driver: bool = False
    """gunicorn.conf.py imports psycopg, and no worker has to."""

    def __str__(self) -> str:
        if self.who == "nothing":
            return f"{self.worker_class}: no pool"
        more = f"{', SDK' * self.telemetry}{', psycopg in the master' * self.shares_driver}"
        return f"{self.worker_class}, {self.size}: {self.who}{more}"

    def environ(self, dsn: str, folder: Path) -> dict[str, str]:
        sync = self.worker_class in ("sync", "gthread", "gevent")
        apps = {"nothing": "nothing", "poolguard": "guarded" if sync else "guarded_async"}
        return {
            "SERVICE_APP": apps.get(self.who, "psycopg_sync" if sync else "psycopg_async"),
            "SERVICE_CLASS": self.worker_class,
            "SERVICE_WORKERS": str(self.workers),
            "SERVICE_THREADS": "8" if self.worker_class == "gthread" else "1",
            "SERVICE_SIZE": str(self.size),
            "SERVICE_SETTING": "warm" if self.waits else "opening",
            "SERVICE_QUERY": "0",
            "SERVICE_HOUR": "3600",
            "SERVICE_IMPORT": str(self.import_seconds),
            "SERVICE_TELEMETRY": str(folder) if self.telemetry else "",
            "SERVICE_SHARES": "psycopg" if self.shares_driver else "",
            "SERVICE_BOOTED": str(folder / BOOTED),
            "DATABASE_URL": dsn,
            "POOLGUARD_RUNTIME_DIR": str(folder / "run"),
            "POOLGUARD_BUDGET": str(max(60, 2 * self.workers * self.size)),
            "POOLGUARD_FLOOR": str(self.size),
        }


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, and how long all is played."""

    database: Database
    quick: bool

    @contextmanager
    def running(
        self, crew: Crew, *, far: bool = False, all_of_it: bool = False
    ) -> Iterator[Gunicorn]:
        """*crew*, when it answers, or when *all of it* is ready to; *far* from its server. Raises
        LabError where it does not."""
        folder = self.database.janitor.folder()
        environ = crew.environ(self.database.far if far else self.database.role, folder)
        # The listener's backlog takes requests from the start.
        with listen() as listener, self.database.gunicorn(listener, environ, folder) as server:
            server.wait_healthy()
            if all_of_it:
                _wait_booted(folder / BOOTED, crew.workers)
            yield server


def _wait_booted(file: Path, workers: int) -> None:
    until = monotonic() + ANSWERED_WITHIN
    while file.stat().st_size < workers:
        if monotonic() > until:
            raise LabError(f"of {workers} workers {file.stat().st_size} are ready")
        sleep(0.01)


Part = Callable[[Stage], Table]
"""Measures one table."""


def kinds(worker_class: str, sizes: Sequence[int], *, with_sdk: int = 0) -> list[Crew]:
    """Workers without a pool, and with each pool of each size; one size also with the SDK."""
    whos: tuple[Who, Who] = ("psycopg_pool", "poolguard")
    return [
        Crew("nothing", worker_class),
        *(Crew(who, worker_class, size=size) for size in sizes for who in whos),
        *(Crew(who, worker_class, size=with_sdk, telemetry=True) for who in whos if with_sdk),
    ]


def worker(server: Gunicorn) -> int:
    """The pid of the one worker."""
    [pid] = descendants([server.pid], processes())
    return pid


def ask(server: WebServer, requests: int) -> None:
    """Have some requests answered, one after the other."""
    for _ in range(requests):
        connection = HTTPConnection(*server.address, timeout=ANSWERED_WITHIN)
        connection.request("GET", "/")
        if (status := connection.getresponse().status) != 200:
            raise LabError(f"a request was answered {status}: the workers have no database")
        connection.close()


def measure(
    name: str, parts: Mapping[str, Part], *chosen: str, quick: bool = False
) -> dict[str, Table]:
    """Measure the *chosen* parts, or all."""
    for folder in (*poolguard.__path__, str(Path(__file__).parent)):
        compileall.compile_dir(folder, quiet=1)  # as pip leaves a package that it has installed
    settings = {"max_connections": str(MAX_CONNECTIONS)}
    with database("crew", connect_delay=CONNECT_DELAY, settings=settings) as there:
        return show(name, parts, chosen, Stage(there, quick))
