"""A fleet's field: one server, and hosts that are a gunicorn each, behind a link of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal

from psycopg.conninfo import make_conninfo

from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.network import Link, Network
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.processes import descendants, processes
from poolguard.lab.server import WebServer, listen
from poolguard.lab.sessions import SessionSampler

from .clients import Clients

__all__ = ["ROLE", "Field", "Host", "field", "until"]

ROLE = "fleet"
MAX_CONNECTIONS = 160
"""The server's: far more than any budget, so that what exceeds one is seen."""
EVERY = 0.004
"""Seconds from one count of all sessions to the next."""
CLIENTS = 8
_TRUST = "local all all trust\nhost all all all trust\nhost replication all all trust\n"
_LISTENS = "00010000"
"""The flag of a Unix socket that listens, in /proc/net/unix."""


def until(true: Callable[[], object], what: str, within: float = 30.0, every: float = 0.01) -> None:
    """Wait until something is so. Raises LabError where it takes too long."""
    end = monotonic() + within
    while not true():
        if monotonic() > end:
            raise LabError(f"not within {within:g} s: {what}")
        sleep(every)


class Host:
    """One gunicorn, with a runtime folder of its own, as *name* at the end of *link*."""

    def __init__(
        self, name: str, link: Link, dsn: str, janitor: Janitor, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.link = link
        self.folder = janitor.folder()
        self._listener = listen()
        fd = self._listener.fileno()
        self.server = WebServer(
            [
                *(*link.prefix, sys.executable, "-m", "gunicorn"),
                *("--config", "python:benchmarks.apps.fleet_conf", "--bind", f"fd://{fd}"),
                "benchmarks.apps.fleet:app",
            ],
            listener=self._listener,
            log=self.folder / "log",
            environ={
                "DATABASE_URL": dsn,
                "POOLGUARD_RUNTIME_DIR": str(self.folder / "run"),
                **environ,
            },
            janitor=janitor,
        )
        self.address = self.server.address

    def __repr__(self) -> str:
        return f"<Host {self.name} master {self.server.pid}>"

    def wait_ready(self) -> None:
        """Wait until a worker serves. Raises LabError where none does."""
        self.server.wait_healthy()
        # From now on only gunicorn listens: when it has ended, clients are refused.
        self._listener.close()

    def get(self, path: str) -> Any:
        """What some worker tells, as JSON."""
        connection = HTTPConnection(*self.address, timeout=10.0)
        try:
            connection.request("GET", f"/{path}", headers={"Connection": "close"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def workers(self) -> set[int]:
        """The living workers."""
        table = processes()
        return {pid for pid in descendants([self.server.pid], table) if not table[pid].zombie}

    def keeper(self) -> int | None:
        """The worker that keeps the control session; None where none does at the moment.

        It is the one that listens for those who ask for a copy of it.
        """
        for pid in self.workers():
            with suppress(OSError):
                if self._keeps(pid):
                    return pid
        return None

    def _keeps(self, pid: int) -> bool:
        process = Path("/proc", str(pid))
        listening = {
            f"socket:[{words[6]}]"
            for line in (process / "net" / "unix").read_text().splitlines()
            if (words := line.split())[-1].endswith(".keeper") and words[3] == _LISTENS
        }
        if not listening:
            return False
        return any(_points_to(fd, listening) for fd in (process / "fd").iterdir())

    def signal(self, number: int, pids: Collection[int] = ()) -> None:
        """Signal these *pids*, or by default gunicorn's master."""
        for pid in pids or (self.server.pid,):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def signal_all(self, number: int) -> None:
        """Signal all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.server.pid, number)

    def leave(self) -> None:
        """End as a service does, and wait for it."""
        self.server.stop(timeout=40.0)
        self.gone()

    def kill(self) -> None:
        """End at once."""
        self.signal_all(signal.SIGKILL)
        self.server.stop()
        self.gone()

    def gone(self) -> None:
        """Take away what is left of it."""
        self._listener.close()
        self.link.close()


class Field:
    """The server, and the hosts that live."""

    def __init__(
        self, server: PrivatePostgres, network: Network, janitor: Janitor, stack: ExitStack
    ) -> None:
        self.server = server
        self._stack = stack
        self.network = network
        self.janitor = janitor
        self.hosts: dict[str, Host] = {}
        self._role = server.create_role(ROLE)
        self._names = (f"h{n}" for n in count(1))

    def start(
        self,
        *,
        ledger: Literal["host", "fleet"] = "fleet",
        budget: int = 20,
        workers: int = 2,
        threads: int = 4,
        place: tuple[str, int] | None = None,
        **environ: str,
    ) -> Host:
        """A new host, which is not waited for.

        :param place: where it finds the server, if not at the end of its link.
        """
        name = next(self._names)
        link = self.network.link(name, self.server.port)
        address, port = place or link.place
        dsn = make_conninfo(self._role, host=address, port=port, application_name=name)
        settings = {
            "FLEET_WORKERS": str(workers),
            "FLEET_THREADS": str(threads),
            "POOLGUARD_LEDGER": ledger,
            "POOLGUARD_BUDGET": str(budget),
        }
        host = Host(name, link, dsn, self.janitor, {**settings, **environ})
        self.hosts[name] = host
        return host

    def started(self, n: int, **settings: Any) -> list[Host]:
        """So many new hosts, when they serve."""
        hosts = [self.start(**settings) for _ in range(n)]
        for host in hosts:
            host.wait_ready()
        return hosts

    def leave(self, host: Host, clients: Clients | None = None) -> None:
        """Have *host* end. Its clients are sent elsewhere before, as a balancer does it."""
        if clients is not None:
            clients.stop(host.name)
            sleep(0.1)  # a request that was sent has been accepted by then
        host.leave()
        self.hosts.pop(host.name, None)
        if clients is not None:
            clients.withdraw(host.name)

    def replaced(self, server: PrivatePostgres) -> None:
        """Another server is at the address of the one that was."""
        self._stack.push(server)
        self.server = server

    def sampler(self, budget: int, every: float = EVERY) -> SessionSampler:
        """Counts all sessions of the hosts, their control sessions included."""
        return SessionSampler(self.server.dsn, role=ROLE, every=every, limit=budget)


@contextmanager
def field(*, real: bool | None = None, **settings: str) -> Iterator[Field]:
    """A server with these *settings*, and a network; the hosts end with the block."""
    with ExitStack() as stack:
        janitor = stack.enter_context(Janitor())
        network = stack.enter_context(Network(janitor, real=real))
        wanted = {"max_connections": str(MAX_CONNECTIONS), **settings}
        server = stack.enter_context(
            PrivatePostgres(settings=wanted, addresses=network.addresses, janitor=janitor)
        )
        (server.folder / "data" / "pg_hba.conf").write_text(_TRUST)
        server.restart()
        there = Field(server, network, janitor, stack)
        try:
            yield there
        finally:
            for host in there.hosts.values():
                host.signal_all(signal.SIGCONT)
                host.kill()


def _points_to(fd: Path, wanted: Collection[str]) -> bool:
    try:
        return os.readlink(fd) in wanted
    except OSError:
        return False
