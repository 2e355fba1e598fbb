"""One session with a stand-in for a server: reads what psycopg sends, and answers by the script."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..budget.queries import PREFACE
from .script import Query, Reply, Script, Unscripted, spelled
from .wire import (
    Column,
    Reader,
    columns_of,
    complete,
    data_row,
    error,
    message,
    python_value,
    row_description,
)

if TYPE_CHECKING:
    from psycopg import Error

__all__ = ["LOST", "Session"]

LOST = (OSError, EOFError)
"""What is raised where the client has gone."""
FIRST_PID = 1000
LAST_WORD = 0.5
"""Seconds that it takes at most to say why a session ends."""
IDLE, OPEN, FAILED = b"I", b"T", b"E"
_BEGINS = re.compile(r"(BEGIN|START TRANSACTION)\b", re.IGNORECASE)
_ENDS = re.compile(
    r"(COMMIT|END|ROLLBACK|ABORT)\b(?!\s+(WORK\s+|TRANSACTION\s+)?TO\b)", re.IGNORECASE
)
_TO_SAVEPOINT = re.compile(r"ROLLBACK\b", re.IGNORECASE)
_OF_SESSION = re.compile(
    r"(SAVEPOINT|RELEASE|SET|RESET|DISCARD|DEALLOCATE|LISTEN|UNLISTEN)\b", re.IGNORECASE
)
_CHANGES = re.compile(r"(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_INTERNAL, _ABORTED = "XX000", "25P02"
_OWN: Mapping[str, tuple[str, ...]] = {
    "pg_backend_pid() AS pid": ("pid", "started"),
    "AS read_only": ("read_only",),
}
"""What poolguard itself asks, by what is found in the question, and what the answer consists of."""


class Told(Protocol):
    """Who is told of what a session sees."""

    def came(self, query: Query) -> None: ...

    def ended(self, *, committed: bool) -> None: ...

    def failed(self, query: Query, why: BaseException | None = None) -> str: ...


class _Failed(Exception):
    """The command is answered with an error."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class _Statement:
    """A prepared statement: its text, and the types of its parameters as the client knows them."""

    def __init__(self, text: str, oids: list[int]) -> None:
        self.text = text
        self.oids = oids


class _Portal:
    """A statement with its parameters; answered when that is asked for first."""

    def __init__(self, text: str, params: tuple[Any, ...], formats: list[int]) -> None:
        self.text = text
        self.params = params
        self.formats = formats
        self.answer: tuple[list[Column] | None, int, str] | None = None


