"""What ``pool.connection()`` returns: a connection for the length of a ``with`` block.

psycopg_pool makes a generator of it: a generator, its frame and its manager for each request. Here
it is one object. What happens to the connection is the same, but that nothing is committed where
nothing was begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg_pool.abc import ACT, CT

__all__ = ["AsyncBlock", "Block", "is_plain"]

P = ParamSpec("P")
R = TypeVar("R")
IDLE = int(TransactionStatus.IDLE)

_AT_ENDS = {
    Connection: ("__enter__", "__exit__", "commit", "rollback"),
    AsyncConnection: ("__aenter__", "__aexit__", "commit", "rollback"),
}


def is_plain(kind: type) -> bool:
    """Whether connections of that class begin and end a block as psycopg's own do."""
    return any(
        issubclass(kind, base) and all(getattr(kind, n) is getattr(base, n) for n in names)
        for base, names in _AT_ENDS.items()
    )


class _Common:
    """What both kinds of block have in common."""

    __slots__ = ("_conn", "_free", "_pool", "_timeout")

    def __init__(self, pool: Any, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._free = [True]  # popping is one step, which two threads cannot both have begun
        self._conn: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool.name!r}{'' if self._free else ' entered'}>"

    def _entered_twice(self) -> RuntimeError:
        return RuntimeError(
            f"this connection() of the pool {self._pool.name!r} is entered already, and serves one "
            f"block at a time: call pool.connection() for each block"
        )

    def _has_nothing_to_end(self, conn: Any) -> bool:
        """Whether psycopg would neither commit nor roll back, nor refuse to."""
        pgconn = conn.pgconn
        return bool(
            pgconn.transaction_status == IDLE
            and conn._poolguard_entry.plain
            and not pgconn.pipeline_status
            and getattr(conn, "_tpc", None) is None  # a two-phase transaction goes on
        )

    def _let_go(self) -> Any:
        """The connection, which is to be returned: to keep this object is not to keep that."""
        conn, self._conn = self._conn, None
        self._free.append(True)
        return conn


class Block(_Common, AbstractContextManager[CT]):
    """A connection of a sync pool, from the beginning of a block to its end.

    It can be entered again once it was left, and decorates functions: each call has a connection of
    its own. Raises :exc:`RuntimeError` where it is entered while it is.
    """

    __slots__ = ()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._pool.connection(self._timeout):
                return function(*args, **kwargs)

        return within

    def __enter__(self) -> CT:
        try:
            self._free.pop()
        except IndexError:
            raise self._entered_twice() from None
        try:
            self._conn = conn = self._pool.getconn(self._timeout)
            if not conn._poolguard_entry.plain:
                conn.__enter__()
        except BaseException:
            if self._conn is not None:
                self._pool.putconn(self._conn)
            self._let_go()
            raise
        return conn  # type: ignore[no-any-return] # the pool's own class

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        conn = self._conn
        try:
            if not self._has_nothing_to_end(conn):
                return conn.__exit__(kind, error, trace)
        finally:
            try:
                self._pool.putconn(conn)
            finally:  # as _let_go() does, whose call takes as long as all this
                self._conn = None
                self._free.append(True)
        return None


class AsyncBlock(_Common, AbstractAsyncContextManager[ACT]):
    """The same, of an async pool."""

    __slots__ = ()

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(function)
        async def within(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self._pool.connection(self._timeout):
                return await function(*args, **kwargs)

        return within

    async def __aenter__(self) -> ACT:
        try:
            self._free.pop()
        except IndexError:
            raise self._entered_twice() from None
        try:
            conn: ACT | None = self._pool.getconn_nowait(self._timeout)
            if conn is None:
                conn = await self._pool._getconn_slowly(self._timeout)
        except BaseException:
            self._free.append(True)
            raise
        self._conn = conn
        if not conn._poolguard_entry.plain:  # type: ignore[union-attr]
            try:
                await conn.__aenter__()
            except BaseException:
                await self._pool.putconn(self._let_go())
                raise
        return conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        conn = self._conn
        if self._has_nothing_to_end(conn):
            conn = self._let_go()
            if not self._pool._give_back(conn):
                await self._pool.putconn(conn)
            return None
        try:
            return await conn.__aexit__(kind, error, trace)
        finally:
            await self._pool.putconn(self._let_go())
