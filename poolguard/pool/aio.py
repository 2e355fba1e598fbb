"""The async pool: psycopg_pool's ``AsyncConnectionPool``, growing in parallel and kept fresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from time import monotonic
from typing import Any, Generic, cast
from weakref import finalize, ref

from psycopg import AsyncConnection
from psycopg_pool.abc import (
    ACT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
)

from ..budget.ledger import Ledger
from ..listener import Listener
from ._seams import AsyncSeams, seat_of, silence
from .arrival import ARRIVING, arrive, place_of
from .books import Books, Opening
from .seat import Watch
from .shell import Shell, remember_open
from .upkeep import Pace

__all__ = ["AsyncGuardedPool"]

logger = logging.getLogger("poolguard")


class AsyncGuardedPool(Shell, AsyncSeams[ACT], Generic[ACT]):
    """A drop-in for :class:`psycopg_pool.AsyncConnectionPool`.

    It takes every argument of that class, with the same defaults and meanings, and those of
    :class:`~poolguard.pool.sync.GuardedPool`, from which it differs only in being async.
    """

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        connection_class: type[ACT] = cast("type[ACT]", AsyncConnection),  # noqa: B008
        kwargs: AsyncKwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002 - psycopg_pool's name
        configure: AsyncConnectionCB[ACT] | None = None,
        check: AsyncConnectionCB[ACT] | None = None,
        reset: AsyncConnectionCB[ACT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: AsyncConnectFailedCB | None = None,
        num_workers: int = 3,
        ledger: Ledger | None = None,
        listener: Listener | None = None,
        max_connecting: int = 32,
        refresh_interval: float = 25.0,
        check_timeout: float = 1.0,
    ) -> None:
        self._books = Books(
            ledger=ledger,
            listener=listener or Listener(),
            pace=Pace(refresh_interval, check_timeout, max_idle),
            max_connecting=max_connecting,
            max_lifetime=max_lifetime,
            reconnect_timeout=reconnect_timeout,
        )
        self._warm_event: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks_under_way: set[asyncio.Task[None]] = set()
        super().__init__(
            conninfo,
            connection_class=connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max_size,
            open=open,
            configure=_seat_then(configure),
            check=check,
            reset=reset,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            reconnect_failed=reconnect_failed,
            num_workers=num_workers,
        )
        self._books.name = self.name

    # -- what users call -----------------------------------------------------------------------

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Obtain a connection, as :meth:`psycopg_pool.AsyncConnectionPool.getconn` does.

        Raises :exc:`~poolguard.pool.errors.PoolTimeout`, ``TooManyRequests`` and ``PoolClosed``
        (subclasses of psycopg_pool's), or :exc:`~poolguard.errors.ForkError` in a child of the
        process that opened the pool.
        """
        began = monotonic()
        try:
            conn = await super().getconn(timeout)
        except BaseException as error:
            explained = self._explained(error, began)
            if explained is error:
                raise
            raise explained from None
        if (seat := seat_of(conn)) is not None:
            self._books.acquired(began, seat)
        return conn

    @property
    def warm(self) -> bool:
        """The floor has been reached at least once."""
        return self._books.warm_after is not None

    async def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the floor to be reached; true when it has been.

        Unlike :meth:`wait` it leaves the pool open when it has not.
        """
        if self._warm_event is None:
            return False
        try:
            await asyncio.wait_for(self._warm_event.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """The pool's counts, outcomes and last failure: plain data."""
        return self._books.status(self.counts())

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool, as :meth:`psycopg_pool.AsyncConnectionPool.close` does.

        Waits, within *timeout* seconds, until the server has ended the connections that were idle.
        """
        if self.closed:
            return
        until = monotonic() + timeout
        await super().close(timeout)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks_under_way:
            task.cancel()
        if self._tasks_under_way:
            await asyncio.wait(self._tasks_under_way, timeout=max(0.0, until - monotonic()))
        while self._watch.any_closing() and monotonic() < until:
            # The reader wakes the loop when a socket ends; a short sleep sees what it has booked.
            await asyncio.sleep(0.002)
        self._end_when_empty()

    # -- the moments of psycopg_pool -----------------------------------------------------------

    def _when_opened(self) -> None:
        remember_open(self)
        loop = asyncio.get_running_loop()
        watch = self._watch = Watch()
        self._warm_event = asyncio.Event()
        self._loop = loop
        this = ref(self)

        def news() -> None:
            if (pool := this()) is not None:
                pool._read_watch()

        def ring() -> None:
            """From any thread: the ledger's callback."""
            if not loop.is_closed():
                loop.call_soon_threadsafe(news)

        if watch.sees_sockets:
            loop.add_reader(watch.fileno(), news)
            finalize(self, _stop_reading, loop, watch).atexit = False
        else:
            watch.on_ring = ring
        self._news = news
        self._books.opened(self.name, monotonic(), ring)
        loop.call_soon(news)

    def _may_join(self, conn: ACT) -> bool:
        if self._joins(conn):
            return True
        self._bury(conn)
        self._resized_by(-1)
        self._watch.ring()
        return False

    # -- upkeep --------------------------------------------------------------------------------

    def _read_watch(self) -> None:
        """Something has happened, or is due: one round of upkeep."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch.closed:
            return  # a call that was on its way when the last connection ended
        ended = self._watch.wait(0)
        if self.closed:
            for seat in ended:
                self._books.ended(seat)
            self._books.tell()
            self._end_when_empty()
            return
        todo = self._round(ended)
        if self._books.warm_after is not None and self._warm_event is not None:
            self._warm_event.set()
        for opening in todo.openings:
            self._in_task("connect", self._open_one(opening))
        if todo.verify is not None:
            self._in_task("verify", self._verify(todo.verify))
        for conn in todo.dead:
            self._bury(conn)
        for conn in todo.surplus:
            self._in_task("close", self._discard(conn))
        self._books.tell()
        if todo.wake is not None:
            self._timer = self._loop.call_later(max(0.0, todo.wake - monotonic()), self._news)

    def _end_when_empty(self) -> None:
        """Stop watching once every connection of a closed pool has ended."""
        if not len(self._watch) and not self._books.opening:
            self._books.close()
            _stop_reading(self._loop, self._watch)

    def _in_task(self, what: str, job: Coroutine[Any, Any, None]) -> None:
        # In an empty context: what a pool does of itself is no part of any request's trace.
        task = Context().run(self._loop.create_task, job)
        task.set_name(f"{self.name}-{what}")
        self._tasks_under_way.add(task)
        task.add_done_callback(self._tasks_under_way.discard)

    async def _open_one(self, opening: Opening) -> None:
        """Connect, in a task of its own: a connect never queues behind another or a return."""
        seat = opening.seat
        ARRIVING.set((seat, self._watch))
        try:
            conn = await self._connect_one()
        except asyncio.CancelledError:
            self._books.connect_cancelled(seat)
            self._resized_by(-1)
            raise
        except Exception as error:  # noqa: BLE001 - whatever connecting raises, the pool goes on
            give_up = self._books.connect_failed(seat, opening.reason, error)
            self._resized_by(-1)
            self._books.tell()
            self._watch.ring()
            if give_up:
                await self.reconnect_failed()
            return
        self._books.connected(seat, opening.reason, place_of(conn))
        await self._put(conn)
        self._books.tell()
        self._watch.ring()

    async def _verify(self, conn: ACT) -> None:
        """Ask one idle connection for a sign of life and put it back, or let it go."""
        try:
            await self.check_connection(conn)
        except (Exception, asyncio.CancelledError) as error:
            self._books.verification_ended()
            self._resized_by(-1)
            self._count_lost()
            self._bury(conn)
            self._watch.ring()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._books.verification_ended()
        await self._put(conn)
        self._watch.ring()

    def _bury(self, conn: ACT) -> None:
        """Close a connection that the server has ended, or that does not answer."""
        silence(conn)
        conn.pgconn.finish()  # close() of an async connection is a coroutine that awaits nothing
        self._cut(conn)


def _stop_reading(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
    if watch.sees_sockets and not watch.closed:
        if not loop.is_closed():
            loop.remove_reader(watch.fileno())
        watch.close()


def _seat_then(configure: AsyncConnectionCB[ACT] | None) -> AsyncConnectionCB[ACT]:
    """psycopg_pool's ``configure`` callback: ours first, then the user's."""

    async def seat_then_configure(conn: ACT) -> None:
        arrive(conn)
        if configure is not None:
            try:
                await configure(conn)
            except BaseException:
                silence(conn)
                await conn.close()
                raise

    return seat_then_configure
