"""The async pool: psycopg_pool's ``AsyncConnectionPool``, growing in parallel and kept fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, cast
from weakref import ref

import psycopg_pool
from psycopg import AsyncConnection
from psycopg_pool.abc import (
    ACT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
)

from ..borrower import CURRENT
from ..budget.asking import async_answer, async_rows
from ..budget.ledger import Ledger, Orphan
from ..budget.session import ASK_ALIVE, END, backends_of, gone_among, pids_of, to_be_ended
from ..clock import now as clock
from ..listener import Listener
from ..logs import logger
from ._seams import AsyncSeams, seat_of, silence
from .arrival import ARRIVING, arrive, given_up, place_of
from .books import Books, Opening, log_callback_failed
from .holds import by_task_of
from .lent import AsyncLent
from .seat import Seat, Watch
from .shell import Shell, remember_open
from .upkeep import Pace

__all__ = ["AsyncGuardedPool"]


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
        check_after_idle: float = 30.0,
        leak_after: float = 0.0,
        at_once: float = 0,
    ) -> None:
        self._keep(
            Books(
                ledger=ledger,
                listener=listener or Listener(),
                pace=Pace(refresh_interval, check_timeout, max_idle, check_after_idle),
                max_connecting=max_connecting,
                max_lifetime=max_lifetime,
                reconnect_timeout=reconnect_timeout,
                leak_after=leak_after,
                at_once=at_once,
            )
        )
        self._warm_event: asyncio.Event | None = None
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
        self._books.named(self.name)

    # -- what users call -----------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> AsyncLent[ACT]:  # type: ignore[override]
        """A connection for an ``async with`` block, as
        :meth:`psycopg_pool.AsyncConnectionPool.connection`."""
        return AsyncLent(self, timeout)

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Obtain a connection, as :meth:`psycopg_pool.AsyncConnectionPool.getconn` does.

        Raises :exc:`~poolguard.pool.errors.PoolTimeout`, ``TooManyRequests`` and ``PoolClosed``
        (subclasses of psycopg_pool's), or :exc:`~poolguard.errors.ForkError` in a child of the
        process that opened the pool.
        """
        began = clock()
        borrower = CURRENT.get()
        if borrower is not None and borrower.loans:
            self._holds.asked(borrower)
        conn = self._free_conn(timeout, began)
        if conn is None:
            try:
                conn = await super().getconn(timeout)
            except BaseException as error:
                explained = self._explained(error, began)
                if explained is error:
                    raise
                raise explained from None
        try:
            self._lend(conn, began, borrower)
        except BaseException:  # what ends the process, or a timeout of gevent's, in a listener
            await self.putconn(conn)
            raise
        return conn

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool, as :meth:`psycopg_pool.AsyncConnectionPool.open` does."""
        try:
            await super().open(wait, timeout)
        except psycopg_pool.PoolClosed as error:
            raise self._unopened(error) from None

    async def wait(self, timeout: float = 30.0) -> None:
        """Wait for the floor, as :meth:`psycopg_pool.AsyncConnectionPool.wait` does.

        Closes the pool when the time is over; :meth:`wait_warm` does not.
        """
        try:
            await super().wait(timeout)
        except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed) as error:
            raise self._unopened(error) from None

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds, as :meth:`psycopg_pool.AsyncConnectionPool.resize` does."""
        await super().resize(min_size, max_size)
        self._ring()  # those who wait may have a connection opened for them now

    @staticmethod
    async def check_connection(conn: ACT) -> None:
        """As :meth:`~poolguard.pool.sync.GuardedPool.check_connection`."""
        await async_answer(conn)

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
        until = clock() + timeout
        await super().close(timeout)
        # A callback that closes the pool runs in one of these tasks itself.
        tasks = self._tasks_under_way - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, until - clock()))
        while self._watch.any_closing() and clock() < until:
            # The reader wakes the loop when a socket ends; a short sleep sees what it has booked.
            await asyncio.sleep(0.002)
        self._clock.look()

    def abandon(self) -> None:
        """Close a pool whose loop has ended without closing it: nothing can be awaited any more.

        Its slots are given back, also those of connections that are still in use somewhere.
        """
        if self.closed:
            return
        self._mark_closed()
        for conn in self._take_all_idle():
            self._before_close(conn)
            self._bury(conn)
        for seat in self._watch.take_all():
            seat.severed = True  # nobody will hear when the server has ended its side
            self._books.ended(seat)
        self._books.tell()
        self._books.close()
        self._watch.close()

    # -- the moments of psycopg_pool -----------------------------------------------------------

    def _when_opened(self) -> None:
        self._watch = self._new_watch()
        self._warm_event = asyncio.Event()
        self._holds.taker = by_task_of(asyncio.get_running_loop())
        self._clock = _Clock(self, self._watch, self._books)
        remember_open(self)
        self._books.opened(self.name, clock(), self._clock.ring)
        self._clock.start()

    def _may_join(self, conn: ACT) -> bool:
        fate = self._arrives(conn)
        if fate == "joins":
            return True
        if fate == "gone":
            self._resized_by(-1)
            self._bury(conn)
        elif fate == "leaves":
            self._resized_by(-1)
            self._in_task("close", self._discard(conn))
        else:
            self._in_task("verify", self._verify(conn, fate))
        self._watch.ring()
        return False

    def _has_joined(self, conn: ACT) -> None:
        if (seat := seat_of(conn)) is not None and seat.gone:
            # It ended just before it joined, when the upkeep could not find it.
            if not self._lost_idle(conn):
                return
            self._bury(conn)
        self._watch.ring()

    # -- upkeep --------------------------------------------------------------------------------

    def _look(self, ended: list[Seat]) -> float | None:
        """One round of upkeep; returns when the next is due, by the monotonic clock."""
        todo = self._round(ended)
        self._note_silence()
        if self._books.warm_after is not None and self._warm_event is not None:
            self._warm_event.set()
        for opening in todo.openings:
            self._in_task("connect", self._open_one(opening))
        for conn in todo.dead:
            self._bury(conn)
        for conn in todo.surplus:
            self._in_task("close", self._discard(conn))
        for conn, ask in todo.verify:
            self._in_task("verify", self._verify(conn, ask))
        self._books.tell()
        return todo.wake

    def _in_task(self, what: str, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job, name=f"{self.name}-{what}")
        self._tasks_under_way.add(task)
        task.add_done_callback(self._tasks_under_way.discard)

    async def _open_one(self, opening: Opening) -> None:
        """Connect, in a task of its own: a connect never queues behind another or a return."""
        seat = opening.seat
        ARRIVING.set((seat, self._watch, self._books.lessee))
        try:
            conn = await self._connect_one()
        except asyncio.CancelledError:
            self._books.connect_cancelled(seat)
            self._resized_by(-1)
            self._watch.ring()
            raise
        except Exception as error:  # noqa: BLE001 - whatever connecting raises, the pool goes on
            give_up = self._books.connect_failed(seat, opening.reason, error)
            self._resized_by(-1)
            self._note_refusal()
            self._books.tell()
            self._watch.ring()
            if give_up:
                try:
                    await self.reconnect_failed()
                except Exception as raised:  # noqa: BLE001 - as in psycopg_pool's workers
                    log_callback_failed("reconnect_failed", raised)
            return
        self._books.connected(seat, opening.reason, place_of(conn))
        await self._put(conn)
        self._books.tell()
        self._watch.ring()

    async def _verify(self, conn: ACT, ask: Sequence[Orphan]) -> None:
        """Ask one idle connection for a sign of life and put it back, or let it go.

        Where the backends of dead owners are asked about, the answer is the sign of life.
        """
        gone: Sequence[Orphan] = ()
        try:
            if ask:
                gone = await _gone(conn, ask)
            elif not self._is_to_inquire():
                await self.check_connection(conn)
            if self._inquire is not None and self._is_to_inquire():
                await self._inquire(conn)
        except (Exception, asyncio.CancelledError) as error:
            self._books.lessee.settle(ask, ())
            self._verification_ended(conn, alive=isinstance(error, asyncio.CancelledError))
            self._resized_by(-1)
            self._count_lost()
            self._bury(conn)
            self._watch.ring()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._verification_ended(conn, alive=True)
        if self._was_drained(conn):
            self._resized_by(-1)
            await self._discard(conn)
        else:
            await self._put(conn)
        self._books.lessee.settle(ask, gone)
        self._watch.ring()

    def _bury(self, conn: ACT) -> None:
        """Close a connection that the server has ended, or that does not answer."""
        silence(conn)
        conn.pgconn.finish()  # close() of an async connection is a coroutine that awaits nothing
        self._cut(conn)


