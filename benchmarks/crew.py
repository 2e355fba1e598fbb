"""A crew: a gunicorn whose workers are all of one kind, behind no pool, psycopg_pool or poolguard.

Boots and reloads are measured on crews, and what a worker takes of memory and, with nothing to do,
of the processor. On Linux alone, whose /proc tells it.
"""

from __future__ import annotations

import compileall
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Literal

import poolguard
from poolguard.errors import LabError
from poolguard.lab.janitor import descendants, processes
from poolguard.lab.server import Gunicorn, listen

from .server import Database, database
from .table import Progress, Table, show

Who = Literal["nothing", "psycopg_pool", "poolguard"]

CONNECT_DELAY = 0.15
MAX_CONNECTIONS = 400
"""The server's: all that is here at once must fit, several times over."""
ANSWERED_WITHIN = 60.0


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

    def __str__(self) -> str:
        if self.who == "nothing":
            return f"{self.worker_class}: no pool"
        sdk = ", SDK" if self.telemetry else ""
        return f"{self.worker_class}, {self.size}: {self.who}{sdk}"

    def environ(self, dsn: str, folder: Path) -> dict[str, str]:
        environ = {
            "CREW_WHO": self.who,
            "CREW_CLASS": self.worker_class,
            "CREW_WORKERS": str(self.workers),
            "CREW_SIZE": str(self.size),
            "CREW_TELEMETRY": str(folder) if self.telemetry else "",
            "CREW_IMPORT": str(self.import_seconds),
            "CREW_WAITS": str(int(self.waits)),
            "DATABASE_URL": dsn,
        }
        if self.who == "poolguard":
            environ |= {
                "POOLGUARD_RUNTIME_DIR": str(folder / "run"),
                "POOLGUARD_BUDGET": str(max(60, 2 * self.workers * self.size)),
                "POOLGUARD_FLOOR": str(self.size),
            }
        return environ


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, and how long all is played."""

    database: Database
    quick: bool
    say: Callable[[str], None]

    @contextmanager
    def running(self, crew: Crew, *, far: bool = False) -> Iterator[Gunicorn]:
        """*crew*, when it answers; *far* from its server. Raises LabError where it does not."""
        janitor, dsn = self.database.janitor, self.database.far if far else self.database.role
        folder = janitor.folder()
        with (
            listen() as listener,  # its backlog takes requests from the start
            Gunicorn(
                "benchmarks.apps.service:app",
                "benchmarks.apps.service_conf",
                listener=listener,
                folder=folder,
                environ=crew.environ(dsn, folder),
                janitor=janitor,
            ) as server,
        ):
            server.wait_healthy()
            yield server


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


def ask(server: Gunicorn, requests: int) -> None:
    """Have some requests answered, one after the other."""
    for _ in range(requests):
        connection = HTTPConnection(*server.address, timeout=ANSWERED_WITHIN)
        connection.request("GET", "/")
        if (status := connection.getresponse().status) != 200:
            raise LabError(f"a request was answered {status}: the workers have no database")
        connection.close()


def measure(
    name: str,
    parts: Mapping[str, Callable[[Stage], Table]],
    chosen: Collection[str],
    *,
    quick: bool,
) -> dict[str, Table]:
    """Measure the *chosen* parts, or all, with the code compiled as an installation has it."""
    for package in (Path(poolguard.__file__).parent, Path(__file__).parent):
        compileall.compile_dir(package, quiet=2)
    settings = {"max_connections": str(MAX_CONNECTIONS)}
    with database("crew", connect_delay=CONNECT_DELAY, settings=settings) as there:

        def stage(progress: Progress) -> Stage:
            return Stage(there, quick, progress)

        return show(name, parts, chosen, stage)
