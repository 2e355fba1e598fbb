"""Connection strings: whether libpq can read one, without showing any of it.

libpq's messages quote what it could not parse. Where it parses something otherwise than it was
meant, it takes it for a host or a port, and the messages of a failed connect quote it. Either may
be a piece of the password.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from inspect import isawaitable, signature
from itertools import takewhile
from typing import Any

from ..errors import SettingsError
from ..settings import plain_url

__all__ = [
    "checked",
    "connects_its_own_way",
    "insist_clear",
    "of_libpq",
    "parse",
    "parse_keywords",
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
    if given is None and (lines := [f"{source}: {line}" for line in _hints(conninfo)]):
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
    if isinstance(conninfo, str) and not _is_clear(conninfo):
        parse(conninfo, "conninfo")


@lru_cache(maxsize=1)  # connects of one pool ask about the same string
def _is_clear(conninfo: str) -> bool:
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(conninfo)
    except Exception:  # noqa: BLE001 - psycopg's own connect raises it again
        return True
    return not _is_misread(conninfo, given)


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
                lines += _hints(f"{name}=-") or ["psycopg knows no parameter of one of its names"]
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


def _hints(conninfo: str) -> Iterable[str]:
    from .conninfo_hints import hints  # for a user's mistake; each boot would pay for it

    return hints(conninfo)


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
