"""The control session of a host: a connection that only its keeper's thread uses.

It is opened, asked and closed by calls that wait. Each is bounded, also where the network has lost
the connection and nothing comes back.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from .statements import CONTROL_TIMEOUT

if TYPE_CHECKING:
    import psycopg

__all__ = ["CONNECT_TIMEOUT", "Connect", "Control", "Lost", "Row"]

CONNECT_TIMEOUT = 3
"""Seconds that the login of a control session may take."""
KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
"""libpq's parameters. The host has to notice before its server does (:data:`.statements.SILENCE`)
that they do not hear each other: what it was granted ends with its session there."""

Connect: TypeAlias = "Callable[[str, Mapping[str, Any]], psycopg.Connection[Any]]"
"""Opens a connection to the ledger's database, given its application_name and more parameters.

It raises :exc:`Lost`, with a text that may be shown, where that fails."""

Row: TypeAlias = Mapping[str, Any]


class Lost(Exception):
    """The control session has ended, or does not answer, or cannot be had.

    :param again: seconds until it is worth another attempt, at least.
    """

    def __init__(self, why: str, again: float = 0.0) -> None:
        super().__init__(why)
        self.again = again


class Control:
    """One control session, opened with *connect*. Raises :exc:`Lost` where that fails.

    :param name: its first ``application_name``.
    """

    def __init__(self, connect: Connect, name: str) -> None:
        self.heard: list[str] = []
        """The notifications that have come, the oldest first."""
        self.asked = 0
        """Statements that it was asked."""
        self.waits: Callable[[], None] = lambda: None
        """Called about once a second while an answer is waited for."""
        self._conn = connect(name, {**KEEPALIVES, "connect_timeout": CONNECT_TIMEOUT})
        self._pgconn = self._conn.pgconn
        self._pgconn.notify_handler = self._hear

    def __repr__(self) -> str:
        return f"<Control {'ended' if self._conn.closed else self.fileno()}>"

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return int(self._pgconn.socket)

    @property
    def pid(self) -> int:
        """The session's pid, as it was told at login: by a pooler, where one stands between."""
        return int(self._pgconn.backend_pid)

    @property
    def default_label(self) -> str:
        """The name of a fleet that was given none: that of the session's role and database."""
        return f"{self._conn.info.user}@{self._conn.info.dbname}"

    def ask(self, *statements: str) -> list[list[Row]]:
        """Have the server run *statements*, as one message and one transaction; the rows of each.

        Integers, floats, booleans and lists of integers have these types. Raises :exc:`Lost` where
        the session ends, or the answer does not come in time.
        """
        from psycopg import Error
        from psycopg.generators import execute
        from psycopg.pq import ExecStatus

        from ..queries import rows_of

        self.asked += 1
        try:
            self._pgconn.send_query("; ".join(statements).encode())
            results = self._waited(execute(self._pgconn), monotonic() + CONTROL_TIMEOUT)
            for result in results:
                if result.status == ExecStatus.FATAL_ERROR:
                    raise Lost(" ".join(result.get_error_message().split()))
        except Error as error:
            raise Lost(_told(error)) from error
        return [rows_of(result) for result in results]

    def listen(self) -> None:
        """Take in what has come without being asked for. Raises :exc:`Lost` at the end of it."""
        from psycopg import Error

        try:
            self._pgconn.consume_input()
            while (note := self._pgconn.notifies()) is not None:
                self._hear(note)
        except Error as error:
            raise Lost(_told(error)) from error

    def close(self) -> None:
        """End the session."""
        with suppress(Exception):
            self._conn.close()

    def leave_open(self) -> None:
        """Close this process' part alone. Other processes that have its socket keep the session."""
        with suppress(Exception):
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, self.fileno(), inheritable=False)  # so that libpq sends no farewell
            os.close(null)
        self.close()

    def _hear(self, note: Any) -> None:
        self.heard.append(note.extra.decode(errors="replace"))

    def _waited(self, generator: Generator[Any, Any, Any], until: float) -> Any:
        """Run a generator of psycopg's to its end, but no longer than *until*."""
        from psycopg.waiting import Ready, Wait

        fileno = self.fileno()
        try:
            wants = next(generator)
            while True:
                poll = select.poll()  # by its module: gevent's, where that has replaced it
                events = (select.POLLIN if wants & Wait.R else 0) | (
                    select.POLLOUT if wants & Wait.W else 0
                )
                poll.register(fileno, events)
                while not (found := poll.poll(min(1.0, max(0.0, until - monotonic())) * 1000.0)):
                    if monotonic() >= until:
                        raise Lost(f"no answer within {CONTROL_TIMEOUT:g} s")
                    self.waits()
                event = found[0][1]
                ready = (Ready.R if event & ~select.POLLOUT else 0) | (
                    Ready.W if event & select.POLLOUT else 0
                )
                wants = generator.send(ready)
        except StopIteration as stop:
            return stop.value


def _told(error: BaseException) -> str:
    from ...util.escape import escaped

    return escaped(" ".join(str(error).split())) or type(error).__name__
