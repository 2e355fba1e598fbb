"""Connection strings: whether libpq can read one, without showing any of it.

libpq's messages quote what it could not parse. Where it parses something otherwise than it was
meant, it takes it for a host or a port, and the messages of a failed connect quote it. Either may
be a piece of the password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from inspect import isawaitable, signature
from itertools import takewhile
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import SettingsError
from ..settings import plain_url
from .conninfo_hints import hints

Dsn = str | Callable[[], object] | None

_LOOPBACK = dict.fromkeys(("127.0.0.1", "::1"), "localhost")

__all__ = [
    "checked",
    "connects_its_own_way",
    "database_name",
    "insist_clear",
    "insist_same_place",
    "ledger_name",
    "located",
    "of_libpq",
    "parse",
    "parse_keywords",
    "resolved",
    "same_database",
    "session_of",
]


def parse(conninfo: str, source: str) -> Mapping[str, Any]:
    """The parameters that *conninfo* holds; *source* names where it came from.

    Raises :exc:`~poolguard.errors.SettingsError`, which shows no part of it.
    """
    from psycopg.conninfo import conninfo_to_dict

    given: Mapping[str, Any] | None = None
    # Beside libpq's own errors there is UnicodeEncodeError, whose repr holds the whole string.
    with suppress(Exception):
        given = conninfo_to_dict(conninfo)
    if given is None and (lines := [f"{source}: {line}" for line in hints(conninfo)]):
        raise SettingsError("\n".join(lines))
    if given is None or _is_misread(conninfo, given):
        raise SettingsError(
            f"{source}: libpq cannot read it as a connection string or URL, or would not read it "
            f"as it is meant (neither it nor libpq's message is shown, since they may hold the "
            f"password). {_rule(conninfo)}"
        )
    return given


def insist_clear(conninfo: object) -> None:
    """Refuse, before it is connected with, what libpq would read otherwise than it is meant.

    A piece of a password would become the name of a host, which is sent to a resolver and shown in
    an error. What libpq cannot read at all it refuses itself.

    Raises :exc:`~poolguard.errors.SettingsError`.
    """
    from psycopg.conninfo import conninfo_to_dict

    if not isinstance(conninfo, str):
        return
    try:
        given = conninfo_to_dict(conninfo)
    except Exception:  # noqa: BLE001 - psycopg's own connect raises it again
        return
    if _is_misread(conninfo, given):
        parse(conninfo, "conninfo")


def of_libpq(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a connect that libpq goes by. Those that are None are dropped by psycopg."""
    known = _keywords()
    return {key: value for key, value in kwargs.items() if key in known and value is not None}


def _keywords() -> set[str]:
    from psycopg.pq import Conninfo

    return {option.keyword.decode() for option in Conninfo.get_defaults()}


def parse_keywords(kwargs: Mapping[str, Any], connection_class: type[Any]) -> None:
    """Refuse keywords that libpq cannot connect with, or would read otherwise than they are meant.

    A *connection_class* that connects in its own way may take others than psycopg's. Raises
    :exc:`~poolguard.errors.SettingsError`, which shows no value.
    """
    from psycopg import AsyncConnection, Connection
    from psycopg.conninfo import make_conninfo

    lines: list[str] = []
    if not connects_its_own_way(connection_class):
        base = AsyncConnection if issubclass(connection_class, AsyncConnection) else Connection
        named = signature(base.connect).parameters.values()
        known = _keywords() | {each.name for each in named if each.kind is each.KEYWORD_ONLY}
        for name in kwargs:
            if name == "conninfo":
                lines.append("it is no place for conninfo, which is the guard's first argument")
            elif name not in known:
                lines += hints(f"{name}=-") or ["psycopg knows no parameter of one of its names"]
    if lines:
        raise SettingsError("\n".join(f"keyword kwargs: {line}" for line in lines))
    with suppress(Exception):  # beside libpq's own errors, UnicodeEncodeError
        given = of_libpq(kwargs)
        make_conninfo("", **given)
        if not _is_odd(given):
            return
    raise SettingsError(
        "keyword kwargs: libpq cannot take one of its values, or would not take it as it is meant "
        "(none is shown, since it may hold the password). Each is one parameter: host a name or an "
        "address, port a number"
    )


