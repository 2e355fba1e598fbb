"""The async pool: one loop runs it, so it has no lock; what takes time runs in tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, cast

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool
from psycopg_pool.abc import (
    ACT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
)

from ..budget.ledger import Ledger
from ..budget.queries import async_answer
from ..util.clock import LONGEST_WAIT
from ..util.clock import now as clock
from .acquirer import CURRENT
from .base import INFO
from .block import AsyncBlock
from .entry import Entry
from .errors import PoolTimeout
from .events import Listener
from .outbox import logger
from .session import was_reset
from .tasks import Tasks
from .transitions import Misplaced
from .waiter import Waiter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncGuardedPool"]

IDLE = int(TransactionStatus.IDLE)


class _Waiter(Waiter):
    """Awaits a future."""

    __slots__ = ()

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return once it was served or refused, or its time is over."""
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        # asyncio's own timeouts may lose a cancellation that comes at the same moment (3.11).
        timer = loop.call_later(min(self.until - clock(), LONGEST_WAIT), self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()


class AsyncGuardedPool(Tasks, AsyncConnectionPool[ACT], Generic[ACT]):
    """A drop-in for :class:`psycopg_pool.AsyncConnectionPool`.

    It takes every argument of that class, with the same defaults and meanings, and those of
    :class:`~poolguard.pool.sync.GuardedPool`, from which it differs only in being async.
    """

    def __init__(
        self,
        conninfo: AsyncConninfoParam = "",
        *,
        # No cast: pyright would make of it a pool whose connections are of no known class.
        connection_class: type[ACT] = AsyncConnection,  # type: ignore[assignment]
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
        check_interval: float = 25.0,
        check_timeout: float = 1.0,
        check_after_idle: float = 30.0,
        leak_after: float = 0.0,
        at_once: float = 0,
        refresh_interval: float | None = None,  # the former name of check_interval
    ) -> None:
        self._set_up(locals())
        self._begin_tasks()
        if open:
            self._warn_of_opening()
        if open or open is None:
            self._open_now()

    async def __aenter__(self) -> Self:
        self._opens_unasked = False
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- acquiring -----------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> AsyncBlock[ACT]:  # type: ignore[override]
        """A connection for an ``async with`` block, as
        :meth:`psycopg_pool.AsyncConnectionPool.connection`."""
        return AsyncBlock(self, timeout)

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Obtain a connection, as :meth:`psycopg_pool.AsyncConnectionPool.getconn` does.

        Raises :exc:`~poolguard.pool.errors.PoolTimeout`, ``TooManyRequests`` and ``PoolClosed``
        (subclasses of psycopg_pool's), or :exc:`~poolguard.errors.ForkError` in a child of the
        process that opened the pool.
        """
        conn = self.getconn_nowait(timeout)
        return await self._getconn_slowly(timeout) if conn is None else conn

    def getconn_nowait(self, timeout: float | None = None) -> ACT | None:
        """A connection that is free; None where there is none, or more to do than to take it: then
        :meth:`getconn` says more."""
        core = self._core
        if (
            not core.idle
            or self._on_check is not None
            or self._opens_unasked
            or (self.timeout if timeout is None else timeout) <= 0
        ):
            return None
        self._insist_on_its_loop()
        began = clock()
        conn: ACT | None = core.take(began)
        if core.look_due:
            self._look_soon()
        if conn is None:
            return None
        if logger.isEnabledFor(INFO):
            logger.info("connection requested from %r", self.name)
            logger.info("connection given by %r", self.name)
        conn._pool = self
        acquirer = CURRENT.get()
        if acquirer is not None or self._tells_immediate or self._watches_all:
            entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
            try:
                if acquirer is not None and acquirer.checkouts:
                    self._keeper.leaks.asked(acquirer)
                self._lend(entry, began, acquirer)
            except BaseException:  # what ends the process, in a listener
                self._do(self._put(conn, entry))
                raise
        return conn

    async def _getconn_slowly(self, timeout: float | None) -> ACT:
        began = clock()
        acquirer = CURRENT.get()
        if acquirer is not None and acquirer.checkouts:
            self._keeper.leaks.asked(acquirer)
        if timeout is None:
            timeout = self.timeout
        waiter = _Waiter(began, began + timeout)
        try:
            if timeout <= 0 or self._core.closed or self._opens_unasked:
                self._acquire_in_vain(timeout)
            if logger.isEnabledFor(INFO):
                logger.info("connection requested from %r", self.name)
            self._insist_on_its_loop()
            conn = await self._obtain(waiter, began)
            if self._on_check is not None:
                conn = await self._obtain_checked(conn, waiter)
        except BaseException as error:
            self._note_failure(error, waiter)
            raise
        if logger.isEnabledFor(INFO):
            logger.info("connection given by %r", self.name)
        entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
        try:
            self._lend_late(entry, waiter)
        except BaseException:
            self._do(self._put(conn, entry))
            raise
        return conn

    async def _obtain(self, waiter: _Waiter, now: float) -> ACT:
        """A connection that is free, or the next that comes in."""
        core = self._core
        conn = core.acquire(now, waiter)
        if conn == "closed":
            self._insist_open()
        if conn == "refused":
            self._reject()
        if conn == "queued":
            if core.look_due:
                self._look_soon()
            try:
                await waiter.wait()
            except BaseException:
                if (conn := core.withdraw(waiter, clock())) is not None:
                    self._do(self._put(conn, conn._poolguard_entry, in_acquire=True))
                raise
            conn = core.withdraw(waiter, clock(), timed_out=True)
            if conn is None:
                raise waiter.error or PoolTimeout
        conn._pool = self
        return cast("ACT", conn)

    # -- returning -----------------------------------------------------------------------------

    async def putconn(self, conn: ACT) -> None:
        """Take a connection back, as :meth:`psycopg_pool.AsyncConnectionPool.putconn` does.

        Raises :exc:`ValueError` for one that is not lent from here. What it takes to make the
        connection fit for the next acquire is done even if this task is cancelled.
        """
        if not self._give_back(conn):
            entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
            if (job := self._put(conn, entry)) is not None:
                await asyncio.shield(self._begin("close", job))

    def putconn_nowait(self, conn: ACT) -> None:
        """Take a connection back as :meth:`putconn` does, and wait for nothing: what it takes to
        make it fit for the next acquire is done in a task."""
        if not self._give_back(conn):
            self._do(self._put(conn, conn._poolguard_entry))  # type: ignore[attr-defined]

    def _give_back(self, conn: ACT) -> bool:
        """Take back a connection to which nothing is to be done; False where there is."""
        try:
            entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
            if conn._pool is not self:
                self._refuse(conn)
        except AttributeError:
            self._refuse(conn)
        if logger.isEnabledFor(INFO):
            logger.info("returning connection to %r", self.name)
        if entry.checkout is not None:
            self._keeper.leaks.returned(entry)
        pgconn = conn.pgconn
        if (
            pgconn.transaction_status != IDLE
            or entry.verdict is not None
            or (entry.seat is not None and was_reset(conn))
            or self._on_reset is not None
            or pgconn.pipeline_status
        ):
            return False
        conn._pool = None
        try:
            fate = self._core.give_back(entry, clock())
        except Misplaced:
            self._refuse(conn)
            return True
        if fate is not None:
            self._do(self._settle(conn, entry, fate))
        if self._core.look_due:
            self._look_soon()
        return True

    # -- the pool's life -----------------------------------------------------------------------

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool, as :meth:`psycopg_pool.AsyncConnectionPool.open` does."""
        self._open_now()
        if wait:
            await self.wait(timeout)

    def _open_now(self) -> None:
        if self._may_open():
            self._begin_upkeep()
            self._was_opened = True
            self._core.closed = self._core.alert = False

    async def wait(self, timeout: float = 30.0) -> None:
        """Wait for the floor, as :meth:`psycopg_pool.AsyncConnectionPool.wait` does.

        Closes the pool when the time is over; :meth:`wait_warm` does not.
        """
        self._insist_open()
        full = asyncio.Event()
        self._full.append(full)
        self._ring()
        logger.info("waiting for pool %r initialization", self.name)
        try:
            await asyncio.wait_for(full.wait(), timeout)
        except asyncio.TimeoutError:
            error = self._incomplete(timeout)
            await self.close()
            raise error from None
        logger.info("pool %r is ready to use", self.name)

    async def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the floor to be reached; true when it has been.

        Unlike :meth:`wait` it leaves the pool open when it has not.
        """
        if not self._was_opened:
            return False
        try:
            await asyncio.wait_for(self._warm_event.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        return True

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds, as :meth:`psycopg_pool.AsyncConnectionPool.resize` does."""
        self._resize(min_size, max_size)

    async def check(self) -> None:
        """Verify the idle connections, as :meth:`psycopg_pool.AsyncConnectionPool.check` does.

        One after the other, so that an acquire finds the others; each within ``check_timeout``.
        """
        if self._core.idle:
            await asyncio.shield(self._begin("verify", self._check_idle()))

    async def drain(self) -> None:
        """Renew all connections, as :meth:`psycopg_pool.AsyncConnectionPool.drain` does."""
        if not self.closed:
            await asyncio.shield(self._begin("close", self._drain()))

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool, as :meth:`psycopg_pool.AsyncConnectionPool.close` does.

        Waits, within *timeout* seconds, until the server has ended the connections that were idle.
        """
        if self.closed:
            return
        until = clock() + timeout
        for conn in self._shut():
            self._do(self._discard(conn))
        await self._end_tasks(until)

    @staticmethod
    async def check_connection(conn: ACT) -> None:
        """As :meth:`~poolguard.pool.sync.GuardedPool.check_connection`."""
        await async_answer(conn)
