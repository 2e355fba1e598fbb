"""Connection strings: whether libpq can read one, without showing any of it.

libpq's messages quote what it could not parse. What it parses otherwise than was meant it takes for
a host or a port, and then it is the messages of a failed connect that quote it. Either may be a
piece of the password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from .errors import SettingsError

__all__ = ["checked", "parse"]


def parse(conninfo: str, source: str) -> Mapping[str, Any]:
    """The parameters that *conninfo* holds; *source* names where it came from.

    Raises :exc:`~poolguard.errors.SettingsError`, which shows nothing of it.
    """
    from psycopg.conninfo import conninfo_to_dict

    given: Mapping[str, Any] | None = None
    # Beside libpq's own errors: UnicodeEncodeError, whose repr holds the whole string.
    with suppress(Exception):
        given = conninfo_to_dict(conninfo)
    if given is None or _is_misread(conninfo, given):
        raise SettingsError(
            f"{source}: libpq cannot read it as a connection string or URL (neither it nor "
            f"libpq's message is shown, since they may hold the password). Special characters in "
            f"a URL's user, password or path need percent-encoding: %40 for @, %2F for /"
        )
    return given


def checked(dsn: Callable[[], str], source: str) -> Callable[[], Any]:
    """*dsn*, whose answers are parsed here before libpq sees them."""

    def conninfo() -> Any:
        answer: Any = dsn()
        if isawaitable(answer):  # psycopg's async pool takes such a callable too
            return _checked_later(answer, source)
        parse(answer, source)
        return answer

    return conninfo


async def _checked_later(answer: Awaitable[str], source: str) -> str:
    conninfo = await answer
    parse(conninfo, source)
    return conninfo


def _is_misread(conninfo: str, given: Mapping[str, Any]) -> bool:
    """Whether some of a URL's password has been taken for something else.

    ``user:p@ss@host/name`` reads as the host ``ss@host``, and ``user:pa/ss@host/name`` as the host
    ``user``, the port ``pa`` and the database ``ss@host/name``.
    """
    ports = str(given.get("port", "")).split(",")
    if any(port and not port.isdigit() for port in ports):
        return True
    if "://" not in conninfo:
        return False
    hosts = str(given.get("host", "")).split(",")
    if any("@" in host[1:] for host in hosts):  # one at the beginning is an abstract Unix socket
        return True
    return "user" not in given and "@" in str(given.get("dbname", "")) and "%40" not in conninfo
