"""The database of a deployment: a command's connection to it, and what the command asks it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..budget.capacity import QUERY, Capacity
from ..budget.dialing import Dialing
from ..budget.queries import one_row
from ..errors import PoolguardError, SettingsError
from ..settings import Settings
from ..util.conninfo import parse
from .deployment import spoken
from .pooler import Kind, detect

if TYPE_CHECKING:
    import psycopg

__all__ = ["Place", "ask_capacity", "ask_pooler", "ask_pooler_of_ledger", "connect"]

_REMEDIES = (  # words in the error of a failed connect, and what helps then
    ("authentication failed", "check user and password"),
    ("no password supplied", "give the password in the dsn, PGPASSWORD or a password file"),
    ("pg_hba.conf", "have the server let this role in from here"),
    ("too many", "end some of the connections, or raise what the server grants"),
    ("slots are reserved", "end some of the connections, or raise what the server grants"),
    ("does not exist", "check the name"),
    ("", "see that it runs, and that host and port are right"),
)


Place: TypeAlias = Literal["dsn", "ledger_dsn"]
"""The setting that says where a connection leads."""


@contextmanager
def connect(settings: Settings, name: str, at: Place = "dsn") -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database that *at* names, in autocommit mode, for the command *name*.

    An error of the database, here or in the block, is raised as a PoolguardError of one line, which
    says what to do.
    """
    import psycopg

    try:
        with _connected(settings, name, at) as conn:
            yield conn
    except psycopg.Error as error:
        raise PoolguardError(
            f"the database does not answer what it is asked ({_text(error)}): "
            f"is it PostgreSQL 12 or later?"
        ) from None


def ask_capacity(conn: psycopg.Connection[Any]) -> Capacity:
    """What the server grants the role of *conn*."""
    return Capacity.from_row(one_row(conn, QUERY))


def ask_pooler(conn: psycopg.Connection[Any], settings: Settings, name: str) -> Kind:
    """What stands before the server: as the settings say, else as detected."""
    import psycopg

    if settings.pooler != "auto":
        return settings.pooler
    try:
        return detect(conn, lambda: _connected(settings, name))
    except (psycopg.Error, PoolguardError) as error:
        raise PoolguardError(
            f"a pooler stands before the server, but of which kind could not be found out "
            f"({_text(error)}): say it with --pooler session or --pooler transaction"
        ) from None


def ask_pooler_of_ledger(
    conn: psycopg.Connection[Any], settings: Settings, name: str, at: Place
) -> Kind | None:
    """What stands before the server of *conn*, which is the one that *at* names, whatever the
    settings say; None where there is a pooler of which that could not be found out."""
    import psycopg

    try:
        return detect(conn, lambda: _connected(settings, name, at))
    except (psycopg.Error, PoolguardError):
        return None


def _connected(settings: Settings, name: str, at: Place = "dsn") -> psycopg.Connection[Any]:
    import psycopg

    dsn = getattr(settings, at)
    if dsn is not None and not isinstance(dsn, str):
        raise SettingsError(f"{at}: a command takes a connection string or URL")
    try:
        given = parse(dsn, settings.source(at)) if dsn else {}
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None
    options = {"fallback_application_name": f"poolguard {name}"} | Dialing(settings).beside(
        dsn or ""
    )
    options.pop("options", None)  # they are for connections that last
    try:
        return psycopg.connect(dsn or "", autocommit=True, **options)
    except (psycopg.Error, UnicodeError) as error:
        remedy = next(help_ for words, help_ in _REMEDIES if words in str(error))
        text = _text(error, given)
        what = "database" if at == "dsn" else "database of the fleet's ledger"
        raise PoolguardError(f"cannot connect to the {what} ({text}): {remedy}") from None


def _text(error: BaseException, given: Mapping[str, Any] | None = None) -> str:
    """The error's text in one line, unless it may hold a password.

    :param given: the parameters of the connection string.
    """
    from ..pool.errors import describe

    text = describe(error).removeprefix(f"{type(error).__name__}: ")
    given = given or {}
    harmless = {str(value) for name, value in given.items() if name != "password"}
    passwords = {str(given.get("password") or ""), os.environ.get("PGPASSWORD", "")} - harmless
    if isinstance(error, UnicodeError) or any(each and each in text for each in passwords):
        return "its message is not shown, since it may hold the password"
    return text
