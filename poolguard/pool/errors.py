"""The pool's errors: psycopg_pool's own, so that existing ``except`` clauses go on working."""

from __future__ import annotations

import logging
import re

import psycopg
import psycopg_pool

from ..errors import PoolguardError
from ..util.escape import escape_errors, escaped
from .entry import Verdict

__all__ = [
    "PoolClosed",
    "PoolTimeout",
    "SlotTaken",
    "TooManyRequests",
    "describe",
    "lacks_room",
    "verdict_of",
]

READ_ONLY = "25006"
"""After a failover, what a connection leads to may be a standby now: it lives on, and every write
over it fails. Or the application has asked for a read-only transaction."""
ENDING = frozenset({"57P01", "57P02", "57P03"})
"""admin_shutdown, crash_shutdown and cannot_connect_now, which a pooler in between may pass on
without ending its client's session (PostgreSQL's manual, appendix A)."""

TOO_MANY = "53300"
"""too_many_connections. But psycopg tells no SQLSTATE of a connect: there is only the text."""
_NO_ROOM = (
    # PostgreSQL: the server's limit, what it reserves for others, a role's or a database's limit
    r"too many clients already|remaining connection slots are reserved"
    r"|too many connections for (?:role|database)"
    # PgBouncer, Supavisor and others
    r"|no more connections allowed|max_client_conn|client connections exceeded"
    r"|max client(?: connection)?s reached|too many (?:client |server )?connections"
    # PostgreSQL with another lc_messages: too many …, the remaining slots …
    r"|zu viele Verbindungen|verbleibenden Verbindungen"  # de
    r"|demasiad[oa]s (?:clientes|conexiones)|conexiones restantes"  # es
    r"|trop de (?:clients|connexions)|connexions restants"  # fr
    r"|tropp[ie] (?:client|connessioni)|rimanenti slot"  # it
    r"|数が多すぎます|接続が多すぎます|残りの接続"  # ja
    r"|მეტისმეტად ბევრი|ძალიან ბევრი კავშირი"  # ka
    r"|접속자? ?수를 초과|남은 연결"  # ko
    r"|слишком много (?:клиентов|подключений)|оставшиеся слоты"  # ru
    r"|för många (?:klienter|uppkopplingar)|resterande anslutning"  # sv
    r"|забагато клієнтів|занадто багато підключень|слоти підключень"  # uk
    r"|太多的客户|连接太多|保留的连接"  # zh
)

for _name in ("poolguard", "psycopg.pool"):  # psycopg_pool's own records have servers' words too
    logging.getLogger(_name).addFilter(escape_errors)

_MISREAD_HOST = r"""(\bhost(?: name)?:? ['"])[^'"]*@"""
_MISREAD_VALUE = (
    r"""(\bport: '|\binvalid (?:integer value|port number:|\w+ value:) ")(?!\d+['"])[^'"]*"""
)


class PoolTimeout(PoolguardError, psycopg_pool.PoolTimeout):
    """No connection within the time allowed; the text carries the pool's whole state."""


class TooManyRequests(PoolguardError, psycopg_pool.TooManyRequests):
    """Rejected at once: ``max_waiting`` acquires are queued already."""


class PoolClosed(PoolguardError, psycopg_pool.PoolClosed):
    """The pool is not open, or no longer."""


class SlotTaken(PoolguardError, psycopg.OperationalError):
    """A new connection was closed again, since another host occupies its slot of the budget."""


def describe(error: BaseException, *, of_connect: bool = True) -> str:
    """The error's text in one line, fit to be shown.

    libpq quotes what it could not parse of a connection string, which may be the password: the
    text of such an error (psycopg raises it as a ProgrammingError without SQLSTATE) is left out.
    Where a password in a URL holds an unencoded ``@`` or ``/``, the URL is parsed, but wrongly:
    a part of the password is taken for the host or the port, and quoted as such.

    *of_connect* tells that no connection had been made yet.
    """
    if of_connect and isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return (
            f"{type(error).__name__}: libpq cannot parse the connection string "
            f"(its message is not shown, since it may quote the password)"
        )
    text = " ".join(str(error).split())
    if of_connect:
        text = re.sub(_MISREAD_HOST, r"\1…@", text)
        text = re.sub(_MISREAD_VALUE, r"\1…", text)
    return escaped(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def lacks_room(error: BaseException) -> bool:
    """Whether a connect has failed since the server, or a pooler before it, has no room for it."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate == TOO_MANY or bool(re.search(_NO_ROOM, str(error), re.IGNORECASE))


def verdict_of(error: psycopg.Error) -> Verdict | None:
    """What *error* tells of the server that a connection leads to; None where that is nothing."""
    sqlstate = error.sqlstate
    if error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
        return "lost"  # the server ends the session with it
    if sqlstate == READ_ONLY:
        return "read-only"
    return "ending" if sqlstate in ENDING else None