def connects_its_own_way(connection_class: type[Any]) -> bool:
    """Whether a connection class connects otherwise than psycopg's own.

    It may then take other keywords, or know better what its hosts are, as by a look-up of SRV
    records. The methods checked here are those that psycopg's documentation has a class override.
    """
    from psycopg import AsyncConnection, Connection

    plain = getattr(connection_class, "__origin__", connection_class)  # of AsyncConnection[Row]
    own = takewhile(lambda each: each not in (Connection, AsyncConnection), plain.__mro__)
    return any(name in vars(each) for each in own for name in ("connect", "_get_connection_params"))


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


def checked(dsn: Callable[[], str], source: str) -> Callable[[], Any]:
    """*dsn* as a callable whose answers are checked before libpq sees them."""

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


_PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S*)")


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
        known |= {key: value.strip("'") for key, value in _PAIR.findall(dsn)}
    known |= overruling
    database = known["dbname"] or known.get("user", "")
    return known.get("service", ""), known.get("hostaddr", known["host"]), known["port"], database


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _plain(text: str) -> str:
    """*text* as a part of the name of a file, for people that look into the folder."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text)[:32]


_URL = re.compile(r"postgres(?:ql)?://")
_AFTER_USER = re.compile(r"([^/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
"""What follows user and password in a URL: hosts, path, query."""
_WORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", re.DOTALL)
"""A parameter and its value, as libpq reads them."""
_SEPARATED = re.compile(r"[;,&|]\s*\w+\s*=")
"""A parameter behind a separator that libpq does not know: it takes all of it for one value."""
_HOST = re.compile(r"[/@].*|[\w.:%\[\]~-]*", re.DOTALL)
"""A folder or an abstract Unix socket, a name or an address."""
_SHOWN = {"host", "hostaddr", "port", "dbname", "user"}
"""The parameters whose values errors show, the server's too."""


def _rule(conninfo: object) -> str:
    """How a connection string of this kind is written."""
    if isinstance(conninfo, str) and "://" in conninfo:
        return (
            "In a URL's user, password, host and database percent-encode special characters: %40 "
            "for @, %2F for /, %3F for ?, %25 for %. Its parameters follow a ?, separated by &"
        )
    return (
        "Separate its parameters by spaces, not by ; or commas, and put a value that holds spaces "
        "or a semicolon in single quotes"
    )


def _is_misread(conninfo: str, given: Mapping[str, Any]) -> bool:
    """Whether libpq reads, or may read, a part of it otherwise than its author meant it."""
    if _is_odd(given):
        return True
    url = _URL.match(conninfo)
    return _is_misread_text(conninfo) if url is None else _is_misread_url(conninfo[url.end() :])


def _is_odd(given: Mapping[str, Any]) -> bool:
    """Whether a host, a port, a user or a database among the parameters cannot be one."""
    hosts, ports = str(given.get("host", "")).split(","), str(given.get("port", "")).split(",")
    if any(port and not port.isdigit() for port in ports):
        return True
    if not all(map(_HOST.fullmatch, hosts)):
        return True
    return any("://" in str(given.get(name, "")) for name in ("user", "dbname"))


def _is_misread_url(rest: str) -> bool:
    """``user:p@ss@host/name`` reads as the host ``ss@host``, ``user:pa/ss@host/name`` as the host
    ``user``, the port ``pa`` and the database ``ss@host/name``, and ``host?user=me@home`` as the
    user ``host?user=me`` at the host ``home``.
    """
    user, at, after = rest.partition("@")
    if not at or "/" in user:  # libpq looks for both no further than to the first slash
        user, after = "", rest
    found = _AFTER_USER.fullmatch(after)
    assert found is not None  # it takes anything
    hosts, path, query = found.groups("")
    values = [pair.partition("=")[2] for pair in query.split("&")]
    return (
        "@" in hosts
        or "@" in path
        or re.search(r"\?\w+=", user) is not None
        or any(map(_SEPARATED.search, (hosts, path, *values)))
    )


def _is_misread_text(text: str) -> bool:
    """``host=a;password=b`` reads as the host ``a;password=b``."""
    for name, value in _WORD.findall(text):
        if value.startswith("'"):
            continue
        if re.search(r";(\w+=|$)", value) or (name in _SHOWN and _SEPARATED.search(value)):
            return True
    return False
