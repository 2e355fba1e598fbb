"""What an event of the matrix is played on: one worker class, its server, and who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeAlias

import psycopg

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy

from ..doors.server import Door, Server

__all__ = ["CONNECT_DELAY", "Event", "Stage"]

CONNECT_DELAY = 0.15
"""Seconds that a connect takes longer through :meth:`Stage.network`."""


class Stage:
    """Starts gunicorn of one worker class, over a network of its own, and ends what it started.

    :attr:`name` is the ``application_name`` of all its connections.
    """

    def __init__(
        self, door: Door, event: str, *, postgres: PrivatePostgres, janitor: Janitor, folder: Path
    ) -> None:
        self.door = door
        self.postgres = postgres
        self.folder = folder
        self.name = f"{event}-{door}"
        self._janitor = janitor
        self._ending = ExitStack()
        self.admin: psycopg.Connection = self._ending.enter_context(postgres.connect())

    def close(self) -> None:
        self._ending.close()

    def dsn(self, proxy: SlowProxy | None = None) -> str:
        """The way to the server, through *proxy* where one is given."""
        if proxy is None:
            return self.postgres.conninfo(application_name=self.name)
        return self.postgres.conninfo(host=proxy.host, port=proxy.port, application_name=self.name)

    @contextmanager
    def network(self, connect_delay: float = CONNECT_DELAY) -> Iterator[SlowProxy]:
        """A network that can be made slow, and cut."""
        target = ("127.0.0.1", self.postgres.port)
        with SlowProxy(target=target, connect_delay=connect_delay) as proxy:
            yield proxy

    def serve(
        self, dsn: str, *, port: int | None = None, door: Door | None = None, **environ: str
    ) -> Server:
        """gunicorn, until the event is over; *environ* are further variables of its environment.

        *port* has it bind that port itself: after USR2 no other master inherits a descriptor.
        *door* is the same worker class with another application or more threads.
        """
        folder = Path(mkdtemp(dir=self.folder))
        server = Server(
            door or self.door, environ, janitor=self._janitor, folder=folder, dsn=dsn, port=port
        )
        self._ending.callback(server.close)
        return server

    def backends(self) -> list[int]:
        """The server processes of this event's connections now."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY pid"
        return [pid for (pid,) in self.admin.execute(query, [self.name]).fetchall()]

    def asleep(self) -> list[int]:
        """Those of them that are in the query of a request for ``/sleep``."""
        query = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = %s AND wait_event = 'PgSleep' ORDER BY pid"
        )
        return [pid for (pid,) in self.admin.execute(query, [self.name]).fetchall()]


Event: TypeAlias = Callable[[Stage], str]
"""Plays itself and asserts what must hold; returns in a few words what was seen, for the table."""


@dataclass(frozen=True)
class Cell:
    """One event under one worker class."""

    door: Door
    name: str
    event: Event
