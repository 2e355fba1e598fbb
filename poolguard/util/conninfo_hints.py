"""Hints for parameters of a connection string that libpq does not know: what to write instead.

Drivers, poolers and frameworks have taught people names of their own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from ..settings import NAMES_OF_OTHERS, VARIABLES

__all__ = ["hints"]

_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_SECRET = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)

# The names are in lower case, without _, - and . in them. These mean a parameter of libpq's.
_LIBPQS = {
    "app": "application_name",
    "appname": "application_name",
    "application": "application_name",
    "characterencoding": "client_encoding",
    "charset": "client_encoding",
    "connectiontimeout": "connect_timeout",
    "database": "dbname",
    "databasename": "dbname",
    "db": "dbname",
    "encoding": "client_encoding",
    "hostname": "host",
    "logintimeout": "connect_timeout",
    "pass": "password",
    "pwd": "password",
    "rejectunauthorized": "sslmode",
    "requiressl": "sslmode",
    "server": "host",
    "sockettimeout": "tcp_user_timeout",
    "ssl": "sslmode",
    "sslaccept": "sslmode",
    "sslca": "sslrootcert",
    "sslidentity": "sslcert",
    "sslrequire": "sslmode",
    "sslverify": "sslmode",
    "targetservertype": "target_session_attrs",
    "tcpkeepalive": "keepalives",
    "timeout": "connect_timeout",
    "tls": "sslmode",
    "username": "user",
    "usessl": "sslmode",
}
# These mean a setting of the server's, which libpq hands on.
_SERVERS = {
    "currentschema": "search_path",
    "defaulttransactionisolation": "default_transaction_isolation",
    "defaulttransactionreadonly": "default_transaction_read_only",
    "idleintransactionsessiontimeout": "idle_in_transaction_session_timeout",
    "locktimeout": "lock_timeout",
    "schema": "search_path",
    "searchpath": "search_path",
    "statementtimeout": "statement_timeout",
    "timezone": "TimeZone",
}
# These are other pools' names of a setting of poolguard's.
_OURS = {
    "connectionlimit": "max_size",
    "maximumpoolsize": "max_size",
    "maxpoolsize": "max_size",
    "minimumidle": "floor",
    "minpoolsize": "floor",
    "pgbouncer": "pooler",
    "pool": "max_size",
    "poolmax": "max_size",
    "poolmaxconnidletime": "idle_timeout",
    "poolmaxconnlifetime": "max_lifetime",
    "poolmaxconns": "max_size",
    "poolmin": "floor",
    "poolminconns": "floor",
}


def hints(conninfo: object) -> list[str]:
    """One line for each parameter of *conninfo* that libpq does not know.

    A name that is known nowhere is left out where it could be a piece of a password: before the
    last ``@`` of a URL, or after a parameter that holds a secret.
    """
    if not isinstance(conninfo, str):
        return []
    from psycopg.pq import Conninfo, version

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    is_url = re.match(r"postgres(ql)?://", conninfo) is not None
    if is_url:
        known.add("ssl=true")  # libpq takes it for sslmode=require
    said: dict[str, str] = {}
    begin, end = conninfo.rfind("@") if is_url else -1, len(conninfo)
    for at, name, pair in _of_url(conninfo) if is_url else _of_text(conninfo):
        if name not in known and pair not in known and _NAME.fullmatch(name):
            remedy = _remedy(name, known, is_url=is_url)
            if remedy or begin < at < end:
                said[name] = remedy or _guess(name, known)
        if _SECRET.search(name):
            end = min(end, at)
    why = f"libpq cannot read it: its version {version() // 10000} knows no parameter"
    return [f"{why} {name!r}; {remedy}" for name, remedy in said.items()]


def _of_url(conninfo: str) -> Iterator[tuple[int, str, str]]:
    """The parameters in the query of a URL: where each begins, its name, and the whole of it."""
    begin = conninfo.index("://") + 3
    slash = conninfo.find("/", begin)
    # libpq looks for the end of user and password in this way.
    begin = max(begin, conninfo.find("@", begin, slash if slash >= 0 else len(conninfo)))
    at = conninfo.find("?", begin) + 1
    for pair in conninfo[at:].split("&") if at else ():
        yield at, pair.partition("=")[0], pair
        at += len(pair) + 1


def _of_text(conninfo: str) -> Iterator[tuple[int, str, str]]:
    """The same for ``name=value`` pairs."""
    at = 0
    while found := _PAIR.match(conninfo, at):
        yield at, found[1], found[0]
        at = found.end()


def _remedy(name: str, known: Collection[str], *, is_url: bool) -> str:
    """What to write instead of a name that is known elsewhere; empty where it is not."""
    plain = _plain(name)
    if plain in _SERVERS:
        option = f"-c{_SERVERS[plain]}{'%3D' if is_url else '='}…"
        return f"write options={option if is_url else repr(option)} instead"
    libpqs = {_plain(each): each for each in known} | _LIBPQS
    if plain in libpqs:
        return f"write {libpqs[plain]}=… instead"
    ours = {_plain(each): each for each in VARIABLES} | _OURS
    ours |= {_plain(each): own for each, own in NAMES_OF_OTHERS.items()}
    if plain in ours:
        return f"drop it, and set poolguard's {ours[plain]} (or {VARIABLES[ours[plain]]}) instead"
    return ""


def _guess(name: str, known: Iterable[str]) -> str:
    import difflib  # imported for a mistake only, since each boot would pay for it

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "drop it"


def _plain(name: str) -> str:
    return re.sub(r"[_.-]", "", name).lower()
