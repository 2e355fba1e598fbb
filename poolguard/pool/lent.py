"""What ``pool.connection()`` returns: a connection for the length of a ``with`` block.

psycopg_pool makes a generator of it: a generator, its frame and its manager for each request. Here
it is one object. What happens to the connection is the same.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from psycopg_pool.abc import ACT, CT

if TYPE_CHECKING:
    from .aio import AsyncGuardedPool
    from .sync import GuardedPool

__all__ = ["AsyncLent", "Lent"]


class Lent(AbstractContextManager[CT]):
    """A connection of a sync pool, from the begin of the block to its end."""

    __slots__ = ("_conn", "_pool", "_since", "_timeout")

    def __init__(self, pool: GuardedPool[CT], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> CT:
        self._conn = conn = self._pool.getconn(self._timeout)
        self._since = monotonic()
        try:
            conn.__enter__()
        except BaseException:
            self._give_back()
            raise
        return conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        try:
            return self._conn.__exit__(kind, error, trace)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        conn = self._conn
        del self._conn  # whoever keeps this object does not keep the connection
        self._pool.putconn(conn)
        self._pool._used_for(monotonic() - self._since)


class AsyncLent(AbstractAsyncContextManager[ACT]):
    """The same, of an async pool."""

    __slots__ = ("_conn", "_pool", "_since", "_timeout")

    def __init__(self, pool: AsyncGuardedPool[ACT], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    async def __aenter__(self) -> ACT:
        self._conn = conn = await self._pool.getconn(self._timeout)
        self._since = monotonic()
        try:
            await conn.__aenter__()
        except BaseException:
            await self._give_back()
            raise
        return conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        try:
            return await self._conn.__aexit__(kind, error, trace)
        finally:
            await self._give_back()

    async def _give_back(self) -> None:
        conn = self._conn
        del self._conn
        await self._pool.putconn(conn)
        self._pool._used_for(monotonic() - self._since)
