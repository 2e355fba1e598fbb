"""What a connection tells: where it leads, whether it is fit to be lent, how its server fares."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any
from weakref import ref

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.pq import ConnStatus, TransactionStatus

from ..budget.session import RESET_MARK
from ..budget.slots import Backend
from ..util.clock import now as clock
from ..util.conninfo import insist_clear
from ..util.conninfo_location import resolved
from .entry import Entry, is_closed_here
from .errors import verdict_of
from .events import Place
from .leases import Leases
from .owners import HERE
from .sockets import Watch
from .transitions import Condition

__all__ = [
    "NO_WRITES",
    "arrive",
    "bound_of",
    "condition_of",
    "given_up",
    "insist_idle",
    "is_dead",
    "note_errors",
    "place_by",
    "place_of",
    "says_no_writes",
    "was_reset",
]

_RESET_MARK = RESET_MARK.encode()
UNBOUNDED = 130.0
"""Seconds that psycopg waits for a login where connect_timeout sets no bound; ..."""
SHORTEST_BOUND = 2.0
"""... and where it sets a shorter one, as libpq does."""


def arrive(conn: Any, entry: Entry, watch: Watch, leases: Leases) -> None:
    """*conn* is the entry's: watch its socket, before anything can happen to it."""
    entry.take(conn)
    watch.add(entry, _socket_of(conn))
    info = getattr(conn, "info", None)
    if info is not None:
        leases.record_backend(entry, Backend(info.backend_pid, 0.0))


def note_errors(conn: Any, entry: Entry) -> None:
    """Have errors that come over the connection noted on its entry, and the thread that uses it.

    And since when it has waited for what is under way.

    Frameworks handle an error before they return the connection, which tells nothing of it then.
    All that psycopg does over a connection goes through its ``wait()``.
    """
    own = getattr(type(conn), "wait", None)
    if own is None:
        return  # a stand-in of a test's
    connection = ref(conn)  # the connection refers to these functions

    def wait(*args: Any, **kwargs: Any) -> Any:
        entry.owner = HERE.owner
        conn = connection()
        entry.waits_since = clock()
        try:
            return own(conn, *args, **kwargs)
        except psycopg.Error as error:
            _note(entry, conn, error)
            raise
        finally:
            entry.waits_since = 0.0

    async def async_wait(*args: Any, **kwargs: Any) -> Any:
        conn = connection()
        entry.waits_since = clock()
        try:
            return await own(conn, *args, **kwargs)
        except psycopg.Error as error:
            _note(entry, conn, error)
            raise
        finally:
            entry.waits_since = 0.0

    conn.wait = async_wait if iscoroutinefunction(own) else wait


def _note(entry: Entry, conn: Any, error: psycopg.Error) -> None:
    verdict = verdict_of(error)
    if verdict is None and conn.pgconn.status == ConnStatus.BAD:
        # Where this side has closed it, there is nothing left of it.
        verdict = None if conn.pgconn.pgconn_ptr is None else "lost"
    if verdict is not None and entry.verdict in (None, "read-only"):
        entry.verdict = verdict


def was_reset(conn: Any) -> bool:
    """Whether the application has reset the session of a fleet, and so may have let go of the lock
    by which it occupies its slot."""
    name = conn.pgconn.parameter_status(b"application_name")
    return name is not None and name.endswith(_RESET_MARK)


def condition_of(conn: Any, entry: Entry) -> Condition:
    """How a connection comes back."""
    pgconn = conn.pgconn
    status = pgconn.transaction_status
    if status == TransactionStatus.UNKNOWN:
        return "closed" if is_closed_here(conn) and entry.verdict != "lost" else "lost"
    if status == TransactionStatus.ACTIVE or getattr(pgconn, "pipeline_status", 0):
        return "unfit"
    return "clean" if status == TransactionStatus.IDLE else "open"


def is_dead(conn: Any, entry: Entry) -> bool:
    """Whether the server, or the way to it, has ended the connection: not this side."""
    told = entry.verdict in ("lost", "ending")
    return told or (bool(getattr(conn, "broken", False)) and not is_closed_here(conn))


def insist_idle(conn: Any, what: str, callback: object) -> None:
    """Raise where a callback has left a transaction open."""
    status = conn.pgconn.transaction_status
    if status != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError(
            f"connection left in status {TransactionStatus(status).name} by {what} function "
            f"{callback}: discarded. Have it end with commit(), or work in autocommit mode"
        )


NO_WRITES = """
SELECT pg_is_in_recovery() OR EXISTS (
    SELECT FROM pg_settings
    WHERE name = 'default_transaction_read_only' AND setting = 'on'
      AND source NOT IN ('session', 'client')) AS read_only
"""
"""Whether the server takes no writes. The application's own wish has the source ``session``, or
``client`` where it was made as it connected; neither ends with another connection."""


def says_no_writes(conn: Any) -> bool | None:
    """What the server has said by itself, from PostgreSQL 14 on; None: it is to be asked."""
    standby = conn.pgconn.parameter_status(b"in_hot_standby")
    by_default = conn.pgconn.parameter_status(b"default_transaction_read_only")
    if standby == b"on":
        return True
    return False if (standby, by_default) == (b"off", b"off") else None


def given_up(entry: Entry) -> ConnectionTimeout | None:
    """The error of the connect under way, where it was given up."""
    if not entry.severed:
        return None
    return ConnectionTimeout(
        f"given up after {clock() - entry.began:.1f} s: the login went well, but what comes next "
        f"did not end within connect_timeout"
    )


def place_of(conn: Any) -> Place:
    """Where libpq says that the connection leads; it says nothing of one that has ended already."""
    info = getattr(conn, "info", None)
    if info is not None:
        with suppress(psycopg.OperationalError):
            return Place(info.host, info.port, info.dbname)
    return Place("", 0, "")


def place_by(conninfo: str | None, more: object) -> Place | None:
    """Where a connection with *conninfo*, and *more* keywords if they are a mapping, would lead.

    That is the first of several hosts; None where it cannot be told.
    """
    if conninfo is None:
        return None
    try:
        insist_clear(conninfo)
        known = resolved(conninfo)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, connecting says so
        return None
    if isinstance(more, Mapping):
        known |= {key: str(value) for key, value in more.items() if value is not None}
    host = known.get("host") or known.get("hostaddr") or ""
    port = known.get("port", "").partition(",")[0]
    database = known.get("dbname") or known.get("user") or ""
    return Place(host.partition(",")[0], int(port) if port.isdecimal() else 0, database)


def bound_of(conn: Any) -> float:
    """Seconds that the login of a connection may have taken."""
    options = getattr(conn.pgconn, "info", ())  # a stand-in of a test's has none
    told = (each.val for each in options if each.keyword == b"connect_timeout")
    bound = float(next(told, None) or 0)
    return max(SHORTEST_BOUND, bound) if bound > 0 else UNBOUNDED


def _socket_of(conn: Any) -> int | None:
    """The descriptor of the connection's socket; None where it has none (a test's stand-in)."""
    fileno = getattr(conn.pgconn, "socket", None)
    return fileno if isinstance(fileno, int) and fileno >= 0 else None
