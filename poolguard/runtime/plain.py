"""Connections of a guard's database in a process where it has no pool: plain ones of psycopg's.

Adapters open pools in gunicorn's workers only. In a shell, a migration or a test each block has a
connection of its own, which the settings' ``reserve`` leaves room for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..settings import Settings
from ..util.conninfo import checked, parse, parse_keywords
from ..util.logs import logger
from ..worker import context
from . import usage
from .guards import Guard

__all__ = ["aconnect", "connect", "is_pooled"]


def is_pooled(guard: Guard, *, serving: bool = True) -> bool:
    """Whether an adapter takes connections from the guard's pool here: it was opened, by the hooks
    or on purpose, or it is to be, for a request that a worker is *serving*."""
    return guard.opened or (serving and context.role() == "worker")


def connect(guard: Guard) -> Any:
    """A connection as those of the guard's pool: by the same string and keywords, of the same
    class, configured. It is nobody's but the caller's, who closes it.

    Raises :exc:`psycopg.Error`, and :exc:`~poolguard.errors.SettingsError` for what cannot be a
    connection string.
    """
    from psycopg import Connection

    from ..pool.jobs import at_once

    return at_once(_connected(guard, Connection))


async def aconnect(guard: Guard) -> Any:
    """As :func:`connect`, an async one."""
    from psycopg import AsyncConnection

    return await _connected(guard, AsyncConnection)


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
