"""Starlette and FastAPI: the middleware, the lifespan, and dependencies that yield a connection.

Nothing of either framework is imported. In FastAPI::

    Conn = Annotated[AsyncConnection, Depends(connection, scope="function")]

With that scope (FastAPI 0.121) the connection is returned before the response is sent. FastAPI's
own default, ``scope="request"``, keeps it until a client has read the response and the background
tasks are over.

A dependency ends as a ``with`` block of the pool's: what was done is committed, and rolled back
where the endpoint has raised an exception, an HTTPException too. In a gunicorn worker, and where a
lifespan has opened the guard, the connection is the pool's. In every other process, as a test
without a lifespan, it is a plain one of psycopg's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from .asgi import PoolGuardMiddleware, lifespan
from .runtime import plain
from .runtime.guards import Guard
from .runtime.lookup import guard as guard_named

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

__all__ = ["PoolGuardMiddleware", "connection", "connection_of", "lifespan", "sync_connection"]


async def connection() -> AsyncIterator[AsyncConnection[Any]]:
    """A connection of the default guard, for ``async def`` endpoints.

    Raises :exc:`psycopg_pool.PoolTimeout` where there is none in time, which is answered with 503
    unless the application handles it.
    """
    async with _async_block(guard_named()) as conn:
        yield conn


def sync_connection() -> Iterator[Connection[Any]]:
    """The same for ``def`` endpoints, which run in threads. The default guard is to be a sync one,
    as ``POOLGUARD_MODE=sync`` makes it."""
    with _sync_block(guard_named()) as conn:
        yield conn


def connection_of(guard: Guard) -> Callable[[], Any]:
    """The dependency for another guard: as :func:`sync_connection` where that was made with
    ``mode="sync"``, else as :func:`connection`.

    Call it once for each guard: what each call returns is a dependency of its own.
    """

    async def connection() -> AsyncIterator[AsyncConnection[Any]]:
        async with _async_block(guard) as conn:
            yield conn

    def sync_connection() -> Iterator[Connection[Any]]:
        with _sync_block(guard) as conn:
            yield conn

    return sync_connection if guard.settings.mode == "sync" else connection


def _async_block(guard: Guard) -> Any:
    return guard.aconnection() if plain.is_pooled(guard) else plain.aconnection(guard)


def _sync_block(guard: Guard) -> Any:
    return guard.connection() if plain.is_pooled(guard) else plain.connection(guard)
