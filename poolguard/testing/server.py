"""A stand-in for a PostgreSQL server, within this process: real connections, scripted answers.

It speaks the wire protocol over a socket, so that psycopg, its cursors and transactions, the pool
and all that is built on them run as they always do. Nothing leaves the machine, and nothing is
understood of SQL but what begins and ends transactions.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .script import Answer, Key, Query, Results, Script, UnexpectedQuery
from .session import LOST, Session
from .wire import error, message

if TYPE_CHECKING:
    from psycopg import Error
    from typing_extensions import Self

__all__ = ["FakePostgres"]

PORT = 5432
"""In the name of a Unix socket, which is a file: nothing listens on the network."""
LONGEST_PATH = 100
"""Bytes that the path of a Unix socket may have on every platform, less a few."""
PROTOCOL = 3 << 16
_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
SHUTDOWN = "57P01"
ENDS_WITHIN = 5.0
"""Seconds that closing waits for the threads that serve the connections."""


class FakePostgres:
    """Stands for a PostgreSQL server in a test: ``with FakePostgres(results) as db``.

    :param results: what queries are answered with, as by :meth:`on`.

    Connect to :attr:`conninfo` while the block lasts. Each connection is served by a thread. Where
    the block ends without an exception, :exc:`UnexpectedQuery` is raised if a query has come that
    nothing was scripted for, or a scripted callable has failed.
    """

    def __init__(self, results: Results | None = None) -> None:
        self._script = Script()
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._threads: set[threading.Thread] = set()
        self._pids = 0
        self._listener: socket.socket | None = None
        self.folder = Path()
        """A private folder, which goes with the block."""
        self._refusal: Error | None = None
        self.conninfo = ""
        """Where it listens, for psycopg and its pools; empty outside the block."""
        self.queries: list[Query] = []
        """What the application has sent, in the order in which it came: without what begins and
        ends transactions, and without poolguard's own questions."""
        self.unexpected: list[str] = []
        """What nothing was scripted for, or what a callable has failed on; empty it where a test
        means it."""
        self.commits = 0
        """Transactions that were committed."""
        self.rollbacks = 0
        """Transactions that were rolled back, or ended in an error."""
        for key, answer in (results or {}).items():
            self.on(key, answer)

    def __repr__(self) -> str:
        where = self.conninfo or "not running"
        return f"<{type(self).__name__} {where}, {len(self._sessions)} sessions>"

    # -- the script ----------------------------------------------------------------------------

    def on(self, query: Key, *answers: Answer) -> None:
        """Answer *query* with *answers* from now on: each once, and the last one for ever.

        :param query: the text, in which white space and the way in which parameters are written do
            not matter; or a compiled pattern, which is searched for in :attr:`Query.text`. Of
            several that fit, the one that was given last rules.
        :param answers: each is a list of rows (tuples; dicts or named tuples, where the columns'
            names matter); the number of rows that a command has changed; None, for a command that
            changes none; an exception of psycopg's, whose class says which error the server
            reports (one without ``sqlstate``, as a plain ``OperationalError``, ends the session
            without a word, as a crash does); or a callable, which is given the parameters in a
            thread of the session and returns, or raises, any of these. It may block.

        Raises :exc:`TypeError` for what can be no answer.
        """
        self._script.on(query, answers)

    # -- what befalls a server -----------------------------------------------------------------

    @property
    def sessions(self) -> int:
        """How many connections stand now."""
        return len(self._sessions)

    def kill(self) -> int:
        """End all sessions, as a server does that restarts; returns how many there were."""
        with self._lock:
            sessions = [*self._sessions]
        for session in sessions:
            session.end(SHUTDOWN, "terminating connection due to administrator command")
        return len(sessions)

    @contextmanager
    def refusing(self, why: Error | type[Error] | None = None) -> Iterator[None]:
        """Within the block, new connections are refused.

        :param why: an exception of psycopg's with a ``sqlstate``; by default
            :exc:`psycopg.errors.CannotConnectNow`, as of a server that starts up.
        """
        from psycopg.errors import CannotConnectNow

        why = why or CannotConnectNow("the database system is starting up")
        before, self._refusal = self._refusal, why() if isinstance(why, type) else why
        try:
            yield
        finally:
            self._refusal = before

    # -- its life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, and serve each client that connects. Starting twice is an error."""
        if self._listener is not None:
            raise RuntimeError(f"{self!r} is running already")
        self.folder = Path(tempfile.mkdtemp(prefix="poolguard-"))
        listener, host, port = _listening(self.folder)
        self._listener = listener
        self.conninfo = f"host={host} port={port} user=fake dbname=fake sslmode=disable"
        self._in_thread(self._accept, listener)

    def stop(self) -> None:
        """End all sessions and listen no more. Stopping twice is allowed."""
        listener, self._listener, self.conninfo = self._listener, None, ""
        if listener is None:
            return
        with suppress(OSError), socket.socket(listener.family) as bell:
            bell.connect(listener.getsockname())  # accept() is woken by nothing else everywhere
        with self._lock:
            threads, sessions = [*self._threads], [*self._sessions]
        for session in sessions:
            session.end(SHUTDOWN, "terminating connection due to administrator command")
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(ENDS_WITHIN)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if raised is None:
            self._insist_on_script()

    def _insist_on_script(self) -> None:
        if self.unexpected:
            raise UnexpectedQuery("\n".join(self.unexpected))

    def _in_thread(self, target: Any, *args: Any) -> None:
        def run() -> None:
            try:
                target(*args)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="poolguard-fake", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    # -- connections ---------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = listener.accept()
                if self._listener is not listener:
                    client.close()
                    return
                self._in_thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(*LOST):
            asked = _greeted(client)
            if asked is None:
                return
            if (refusal := self._refusal) is not None:
                told = error("FATAL", refusal.sqlstate or SHUTDOWN, str(refusal))
                client.sendall(told)
                return
            with self._lock:
                if self._listener is None:
                    return
                self._pids += 1
                session = Session(client, self._script, self, self._pids)
                self._sessions.add(session)
            try:
                session.run(asked)
            finally:
                with self._lock:
                    self._sessions.discard(session)

    # -- what a session tells ------------------------------------------------------------------

    def came(self, query: Query) -> None:
        """A session has received *query*."""
        self.queries.append(query)

    def ended(self, *, committed: bool) -> None:
        """A transaction is over."""
        with self._lock:
            if committed:
                self.commits += 1
            else:
                self.rollbacks += 1

    def failed(self, query: Query, why: BaseException | None = None) -> str:
        """Nothing is scripted for *query*, or what is has failed; returns what to answer."""
        if why is None:
            said = f"nothing is scripted for {query.text!r} with {query.params!r}"
        else:
            said = f"what is scripted for {query.text!r} has failed: {why!r}"
        self.unexpected.append(said)
        return f"poolguard.testing: {said}"


