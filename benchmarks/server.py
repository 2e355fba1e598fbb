"""The server that benchmarks share: private, without passwords, and as far away as they want it."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from psycopg.conninfo import make_conninfo

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.lab.server import Gunicorn

from .kinds import got

CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""


@dataclass(frozen=True, slots=True)
class Database:
    """The server, a role of its own, and a proxy that makes connecting slow."""

    server: PrivatePostgres
    proxy: SlowProxy
    janitor: Janitor
    role: str
    """The role's conninfo, straight to the server."""

    @property
    def near(self) -> str:
        """The way over the server's own socket."""
        return make_conninfo(self.role, host=str(self.server.folder))

    @property
    def far(self) -> str:
        """The way through the proxy."""
        return make_conninfo(self.role, host=self.proxy.host, port=self.proxy.port)

    @contextmanager
    def network(self, *, connect_delay: float, round_trip: float = 0.0) -> Iterator[None]:
        """Another network for a while."""
        self.proxy.set(connect_delay=connect_delay, latency=round_trip / 2)
        try:
            yield
        finally:
            self.proxy.set(connect_delay=CONNECT_DELAY, latency=0.0)

    def gunicorn(self, listener: socket.socket, environ: dict[str, str], folder: Path) -> Gunicorn:
        """The service that *environ* describes."""
        return Gunicorn(
            "benchmarks.apps.service:app",
            "benchmarks.apps.service_conf",
            listener=listener,
            folder=folder,
            environ=environ,
            janitor=self.janitor,
        )


@contextmanager
def database(
    role: str, *, connect_delay: float = CONNECT_DELAY, settings: Mapping[str, str] | None = None
) -> Iterator[Database]:
    """A server with these *settings*, which ends with the block."""
    with (
        Janitor() as janitor,
        PrivatePostgres(settings=settings, janitor=janitor) as server,
        SlowProxy(("127.0.0.1", server.port), connect_delay=connect_delay) as proxy,
    ):
        conninfo = server.create_role(role)
        _trust(server)
        yield Database(server, proxy, janitor, conninfo)


async def one_connect(connection: Any, conninfo: str) -> float:
    """Seconds that a connect takes while nothing else happens: the unit of what is compared.

    *connection* is a class of psycopg's, sync or async.
    """
    took = []
    for _ in range(5):
        began = perf_counter()
        conn = await got(connection.connect(conninfo))
        took.append(perf_counter() - began)
        await got(conn.close())
    return statistics.median(took)


def _trust(server: PrivatePostgres) -> None:
    """Ask for no password any more.

    Hashing it 4096 times, on both sides, would be done by the very cores that everything else runs
    on here, and make a burst of connects slower than over a network.
    """
    rules = server.folder / "data" / "pg_hba.conf"
    rules.write_text(rules.read_text().replace("scram-sha-256", "trust"))
    server.restart()
