"""The pool's errors: psycopg_pool's own, so that existing ``except`` clauses go on working."""

from __future__ import annotations

import re

import psycopg
import psycopg_pool

from ..errors import PoolguardError

__all__ = ["PoolClosed", "PoolTimeout", "TooManyRequests", "describe"]


_MISREAD_HOST = re.compile(r"""(\bhost(?: name)?:? ['"])[^'"]*@""")
_MISREAD_VALUE = re.compile(
    r"""(\bport: '|\binvalid (?:integer value|port number:|\w+ value:) ")(?!\d+['"])[^'"]*"""
)


class PoolTimeout(PoolguardError, psycopg_pool.PoolTimeout):
    """No connection within the time allowed; the text carries the pool's whole state."""


class TooManyRequests(PoolguardError, psycopg_pool.TooManyRequests):
    """Rejected at once: ``max_waiting`` acquires are queued already."""


class PoolClosed(PoolguardError, psycopg_pool.PoolClosed):
    """The pool is not open, or no longer."""


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
        text = _MISREAD_HOST.sub(r"\1…@", text)
        text = _MISREAD_VALUE.sub(r"\1…", text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
