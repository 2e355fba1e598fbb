"""Where a connection string leads: to which server, which database and which role.

Ledgers are named after the server, and a status tells the database. Neither name holds a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import SettingsError
from .conninfo import of_libpq

__all__ = [
    "database_name",
    "insist_same_place",
    "ledger_name",
    "located",
    "resolved",
    "same_database",
    "session_of",
]

Dsn = str | Callable[[], object] | None
"""A connection string, or a callable that answers one; None for libpq's variables and defaults."""

_LOOPBACK = dict.fromkeys(("127.0.0.1", "::1"), "localhost")


def located(dsn: Dsn, kwargs: object) -> Dsn:
    """Where connects with *dsn* and *kwargs* lead, as a dsn; the keywords overrule *dsn*.

    What a callable will answer is not known.
    """
    from psycopg.conninfo import make_conninfo

    if callable(dsn) or not isinstance(kwargs, Mapping):
        return dsn
    return make_conninfo(dsn or "", **of_libpq(kwargs))


def insist_same_place(dsn: Dsn, kwargs: Mapping[str, Any]) -> None:
    """Refuse keywords, as a callable has answered them, that lead to another database than *dsn*.

    The ledger that counts the connections was chosen before the callable was asked.

    Raises :exc:`~poolguard.errors.SettingsError`.
    """
    if callable(dsn):
        same = not {"service", "servicefile"} & kwargs.keys()
    else:
        here, there = resolved(dsn or ""), resolved(str(located(dsn, kwargs) or ""))
        same = (_place(here), _database(here)) == (_place(there), _database(there))
    if not same:
        raise SettingsError(
            "keyword kwargs: a callable must not name another host, port, service or database than "
            "conninfo does (the database is by default called as the user): give a dict, or have a "
            "callable conninfo say where the database is"
        )


def ledger_name(dsn: Dsn, guard: str) -> str:
    """The name under which all guards of the same server share a ledger.

    It is made of host and port, since capacity is the server's, whatever the database and the role.
    What a callable will answer is not known, so its own name and the guard's make the ledger's.
    """
    if callable(dsn):
        return _of_callable(dsn, guard)
    place = _place(resolved(dsn or ""))
    return f"{_plain(place[1] or place[0] or 'local')}-{_digest(*place)}"


def database_name(dsn: Dsn, guard: str) -> str:
    """The name that all guards of the same database have in common. It holds no secret.

    The role is no part of it, since it may rotate.
    """
    if callable(dsn):
        return _of_callable(dsn, guard)
    known = resolved(dsn or "")
    database = _database(known)
    return f"{_plain(database)}-{_digest(*_place(known), database)}"


def session_of(dsn: Dsn) -> tuple[str, str]:
    """The database and the role that a connection string names, else those that libpq assumes.

    They are empty where only the connection will tell them.
    """
    if callable(dsn):
        return "", ""
    known = resolved(dsn or "")
    if known.get("service"):
        return "", ""
    return _database(known), known.get("user", "")


def _of_callable(dsn: Callable[[], object], guard: str) -> str:
    home = getattr(dsn, "__module__", None) or ""
    name = getattr(dsn, "__qualname__", type(dsn).__name__)
    return f"{_plain(guard)}-{_digest(guard, home, name)}"


def resolved(conninfo: str) -> dict[str, str]:
    """The parameters that *conninfo* holds, else those of libpq's variables and defaults."""
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    known = {
        option.keyword.decode(): option.val.decode(errors="surrogateescape")
        for option in Conninfo.get_defaults()
        if option.val is not None
    }
    return known | {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}


def _database(known: Mapping[str, str]) -> str:
    return known.get("dbname") or known.get("user", "")


def _place(known: Mapping[str, str]) -> tuple[str, str, str]:
    """What tells a server from others: the service, the address, and the port."""
    host = known.get("hostaddr") or known.get("host", "")
    if not host.startswith(("/", "@")):
        host = host.lower()
    return known.get("service", ""), _LOOPBACK.get(host, host), known.get("port", "")


def same_database(one: str, other: str, kwargs: object = None) -> bool:
    """Whether two connection strings name the same host, port and database, as far as they tell.

    *kwargs*, where they are a mapping, overrule the first one. psycopg would know better, but may
    not be imported yet where this is called.
    """
    if not isinstance(kwargs, Mapping):
        return one == other or _database_of(one) == _database_of(other)
    overruling = {key: str(value) for key, value in kwargs.items() if value is not None}
    return _database_of(one, overruling) == _database_of(other)


_PAIR = r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S*)"


def _database_of(dsn: str, overruling: Mapping[str, str] = MappingProxyType({})) -> tuple[str, ...]:
    known = {"host": "", "port": "5432", "dbname": ""}
    variables = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}
    known |= {key: os.environ[name] for key, name in variables.items() if os.environ.get(name)}
    if "://" in dsn:
        with suppress(ValueError):  # the error is reported when it is used
            url = urlsplit(dsn)
            user, _, place = url.netloc.rpartition("@")
            host, _, port = place.rpartition(":") if re.search(r":\d*$", place) else (place, "", "")
            found = {"host": host, "port": port, "dbname": url.path[1:]}
            found["user"] = user.partition(":")[0]
            known |= {key: unquote(value) for key, value in found.items() if value}
            known |= {key: values[-1] for key, values in parse_qs(url.query).items()}
    else:
        known |= {key: value.strip("'") for key, value in re.findall(_PAIR, dsn)}
    known |= overruling
    database = known["dbname"] or known.get("user", "")
    return known.get("service", ""), known.get("hostaddr", known["host"]), known["port"], database


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _plain(text: str) -> str:
    """*text* as a part of the name of a file, for people that look into the folder."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text)[:32]
