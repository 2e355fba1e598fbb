"""A deployment, as the command line and the environment describe it, and the way to its server.

What ``poolguard plan`` and ``poolguard check`` have in common.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..budget.capacity import QUERY, Capacity
from ..budget.dialing import Dialing
from ..budget.plan import Workplace
from ..budget.queries import one_row
from ..errors import PoolguardError, SettingsError
from ..settings import DESCRIPTIONS, Settings
from ..util.conninfo import parse
from ..worker.context import web_concurrency
from .pooler import Kind, detect

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "SETTINGS",
    "add_options",
    "ask_capacity",
    "ask_pooler",
    "connect",
    "from_zero",
    "positive",
    "settings_of",
    "spoken",
    "workplace_of",
]

SETTINGS = ("budget", "reserve", "instances", "workers", "floor", "max_size", "ledger", "pooler")
"""The settings that are options too, beside ``dsn``."""
WORKERS_VARIABLE = "WEB_CONCURRENCY"
"""Where gunicorn takes its number of workers from unless told otherwise."""

_REMEDIES = (  # of what a failed connect says, and what helps
    ("authentication failed", "check user and password"),
    ("no password supplied", "give the password in the dsn, PGPASSWORD or a password file"),
    ("pg_hba.conf", "have the server let this role in from here"),
    ("too many", "end some of the connections, or raise what the server grants"),
    ("slots are reserved", "end some of the connections, or raise what the server grants"),
    ("does not exist", "check the name"),
    ("", "see that it runs, and that host and port are right"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a deployment. Without one, its variable counts."""
    parser.add_argument(
        "--dsn", metavar="URL", help="where the database is; none: as the environment says"
    )
    for name in SETTINGS:
        parser.add_argument(
            option(name),
            metavar="KIND" if name in ("ledger", "pooler") else "N",
            help=DESCRIPTIONS[name].replace("%", "%%"),
        )
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="gunicorn's threads of each worker"
    )
    parser.add_argument(
        "--worker-class",
        metavar="CLASS",
        help="gunicorn's worker class; none: sync, or gthread with more than one thread",
    )


def option(name: str) -> str:
    """A setting's option: ``--max-size`` of ``max_size``."""
    return "--" + name.replace("_", "-")


def spoken(text: str) -> str:
    """What an error says of keywords, in the words of the command line."""
    return re.sub(r"\bkeyword ([a-z_]+)", lambda match: option(match[1]), text)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def from_zero(text: str) -> int:
    """A whole number from 0, for argparse."""
    return 0 if text == "0" else positive(text)


def settings_of(options: argparse.Namespace) -> Settings:
    """Options, then variables, as everywhere. Raises SettingsError in the command line's words."""
    try:
        return Settings.build(
            dsn=options.dsn, **{name: getattr(options, name) for name in SETTINGS}
        )
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None


def workplace_of(options: argparse.Namespace, settings: Settings) -> Workplace:
    """gunicorn's numbers, as far as they were given, and its own defaults."""
    workers = settings.workers
    if workers == "auto":
        workers = web_concurrency() or 1
    threads = options.threads or 1
    return Workplace.of(options.worker_class or "sync", workers, threads)


@contextmanager
def connect(settings: Settings, name: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of *settings*, in autocommit mode, for the command *name*.

    What fails in it is raised as a PoolguardError of one line, which says what to do.
    """
    import psycopg

    try:
        with _connected(settings, name) as conn:
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
    """What stands before the server: as set, else as found out."""
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


def _connected(settings: Settings, name: str) -> psycopg.Connection[Any]:
    import psycopg

    dsn = settings.dsn
    if dsn is not None and not isinstance(dsn, str):
        raise SettingsError("dsn: a command takes a connection string or URL")
    try:
        given = parse(dsn, settings.source("dsn")) if dsn else {}
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None
    options = {"fallback_application_name": f"poolguard {name}"} | Dialing(settings).beside(
        dsn or ""
    )
    options.pop("options", None)  # one connection, and not for long
    try:
        return psycopg.connect(dsn or "", autocommit=True, **options)
    except (psycopg.Error, UnicodeError) as error:
        remedy = next(help_ for words, help_ in _REMEDIES if words in str(error))
        text = _text(error, given)
        raise PoolguardError(f"cannot connect to the database ({text}): {remedy}") from None


def _text(error: BaseException, given: Mapping[str, Any] | None = None) -> str:
    """The error's text in one line, without what could be a password."""
    from ..pool.errors import describe

    text = describe(error).removeprefix(f"{type(error).__name__}: ")
    given = given or {}
    harmless = {str(value) for name, value in given.items() if name != "password"}
    passwords = {str(given.get("password") or ""), os.environ.get("PGPASSWORD", "")} - harmless
    if isinstance(error, UnicodeError) or any(each and each in text for each in passwords):
        return "its message is not shown, since it may hold the password"
    return text