def _listening(folder: Path) -> tuple[socket.socket, str, int]:
    """A listening socket, and its host and port as libpq calls them."""
    path = folder / f".s.PGSQL.{PORT}"
    if hasattr(socket, "AF_UNIX") and len(str(path)) <= LONGEST_PATH:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        host, port = str(folder), PORT
    else:
        listener = socket.socket(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
    listener.listen(128)
    return listener, host, port


def _greeted(client: socket.socket) -> dict[str, str] | None:
    """What a client asks for as it connects; None where it wants no session.

    Encryption is declined. A newer protocol than ours is negotiated down.
    """
    while True:
        body = exactly(client, struct.unpack("!I", exactly(client, 4))[0] - 4)
        code = int.from_bytes(body[:4], "big")
        if code in (_SSL, _GSS):
            client.sendall(b"N")
            continue
        if code == _CANCEL:
            return None
        if code != PROTOCOL:
            client.sendall(message(b"v", struct.pack("!ii", PROTOCOL, 0)))
        words = body[4:].decode(errors="replace").split("\0")
        return dict(zip(words[::2], words[1::2], strict=False))


def exactly(client: socket.socket, n: int) -> bytes:
    """The next *n* bytes. Raises :exc:`EOFError` where the client has gone."""
    data = b""
    while len(data) < n:
        piece = client.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