class Session:
    """One connection, served by the thread that calls :meth:`run`."""

    def __init__(self, client: socket.socket, script: Script, told: Told, nth: int) -> None:
        self._client = client
        self._script = script
        self._told = told
        self.pid = FIRST_PID + nth
        self._status = IDLE
        self._sending = threading.Lock()
        self._out = bytearray()
        self._skipping = False
        """An error has come: what is sent before the next Sync is not done."""
        self._statements: dict[str, _Statement] = {}
        self._portals: dict[str, _Portal] = {}

    def __repr__(self) -> str:
        return f"<Session {self.pid} {self._status.decode()}>"

    def end(self, sqlstate: str, text: str) -> None:
        """End it from another thread, with a last word."""
        if self._sending.acquire(timeout=LAST_WORD):  # the client may not read what it was sent
            try:
                with suppress(OSError):
                    self._client.sendall(error("FATAL", sqlstate, text))
            finally:
                self._sending.release()
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def run(self, asked: Mapping[str, str]) -> None:
        """Serve the client until it goes. Raises one of :data:`LOST` where it goes unasked."""
        told = {
            "server_version": "17.0",
            "server_encoding": "UTF8",
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "IntervalStyle": "postgres",
            "TimeZone": "UTC",
            "integer_datetimes": "on",
            "standard_conforming_strings": "on",
            "in_hot_standby": "off",
            "default_transaction_read_only": "off",
            "is_superuser": "off",
            "session_authorization": asked.get("user", ""),
            "application_name": asked.get("application_name", ""),
        }
        self._say(message(b"R", struct.pack("!i", 0)))
        for name, value in told.items():
            self._say(message(b"S", f"{name}\0{value}\0".encode()))
        self._say(message(b"K", struct.pack("!ii", self.pid, 0)))
        self._ready()
        steps = {
            b"P": self._parse,
            b"B": self._bind,
            b"D": self._describe,
            b"E": self._execute,
            b"C": self._close,
        }
        with self._client.makefile("rb") as stream:
            while True:
                head = stream.read(5)
                if len(head) < 5 or head[:1] == b"X":
                    return
                kind, body = head[:1], stream.read(struct.unpack("!I", head[1:])[0] - 4)
                if kind == b"Q":
                    self._query(Reader(body).text())
                elif kind == b"S":
                    self._skipping = False
                    self._ready()
                elif kind == b"H":
                    self._flush()
                elif kind in steps and not self._skipping:
                    self._try(steps[kind], Reader(body))

    # -- sending -------------------------------------------------------------------------------

    def _say(self, told: bytes) -> None:
        self._out += told

    def _flush(self) -> None:
        out, self._out = bytes(self._out), bytearray()
        with self._sending:
            self._client.sendall(out)

    def _ready(self) -> None:
        self._say(message(b"Z", self._status))
        self._flush()

    def _try(self, step: Any, *args: Any) -> bool:
        """Whether a step was done; where not, the client was told of the error."""
        try:
            step(*args)
        except _Failed as failed:
            self._say(error("ERROR", failed.sqlstate, str(failed)))
            self._skipping = True
            if self._status == OPEN:
                self._status = FAILED
            return False
        return True

    # -- the simple protocol -------------------------------------------------------------------

    def _query(self, text: str) -> None:
        if text.startswith(PREFACE):
            self._own(text.removeprefix(PREFACE))
        elif not text.strip(" ;\n"):
            self._say(message(b"I"))
        else:
            portal = _Portal(text, (), [])
            if self._try(self._answer, portal):
                self._tell(portal, described=False)
        self._skipping = False
        self._ready()

    def _own(self, question: str) -> None:
        """poolguard asks: who serves this session, and whether it takes writes."""
        known = {"pid": self.pid, "started": 1.0, "read_only": False}
        names = next((names for mark, names in _OWN.items() if mark in question), ())
        columns = columns_of(names, [[known[name] for name in names]], [])
        self._say(row_description(columns))
        if names:
            self._say(data_row([column.values[0] for column in columns]))
        self._say(complete("SELECT"))

    # -- the extended protocol -----------------------------------------------------------------

    def _parse(self, told: Reader) -> None:
        name, text = told.text(), told.text()
        self._statements[name] = _Statement(text, told.integers(4))
        self._say(message(b"1"))

    def _bind(self, told: Reader) -> None:
        portal, name = told.text(), told.text()
        statement = self._statements.get(name)
        if statement is None:
            raise _Failed("26000", f'prepared statement "{name}" does not exist')
        formats, values = told.integers(), told.values()
        of_each = formats * len(values) if len(formats) == 1 else formats or [0] * len(values)
        oids = [*statement.oids, *[0] * len(values)]
        params = tuple(map(python_value, values, oids, of_each))
        self._portals[portal] = _Portal(statement.text, params, told.integers())
        self._say(message(b"2"))

    def _describe(self, told: Reader) -> None:
        kind, name = told.take(1), told.text()
        if kind == b"S":
            oids = self._statements[name].oids if name in self._statements else []
            self._say(message(b"t", struct.pack(f"!h{len(oids)}i", len(oids), *oids)))
            self._say(message(b"n"))
            return
        portal = self._portal(name)
        self._answer(portal)
        assert portal.answer is not None
        columns = portal.answer[0]
        self._say(message(b"n") if columns is None else row_description(columns))

    def _execute(self, told: Reader) -> None:
        portal = self._portal(told.text())
        if portal.answer is None:
            self._answer(portal)
        self._tell(portal, described=True)

    def _close(self, told: Reader) -> None:
        kind, name = told.take(1), told.text()
        of_kind: dict[str, Any] = self._statements if kind == b"S" else self._portals
        of_kind.pop(name, None)
        self._say(message(b"3"))

    def _portal(self, name: str) -> _Portal:
        if name not in self._portals:
            raise _Failed("34000", f'cursor "{name}" does not exist')
        return self._portals[name]

    # -- answers -------------------------------------------------------------------------------

    def _tell(self, portal: _Portal, *, described: bool) -> None:
        assert portal.answer is not None
        columns, n, tag = portal.answer
        if columns is not None:
            if not described:
                self._say(row_description(columns))
            for row in range(n):
                self._say(data_row([column.values[row] for column in columns]))
        self._say(complete(tag))

    def _answer(self, portal: _Portal) -> None:
        """Find out what a portal is answered with. Raises :exc:`_Failed`."""
        text = portal.text.strip()
        if (done := self._ends_or_begins(text)) is not None:
            portal.answer = (None, 0, done)
            return
        query = Query(spelled(portal.text), portal.params)
        if self._status == FAILED:
            raise _Failed(
                _ABORTED, "current transaction is aborted, commands ignored until its end"
            )
        reply = self._replied(query)
        try:
            if reply.names is None:
                columns = None
            else:
                columns = columns_of(reply.names, reply.rows, portal.formats)
        except Exception as failed:  # noqa: BLE001 - told where the block ends
            raise _Failed(_INTERNAL, self._told.failed(query, failed)) from None
        word = text.split(maxsplit=1)[0].upper().rstrip(";")
        if columns is None and not _CHANGES.match(text):
            tag = word if not reply.changed else f"{word} {reply.changed}"
        elif columns is None or _CHANGES.match(text):
            tag = f"INSERT 0 {reply.changed}" if word == "INSERT" else f"{word} {reply.changed}"
        else:
            tag = f"SELECT {reply.changed}"
        portal.answer = (columns, len(reply.rows), tag)

    def _ends_or_begins(self, text: str) -> str | None:
        """Do what begins or ends a transaction, or goes back in it, and name it; None where *text*
        does none of that."""
        if _BEGINS.match(text):
            self._status = OPEN if self._status == IDLE else self._status
            return "BEGIN"
        if _ENDS.match(text):
            gives_up = text[:1].upper() in "RA" or self._status == FAILED
            if self._status != IDLE:
                self._told.ended(committed=not gives_up)
            self._status = IDLE
            return "ROLLBACK" if gives_up else "COMMIT"
        if _TO_SAVEPOINT.match(text):
            self._status = OPEN
            return "ROLLBACK"
        return None

    def _replied(self, query: Query) -> Reply:
        """What the script says. Raises :exc:`_Failed`, or one of :data:`LOST`."""
        is_plain = _OF_SESSION.match(query.text) is not None
        if not is_plain:
            self._told.came(query)
        try:
            reply = self._script.answer(query)
        except Unscripted:
            if is_plain:
                return Reply(None, (), 0)
            raise _Failed(_INTERNAL, self._told.failed(query)) from None
        except Exception as failed:  # noqa: BLE001 - told where the block ends
            raise _Failed(_INTERNAL, self._told.failed(query, failed)) from None
        if isinstance(reply, Reply):
            return reply
        raise _scripted(reply)


def _scripted(raised: Error) -> Exception:
    """What the script raises, as the session goes on with it."""
    return EOFError() if raised.sqlstate is None else _Failed(raised.sqlstate, str(raised))
