"""What happens to a connection between its connect and the pool, the same for both pools."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout

from ..budget.ledger import Backend
from ..clock import now as clock
from ..conninfo import insist_clear, resolved
from ..listener import Place
from .lessee import Lessee
from .seat import Seat, Watch

__all__ = ["ARRIVING", "arrive", "given_up", "place_by", "place_of"]

UNBOUNDED = 130.0
"""Seconds that psycopg waits for a login where connect_timeout sets no bound; ..."""
SHORTEST_BOUND = 2.0
"""... and where it sets a shorter one, as libpq does."""

ARRIVING: ContextVar[tuple[Seat, Watch, Lessee]] = ContextVar("poolguard_arriving")
"""The seat that the connect under way in this thread or task is for.

psycopg_pool connects and configures in one step; its ``configure`` callback is the first that sees
the connection, and this is how the callback knows whose it is.
"""


def arrive(conn: Any) -> None:
    """Seat a new connection and watch its socket, before anything can happen to it."""
    seat, watch, lessee = ARRIVING.get()
    seat.take(conn)
    watch.add(seat, socket_of(conn))
    info = getattr(conn, "info", None)
    if info is not None:
        lessee.seated(seat, Backend(info.backend_pid, 0.0))
        # What comes next has as long as the login had. An answer may be lost as well as a login,
        # and a question waits for it as long as TCP keeps the connection.
        seat.give_up_at = clock() + bound_of(info.get_parameters())


def bound_of(parameters: Mapping[str, str]) -> float:
    """Seconds that a login with these parameters may take."""
    bound = float(parameters.get("connect_timeout", 0))
    return max(SHORTEST_BOUND, bound) if bound > 0 else UNBOUNDED


def given_up() -> ConnectionTimeout | None:
    """The error of the connect under way in this thread or task, where it was given up."""
    seat, _, _ = ARRIVING.get()
    if not seat.severed:
        return None
    return ConnectionTimeout(
        f"given up after {clock() - seat.began:.1f} s: the login went well, but what comes next "
        f"did not end within connect_timeout"
    )


def socket_of(conn: Any) -> int | None:
    """The descriptor of the connection's socket; None where it has none (a test's stand-in)."""
    fileno = getattr(conn.pgconn, "socket", None)
    return fileno if isinstance(fileno, int) and fileno >= 0 else None


def place_of(conn: Any) -> Place:
    """Where libpq says that the connection leads; it says nothing of one that has ended already."""
    info = getattr(conn, "info", None)
    if info is not None:
        with suppress(psycopg.OperationalError):
            return Place(info.host, info.port, info.dbname)
    return Place("", 0, "")


def place_by(conninfo: str | None, more: object) -> Place | None:
    """Where a connection with *conninfo*, and with *more* keywords where they are a mapping, would
    lead: the first of several hosts. None where nobody can know, or where it cannot be read."""
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