class _Clock:
    """What wakes the upkeep of an async pool: the watch, the ledger, or the time.

    It holds the pool only while that looks at itself. Once the pool is closed, or collected, it
    stays until the last connection has ended, so that every slot is given back.
    """

    def __init__(self, pool: AsyncGuardedPool[Any], watch: Watch, books: Books) -> None:
        self._pool = ref(pool, lambda _: self.ring())
        self._watch = watch
        self._books = books
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # An empty one: what a pool does of itself is no part of the trace in which it was opened,
        # or in which somebody has returned a connection.
        self._context = Context()

    def start(self) -> None:
        if self._watch.sees_sockets:
            self._context.run(self._loop.add_reader, self._watch.fileno(), self.look)
        else:
            self._watch.on_ring = self.ring
        self._loop.call_soon(self.look, context=self._context)

    def ring(self) -> None:
        """From any thread: look soon."""
        with suppress(RuntimeError):  # the loop is closed, and nobody will look any more
            self._loop.call_soon_threadsafe(self.look, context=self._context)

    def look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch.closed:
            return  # a call that was on its way when the last connection ended
        ended = self._watch.wait(0)
        pool = self._pool()
        if pool is not None and not pool.closed:
            try:
                wake = pool._look(ended)
            except Exception:  # the upkeep must not end before the pool does
                logger.exception("the upkeep of pool %r failed; it goes on", pool.name)
                wake = clock() + 1.0
        else:
            wake = self._wind_up(ended)
        if wake is not None:
            delay = max(0.0, wake - clock())
            self._timer = self._loop.call_later(delay, self.look, context=self._context)

    def _wind_up(self, ended: list[Seat]) -> float | None:
        self._books.lessee.leave()
        for seat in ended:
            self._books.ended(seat)
        self._books.tell()
        if not len(self._watch) and not self._books.opening:
            self._books.close()
            if self._watch.sees_sockets:
                self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
        return clock() + 1.0 if self._watch.blind else None


async def _gone(conn: AsyncConnection[Any], orphans: Sequence[Orphan]) -> list[Orphan]:
    """Which of the backends do not exist any more. Those that ought not to are ended."""
    living = backends_of(await async_rows(conn, ASK_ALIVE, {"pids": pids_of(orphans)}))
    if overdue := to_be_ended(orphans, living):
        await async_rows(conn, END, {"pids": overdue})
        logger.info("ended %s sessions whose clients are gone", len(overdue))
    return gone_among(orphans, living)


def _seat_then(configure: AsyncConnectionCB[ACT] | None) -> AsyncConnectionCB[ACT]:
    """psycopg_pool's ``configure`` callback: ours first, then the user's."""

    async def seat_then_configure(conn: ACT) -> None:
        try:
            arrive(conn)
            if configure is not None:
                await configure(conn)
            if (late := given_up()) is not None:
                raise late
        except BaseException as error:
            late = given_up()
            silence(conn)
            await conn.close()
            if late is not None and isinstance(error, Exception):
                raise late from error
            raise

    return seat_then_configure
