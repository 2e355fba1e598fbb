"""Connection strings: whether libpq can read one, without showing any of it.

libpq's messages quote what it could not parse. What it parses otherwise than was meant it takes for
a host or a port, and then it is the messages of a failed connect that quote it. Either may be a
piece of the password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from inspect import isawaitable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .errors import SettingsError
from .parameters import unknown
from .settings import plain_url

Dsn = str | Callable[[], object] | None

_LOOPBACK = dict.fromkeys(("127.0.0.1", "::1"), "localhost")

__all__ = ["checked", "database_name", "ledger_name", "parse", "same_database", "session_of"]


def parse(conninfo: str, source: str) -> Mapping[str, Any]:
    """The parameters that *conninfo* holds; *source* names where it came from.

    Raises :exc:`~poolguard.errors.SettingsError`, which shows nothing of it.
    """
    from psycopg.conninfo import conninfo_to_dict

    given: Mapping[str, Any] | None = None
    # Beside libpq's own errors: UnicodeEncodeError, whose repr holds the whole string.
    with suppress(Exception):
        given = conninfo_to_dict(conninfo)
    if given is None and (lines := [f"{source}: {line}" for line in unknown(conninfo)]):
        raise SettingsError("\n".join(lines))
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
        return _parsed(answer, source)

    return conninfo


async def _checked_later(answer: Awaitable[str], source: str) -> str:
    return _parsed(await answer, source)


def _parsed(answer: str, source: str) -> str:
    conninfo = plain_url(answer) if isinstance(answer, str) else answer
    parse(conninfo, source)
    return conninfo


def ledger_name(dsn: Dsn, guard: str) -> str:
    """The name under which those who use the same server share a ledger.

    Host and port make it: capacity is the server's, whatever the database and the role. What a
    callable will answer is not known, so it is known by its own name and the guard's.
    """
    if callable(dsn):
        return _of_callable(dsn, guard)
    place = _place(_known(dsn))
    return f"{_plain(place[1] or place[0] or 'local')}-{_digest(*place)}"


def database_name(dsn: Dsn, guard: str) -> str:
    """The name that those who use the same database have in common, whatever the role, which may
    rotate. Nothing secret is in it."""
    if callable(dsn):
        return _of_callable(dsn, guard)
    known = _known(dsn)
    database = _database(known)
    return f"{_plain(database)}-{_digest(*_place(known), database)}"


def session_of(dsn: Dsn) -> tuple[str, str]:
    """The database and the role that a connection string names, or libpq takes for granted; empty
    where only the connection will tell."""
    if callable(dsn):
        return "", ""
    known = _known(dsn)
    if known.get("service"):
        return "", ""
    return _database(known), known.get("user", "")


def _of_callable(dsn: Callable[[], object], guard: str) -> str:
    home = getattr(dsn, "__module__", None) or ""
    name = getattr(dsn, "__qualname__", type(dsn).__name__)
    return f"{_plain(guard)}-{_digest(guard, home, name)}"


def _known(dsn: str | None) -> dict[str, str]:
    """The parameters of *dsn*, libpq's variables, and what libpq takes for granted."""
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    known = {
        option.keyword.decode(): option.val.decode(errors="surrogateescape")
        for option in Conninfo.get_defaults()
        if option.val is not None
    }
    return known | {key: str(value) for key, value in conninfo_to_dict(dsn or "").items()}


def _database(known: Mapping[str, str]) -> str:
    return known.get("dbname") or known.get("user", "")


def _place(known: Mapping[str, str]) -> tuple[str, str, str]:
    """The server: the service, the address, and the port."""
    host = known.get("hostaddr") or known.get("host", "")
    if not host.startswith(("/", "@")):
        host = host.lower()
    return known.get("service", ""), _LOOPBACK.get(host, host), known.get("port", "")


def same_database(one: str, other: str) -> bool:
    """Whether two connection strings name the same host, port and database, as far as their texts
    tell. psycopg, which knows better, may not be imported yet where this is asked.
    """
    return one == other or _database_of(one) == _database_of(other)


_PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S*)")


def _database_of(dsn: str) -> tuple[str, ...]:
    known = {"host": "", "port": "5432", "dbname": ""}
    variables = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}
    known |= {key: os.environ[name] for key, name in variables.items() if os.environ.get(name)}
    if "://" in dsn:
        with suppress(ValueError):  # what is wrong with it is told when it is used
            url = urlsplit(dsn)
            user, _, place = url.netloc.rpartition("@")
            host, _, port = place.rpartition(":") if re.search(r":\d*$", place) else (place, "", "")
            found = {"host": host, "port": port, "dbname": url.path[1:]}
            found["user"] = user.partition(":")[0]
            known |= {key: unquote(value) for key, value in found.items() if value}
            known |= {key: values[-1] for key, values in parse_qs(url.query).items()}
    else:
        known |= {key: value.strip("'") for key, value in _PAIR.findall(dsn)}
    database = known["dbname"] or known.get("user", "")
    return known.get("service", ""), known.get("hostaddr", known["host"]), known["port"], database


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _plain(text: str) -> str:
    """For people who look into the folder: what may stand in the name of a file."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text)[:32]


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
