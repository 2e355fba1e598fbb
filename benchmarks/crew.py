"""A crew: a gunicorn whose workers are all of one kind, from its start until all are ready.

What grows with workers and connections is measured on crews: how long they boot, what each worker
takes of memory and, with nothing to do, of the processor. On Linux alone, whose /proc tells it.
"""

from __future__ import annotations

import compileall
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, perf_counter
from typing import Literal

import poolguard
from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.lab.server import Gunicorn, listen

from .server import trust
from .table import Progress, Table

__all__ = ["CONNECT_DELAY", "Crew", "Running", "Stage", "Who", "measure", "stage"]

Who = Literal["nothing", "psycopg_pool", "psycopg_pool tuned", "poolguard"]

CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""
MAX_CONNECTIONS = 400
"""The server's: all that is here at once must fit, several times over."""
READY_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Crew:
    """What its workers have."""

    who: Who
    worker_class: str = "gthread"
    workers: int = 1
    size: int = 1
    """Connections that each worker holds open; it may borrow as many again."""
    telemetry: bool = False

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
            "CREW_READY": str(folder / "ready"),
            "DATABASE_URL": dsn,
        }
        if self.who == "poolguard":
            environ |= {
                "POOLGUARD_RUNTIME_DIR": str(folder / "run"),
                "POOLGUARD_BUDGET": str(2 * self.workers * self.size),
                "POOLGUARD_FLOOR": str(self.size),
            }
        return environ


@dataclass(frozen=True, slots=True)
class Running:
    """A crew of which all are ready."""

    pids: tuple[int, ...]
    """The workers'."""
    master: int
    seconds: float
    """From gunicorn's start until the last was ready."""
    runtime_dir: Path
    address: tuple[str, int]

    def ask(self, requests: int) -> None:
        """Have some requests answered, one after the other."""
        for _ in range(requests):
            connection = HTTPConnection(*self.address, timeout=READY_WITHIN)
            connection.request("GET", "/")
            if (status := connection.getresponse().status) != 200:
                raise LabError(f"a request was answered {status}: the workers have no database")
            connection.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, and how long all is played."""

    dsn: str
    """The way to it."""
    far: str
    """The way through a proxy that makes connecting slow."""
    janitor: Janitor
    quick: bool
    say: Callable[[str], None]

    @contextmanager
    def running(self, crew: Crew, *, dsn: str | None = None) -> Iterator[Running]:
        """*crew*, all of it ready. Raises :exc:`~poolguard.errors.LabError` where it is not."""
        folder = self.janitor.folder()
        with listen() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(folder / "ready"))
            began = perf_counter()
            with Gunicorn(
                "benchmarks.apps.crew:app",
                "benchmarks.apps.crew_conf",
                listener=listener,
                folder=folder,
                environ=crew.environ(dsn or self.dsn, folder),
                janitor=self.janitor,
            ) as server:
                pids = _ready(told, crew, server)
                took = perf_counter() - began
                yield Running(pids, server.pid, took, folder / "run", server.address)


def _ready(told: socket.socket, crew: Crew, server: Gunicorn) -> tuple[int, ...]:
    until = monotonic() + READY_WITHIN
    pids: list[int] = []
    ended = os.pidfd_open(server.pid)
    try:
        while len(pids) < crew.workers:
            ready, _, _ = select.select(
                [told.fileno(), ended], [], [], max(until - monotonic(), 0.0)
            )
            if told.fileno() not in ready:
                raise LabError(
                    f"{len(pids)} of {crew.workers} workers ({crew}) were ready, then gunicorn "
                    f"{'ended' if ready else f'took more than {READY_WITHIN:g} s'}: "
                    f"{server.last_words()}"
                )
            pids.append(int(told.recv(32)))
    finally:
        os.close(ended)
    return tuple(pids)


@contextmanager
def stage(progress: Progress, *, quick: bool) -> Iterator[Stage]:
    """A private PostgreSQL, near and far, and the code compiled as an installation has it."""
    for package in (Path(poolguard.__file__).parent, Path(__file__).parent):
        compileall.compile_dir(package, quiet=2)
    with (
        Janitor() as janitor,
        PrivatePostgres(
            settings={"max_connections": str(MAX_CONNECTIONS)}, janitor=janitor
        ) as server,
        SlowProxy(("127.0.0.1", server.port), connect_delay=CONNECT_DELAY) as proxy,
    ):
        role = server.create_role("crew")
        trust(server)
        far = f"{role} host={proxy.host} port={proxy.port}"
        yield Stage(role, far, janitor, quick, progress)


def measure(
    name: str, parts: Mapping[str, Callable[[Stage], Table]], chosen: tuple[str, ...], quick: bool
) -> dict[str, object]:
    """Measure the *chosen* parts, or all, and print a table of each; returns plain data."""
    progress = Progress()
    tables: dict[str, object] = {}
    missed: list[str] = []
    with stage(progress, quick=quick) as on:
        for part in chosen or parts:
            progress.part = f"{name}.{part}"
            table = parts[part](on)
            progress.clear()
            print(f"\n{table}", flush=True)
            tables[part] = table.as_json()
            missed += [f"{part} ({row.who})" for row in table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"parts": tables}
