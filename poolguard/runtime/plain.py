"""Connections of a guard's database in a process where it has no pool: plain ones of psycopg's.

Adapters open pools in gunicorn's workers only. In a shell, a migration or a test each block has a
connection of its own, which the settings' ``reserve`` leaves room for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ..settings import Settings
from ..util.conninfo import checked, parse, parse_keywords
from ..util.logs import logger
from ..worker import context
from . import usage
from .guards import Guard

__all__ = ["aconnection", "connection", "is_pooled"]


def is_pooled(guard: Guard, *, serving: bool = True) -> bool:
    """Whether an adapter takes connections from the guard's pool here: it was opened, by the hooks
    or on purpose, or it is to be, for a request that a worker is *serving*."""
    return guard.opened or (serving and context.role() == "worker")


@contextmanager
def connection(guard: Guard) -> Iterator[Any]:
    """A connection as those of the guard's pool, for one block: by the same string and keywords, of
    the same class, configured. It is closed in any case, a commit that fails included.

    Raises :exc:`psycopg.Error`, and :exc:`~poolguard.errors.SettingsError` for what cannot be a
    connection string.
    """
    from psycopg import Connection

    from ..pool.jobs import at_once

    conn = at_once(_connected(guard, Connection))
    try:
        with conn:
            yield conn
    finally:
        conn.close()


@asynccontextmanager
async def aconnection(guard: Guard) -> AsyncIterator[Any]:
    """As :func:`connection`, an async one."""
    from psycopg import AsyncConnection

    conn = await _connected(guard, AsyncConnection)
    try:
        async with conn:
            yield conn
    finally:
        await conn.close()


async def _connected(guard: Guard, base: type[Any]) -> Any:
    from ..pool.jobs import done

    kind = guard.arguments.connection_class or base
    dsn, kwargs = _asked(guard, kind)
    conninfo = await done(dsn() if callable(dsn) else dsn)
    given = await done(kwargs() if callable(kwargs) else kwargs)
    conn = await done(kind.connect(conninfo, **given))
    try:
        if guard.arguments.configure is not None:
            await done(guard.arguments.configure(conn))
    except BaseException:
        await done(conn.close())
        raise
    return conn


def _asked(guard: Guard, kind: type[Any]) -> tuple[Any, Any]:
    """The connection string and the keywords, or what returns them, both checked."""
    usage.no_more()
    if context.current().first_to_say(f"plain {guard.name}"):
        logger.info(
            "poolguard %r is not open in this process, which is no worker of gunicorn's with "
            "poolguard's hooks: its connections are plain ones, opened for each use",
            guard.name,
        )
    settings = Settings.build() if guard.from_environment else guard.settings
    kwargs = guard.arguments.kwargs or {}
    if isinstance(kwargs, Mapping):
        parse_keywords(kwargs, kind)
    if callable(settings.dsn):
        return checked(settings.dsn, settings.source("dsn")), kwargs
    parse(settings.dsn or "", settings.source("dsn"))
    return settings.dsn or "", kwargs
