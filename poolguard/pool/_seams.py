"""Every private name of psycopg_pool that poolguard touches, each with its reason.

Two classes turn psycopg_pool's inner workings into a handful of named moments, which the shells in
``sync.py`` and ``aio.py`` answer. psycopg_pool promises none of these names: when a release moves
one, this is the file to mend, and ``tests/pool/test_seams.py`` says which.

===============================  ==============================================================
``_start_initial_tasks``         the pool opens: connecting and shrinking become our upkeep's
``run_task(AddConnection)``      "one is gone, connect again": becomes one fewer in the count,
                                 and the upkeep derives the rest (psycopg_pool connects in the
                                 workers that also take back connections, with growing delays)
``run_task(ReturnConnection)``   a worker would keep the connection from being collected
``_maybe_grow_pool``             an acquire has joined the queue (psycopg_pool opens one
                                 connection at a time)
``_get_ready_connection``        a free connection is handed out; one that has been idle for
                                 too long is not, the acquire is queued until it is verified
``_getconn_with_check_loop``     a connection that the ``check`` callback refuses is followed
                                 by the next without a pause, if it was an old one that has died
``_getconn_unchecked``           one attempt of such an acquire: a free connection, or the queue
``_check _check_connection``     the callback, and how psycopg_pool calls it
``_putconn``                     what psycopg_pool does with a connection that was refused
``_open_implicit``               the first acquire is to warn that the pool was opened unasked
``_maybe_close_connection``      somebody returns a connection, which may be unfit for others
``_add_to_pool``                 a connection comes in, new or returned
``_close_connection``            the pool closes a connection of its own will
``_signal_stop_worker``          the pool closes, or is collected unclosed
``_connect``                     one connect with psycopg_pool's statistics and callbacks
``_resolve_conninfo``            the conninfo of a connect, which a callable may have answered:
                                 refused where libpq would not read it as it is meant
``_resolve_kwargs``              what an async connect is made with: the names of hosts are looked
                                 up in threads of ours
``_set_connection_expiry_date``  a lifetime ends when our upkeep says so: psycopg_pool would
``conn._expire_at``              close all that are too old as they come back, at once
``_check_open``                  the pool is about to open, or to be asked for a connection: not
``_check_open_getconn``          in a child of the process that opened it
``_lock``                        what the pool's counts are changed under
``_nconns _pool _waiting``       the counts: all connections, the idle ones, the queue
``waiter.error``                 who has given up waits no more
``_nconns_min``                  the fewest idle ones of late: what shrinking is judged by
``_min_size _max_size``          the bounds, which ``resize()`` moves
``_stats _CONNECTIONS_LOST``     a connection the watch found dead is counted as lost
``_CONNECTIONS_ERRORS``          a connect that ends with the look-up is counted as failed
``_REQUESTS_NUM``                an acquire that has found a free connection is counted
``_USAGE_MS``                    what the connections of ``connection()`` were used for is added up
``_drained_at conn._created_at`` a connection that was being verified when the pool was drained
                                 is one of those to be renewed
``_closed``                      a pool that a fork has carried into a child is closed there
``conn._pool``                   whose a lent connection is; one without it does not warn when
                                 it is collected open
===============================  ==============================================================
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any, Generic, NamedTuple

from psycopg import Error
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from psycopg_pool import pool as sync_module
from psycopg_pool import pool_async as async_module
from psycopg_pool.abc import ACT, CT

from ..clock import now as clock
from ..conninfo import insist_clear
from .errors import handled
from .holds import Holds
from .hosts import addresses, finds_hosts_itself
from .pause import Pause
from .seat import Seat

__all__ = ["AsyncSeams", "Counts", "Reader", "SyncSeams", "seat_of", "silence"]

logger = logging.getLogger("psycopg.pool")


_CONNINFO: ContextVar[str] = ContextVar("poolguard_conninfo", default="")
"""The connection string of the connect under way in this task."""


class Counts(NamedTuple):
    """A pool's own numbers, read at one moment."""

    size: int
    idle: int
    waiting: int
    idle_low: int
    min_size: int
    max_size: int
    taken_free: int
    """How many acquires have found a free connection so far."""


def seat_of(conn: Any) -> Seat | None:
    """The seat of a connection that one of our pools made."""
    seat: Seat | None = getattr(conn, "_poolguard_seat", None)
    return seat


def silence(conn: Any) -> None:
    """Let the connection be collected without a warning that it was left open."""
    conn._pool = None


class Reader:
    """What both classes read in the same way."""

    _counted: bool = False
    """It was opened. Before, psycopg_pool counts the floor as present, which nobody has opened."""
    _tried: str | None = None
    """The conninfo with which it was connected last, or tried to be."""
    _pool: Any
    _waiting: Any
    _nconns: int
    _nconns_min: int
    _min_size: int
    _max_size: int
    _stats: Any
    _CONNECTIONS_LOST: str
    _REQUESTS_NUM: str
    _USAGE_MS: str
    _closed: bool
    _open_implicit: bool
    _check: Any
    _holds: Holds
    _drained_at: float
    max_waiting: int
    timeout: float
    name: str
    _taken_free = 0
    _low_water = 0
    """With fewer idle connections left, the pool is looked at."""
    _forked = False
    """This is a child of the process that opened the pool."""

    @property
    def closed(self) -> bool:
        return self._closed

    def _mark_closed(self) -> None:
        self._closed = True

    def _take_all_idle(self) -> list[Any]:
        conns = list(self._pool)
        self._pool.clear()
        return conns

    def _close_to_child(self) -> None:
        """Leave what a fork has brought here to the parent."""
        self._forked = True
        self._mark_closed()
        self._take_all_idle()

    def _refuse_child(self) -> None:
        raise NotImplementedError

    def _ring(self) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        self._refuse_child()
        super()._check_open()  # type: ignore[misc] # psycopg_pool's, which the pools derive from

    def _check_open_getconn(self) -> None:
        self._refuse_child()
        super()._check_open_getconn()  # type: ignore[misc]

    def counts(self) -> Counts:
        return Counts(
            self._nconns if self._counted else 0,
            len(self._pool),
            len(self._waiting),
            self._nconns_min,
            self._min_size,
            self._max_size,
            self._taken_free,
        )

    def _idle_seats(self) -> list[Seat]:
        return [seat for conn in self._pool if (seat := seat_of(conn)) is not None]

    def _forget_who_gave_up(self) -> None:
        """Those who have timed out, or were cancelled, stay in psycopg_pool's queue until somebody
        returns a connection: they need none."""
        if any(waiter.error is not None for waiter in self._waiting):
            still = [waiter for waiter in self._waiting if waiter.error is None]
            self._waiting.clear()
            self._waiting.extend(still)

    def _resized_by(self, n: int) -> None:
        self._nconns += n

    def _new_idle_period(self) -> None:
        self._nconns_min = len(self._pool)

    def _take_idle(self, conn: Any) -> bool:
        """Take this very connection out of the idle ones; False when it is not there any more."""
        try:
            self._pool.remove(conn)
        except ValueError:
            return False
        return True

    def _was_drained(self, conn: Any) -> bool:
        """The pool, open still, was drained while the connection was out of it."""
        return not self._closed and bool(conn._created_at <= self._drained_at)

    def _is_stale(self, seat: Seat, now: float) -> bool:
        raise NotImplementedError

    def _fresh_to_the_front(self) -> bool:
        """Have an idle connection handed out next that need not be verified; False if none is."""
        now = clock()
        for n, conn in enumerate(self._pool):
            if not self._is_stale(conn._poolguard_seat, now):
                if n:
                    del self._pool[n]
                    self._pool.appendleft(conn)
                return True
        return False

    @property
    def _being_verified(self) -> int:
        raise NotImplementedError

    @contextmanager
    def _none_idle(self) -> Iterator[None]:
        """As if none were idle: who asks is queued, or rejected where the queue is full."""
        idle = [*self._pool]
        self._pool.clear()
        try:
            yield
        finally:
            self._pool.extend(idle)

    def _may_queue(self, timeout: float | None) -> bool:
        """Whether an acquire that finds none fit to be lent is queued, full as the queue may be.

        Those that are verified first, now or in a moment, would be free for psycopg_pool: it would
        have queued as many fewer.
        """
        soon = len(self._pool) + self._being_verified
        in_time = timeout is None or timeout > 0
        return in_time and 0 < soon > len(self._waiting) - self.max_waiting

    def _may_connect_again(self, error: Exception, made_with: object) -> bool:
        raise NotImplementedError

    def _joins_at_once(self, seat: Seat) -> bool:
        raise NotImplementedError

    def _is_unfit_after(self, error: BaseException, conn: Any) -> bool:
        raise NotImplementedError

    def _check_has_failed(self, conn: Any, began: float, since: float) -> bool:
        raise NotImplementedError

    def _spoil(self, conn: Any) -> None:
        raise NotImplementedError

    def _taken(self, conn: Any) -> None:
        """A free connection is handed out."""
        conn._poolguard_seat.was_free = True
        self._taken_free += 1
        if len(self._pool) < self._low_water:
            self._have_it_looked_at()

    def _have_it_looked_at(self) -> None:
        self._low_water = 0  # once is enough: the look sets it again
        self._ring()

    def _next_free(self, now: float) -> Any:
        """Take the connection that is handed out next; None where there is none, or none that can
        be handed out as it is: psycopg_pool's own way is gone then."""
        if not self._pool:
            return None
        seat: Seat = self._pool[0]._poolguard_seat
        if self._is_stale(seat, now):
            return None
        conn = self._pool.popleft()
        left = len(self._pool)
        if left < self._nconns_min:  # noqa: PLR1730 - min() takes twice as long, here it matters
            self._nconns_min = left
        if left < self._low_water:
            self._have_it_looked_at()
        seat.was_free = True
        self._taken_free += 1
        conn._pool = self
        return conn

    def _used_for(self, seconds: float) -> None:
        """A connection was lent for so long."""
        self._stats[self._USAGE_MS] += int(1000.0 * seconds)

    def _fewer_idle(self) -> None:
        """One of the idle ones is gone for good."""
        self._nconns_min = min(self._nconns_min, len(self._pool))

    def _idle_conn(self) -> Any:
        """The one that is handed out last."""
        return self._pool[-1]

    def _take_longest_idle(self) -> Any:
        conn = self._pool.popleft()
        self._nconns_min = min(self._nconns_min, len(self._pool))
        return conn

    def _count_lost(self) -> None:
        self._stats[self._CONNECTIONS_LOST] += 1

    def _start_counting(self) -> None:
        self._nconns = 0
        self._nconns_min = 0
        self._counted = True


class Errand:
    """Runs a maintenance task, and lets go of it: one of psycopg_pool's workers refers to its last
    task until the next one comes, and so to a connection, which could not be collected."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __repr__(self) -> str:
        return repr(self._task)

    def run(self) -> Any:
        task, self._task = self._task, None
        return task.run()


class SyncSeams(Reader, ConnectionPool[CT], Generic[CT]):
    """``ConnectionPool`` with its private moments under names of ours."""

    def _when_opened(self) -> None:
        raise NotImplementedError

    def _when_vacant(self) -> None:
        raise NotImplementedError

    def _when_queued(self) -> None:
        raise NotImplementedError

    def _may_join(self, conn: CT) -> bool:
        raise NotImplementedError

    def _has_joined(self, conn: CT) -> None:
        raise NotImplementedError

    def _before_close(self, conn: CT) -> None:
        raise NotImplementedError

    def _after_close(self, conn: CT) -> None:
        raise NotImplementedError

    def _when_stopping(self) -> None:
        raise NotImplementedError

    @property
    def _counting(self) -> AbstractContextManager[Any]:
        """What the counts are read and changed under."""
        return self._lock

    def _connect_one(self) -> CT:
        while True:
            made_with = self.kwargs
            try:
                return self._connect()
            except Error as error:
                with self._lock:
                    again = self._may_connect_again(error, made_with)
                if not again:
                    raise

    def _resolve_conninfo(self) -> str:
        self._tried = conninfo = super()._resolve_conninfo()
        insist_clear(conninfo)
        return conninfo

    def _put(self, conn: CT) -> None:
        """Give the connection to the first waiter, or lay it with the idle ones."""
        self._add_to_pool(conn)

    def _discard(self, conn: CT) -> None:
        self._close_connection(conn)

    def _start_initial_tasks(self) -> None:
        self._start_counting()
        self._when_opened()

    def run_task(self, task: Any) -> None:
        if isinstance(task, sync_module.ReturnConnection):
            super().run_task(Errand(task))  # type: ignore[arg-type]
        elif isinstance(task, sync_module.AddConnection):
            with self._lock:
                self._nconns -= 1
            self._when_vacant()
        else:
            super().run_task(task)

    def _maybe_grow_pool(self) -> None:
        self._when_queued()

    def _free_conn(self, timeout: float | None, now: float) -> CT | None:
        """What ``getconn`` does where a connection is free, without its detours; None elsewhere."""
        if timeout is None:
            timeout = self.timeout
        if not self._pool or self._check or self._open_implicit or timeout <= 0:
            return None
        with self._lock:
            conn: CT | None = self._next_free(now)
        if conn is None:
            return None
        logger.info("connection requested from %r", self.name)
        self._stats[self._REQUESTS_NUM] += 1
        logger.info("connection given by %r", self.name)
        return conn

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        if self._fresh_to_the_front():
            conn = super()._get_ready_connection(timeout)
            if conn is not None:
                self._taken(conn)
            return conn
        if self._may_queue(timeout):
            return None
        with self._none_idle():
            return super()._get_ready_connection(timeout)

    def _getconn_with_check_loop(self, deadline: float) -> CT:
        if not self._check:
            conn = self._getconn_unchecked(deadline - monotonic())
            logger.info("connection given by %r", self.name)
            return conn
        pause = Pause(deadline)
        while True:
            conn = self._getconn_unchecked(deadline - monotonic())
            began = clock()
            try:
                self._check_connection(conn)
            except Exception:  # noqa: BLE001 - whatever the callback raises, it refuses this one
                at_once = self._check_has_failed(conn, began, pause.since)
                self._putconn(conn, from_getconn=True)
            except BaseException:
                self._spoil(conn)
                self._putconn(conn, from_getconn=True)
                raise
            else:
                if pause.needed:
                    self._spoil(conn)
                logger.info("connection given by %r", self.name)
                return conn
            sleep(pause.next(at_once=at_once))

    def _maybe_close_connection(self, conn: CT) -> bool:
        seat: Seat = conn._poolguard_seat  # type: ignore[attr-defined]
        seat.lent = seat.vouched = False
        if seat.hold is not None:
            self._holds.returned(seat)
        error = handled()
        unfit = error is not None and not self._closed and self._is_unfit_after(error, conn)
        if unfit:
            self._close_connection(conn)
            self.run_task(sync_module.AddConnection(self))
            return True
        return self._closed and super()._maybe_close_connection(conn)

    def _set_connection_expiry_date(self, conn: Any) -> None:
        super()._set_connection_expiry_date(conn)
        conn._expire_at = math.inf

    def _add_to_pool(self, conn: CT) -> None:
        seat: Seat = conn._poolguard_seat  # type: ignore[attr-defined]
        if self._joins_at_once(seat) or self._may_join(conn):
            super()._add_to_pool(conn)
            if seat.plain_until <= seat.proved_at:
                self._has_joined(conn)

    def _close_connection(self, conn: CT) -> None:
        if self._forked:
            return  # to close it here would end it in the parent
        with self._lock:
            self._before_close(conn)
        super()._close_connection(conn)
        self._after_close(conn)

    def _close_to_child(self) -> None:
        super()._close_to_child()
        self._lock = threading.RLock()  # the old one may be held, by a thread that is not here

    def _signal_stop_worker(self) -> list[Any]:
        self._when_stopping()
        return super()._signal_stop_worker()


class AsyncSeams(Reader, AsyncConnectionPool[ACT], Generic[ACT]):
    """``AsyncConnectionPool`` with its private moments under names of ours."""

    def _when_opened(self) -> None:
        raise NotImplementedError

    def _when_vacant(self) -> None:
        raise NotImplementedError

    def _when_queued(self) -> None:
        raise NotImplementedError

    def _may_join(self, conn: ACT) -> bool:
        raise NotImplementedError

    def _has_joined(self, conn: ACT) -> None:
        raise NotImplementedError

    def _before_close(self, conn: ACT) -> None:
        raise NotImplementedError

    def _after_close(self, conn: ACT) -> None:
        raise NotImplementedError

    async def _connect_one(self) -> ACT:
        while True:
            made_with = self.kwargs
            try:
                return await self._connect()
            except Error as error:
                if not self._may_connect_again(error, made_with):
                    raise

    async def _resolve_conninfo(self) -> str:
        self._tried = conninfo = await super()._resolve_conninfo()
        insist_clear(conninfo)
        _CONNINFO.set(conninfo)
        return conninfo

    async def _resolve_kwargs(self) -> dict[str, Any]:
        kwargs = await super()._resolve_kwargs()
        if finds_hosts_itself(self.connection_class):
            return kwargs
        try:
            return {**kwargs, **await addresses(_CONNINFO.get(), kwargs)}
        except Error:
            self._stats[self._CONNECTIONS_ERRORS] += 1
            raise

    async def _put(self, conn: ACT) -> None:
        """Give the connection to the first waiter, or lay it with the idle ones."""
        await self._add_to_pool(conn)

    async def _discard(self, conn: ACT) -> None:
        await self._close_connection(conn)

    def _start_initial_tasks(self) -> None:
        self._start_counting()
        self._when_opened()

    def run_task(self, task: Any) -> None:
        if isinstance(task, async_module.ReturnConnection):
            super().run_task(Errand(task))  # type: ignore[arg-type]
        elif isinstance(task, async_module.AddConnection):
            self._nconns -= 1
            self._when_vacant()
        else:
            super().run_task(task)

    def _maybe_grow_pool(self) -> None:
        self._when_queued()

    def _free_conn(self, timeout: float | None, now: float) -> ACT | None:
        """What ``getconn`` does where a connection is free, without its detours; None elsewhere."""
        if timeout is None:
            timeout = self.timeout
        if not self._pool or self._check or self._open_implicit or timeout <= 0:
            return None
        conn: ACT | None = self._next_free(now)
        if conn is None:
            return None
        logger.info("connection requested from %r", self.name)
        self._stats[self._REQUESTS_NUM] += 1
        logger.info("connection given by %r", self.name)
        return conn

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        if self._fresh_to_the_front():
            conn = await super()._get_ready_connection(timeout)
            if conn is not None:
                self._taken(conn)
            return conn
        if self._may_queue(timeout):
            return None
        with self._none_idle():
            return await super()._get_ready_connection(timeout)

    async def _getconn_with_check_loop(self, deadline: float) -> ACT:
        if not self._check:
            conn = await self._getconn_unchecked(deadline - monotonic())
            logger.info("connection given by %r", self.name)
            return conn
        pause = Pause(deadline)
        while True:
            conn = await self._getconn_unchecked(deadline - monotonic())
            began = clock()
            try:
                await self._check_connection(conn)
            except Exception:  # noqa: BLE001 - whatever the callback raises, it refuses this one
                at_once = self._check_has_failed(conn, began, pause.since)
                await self._putconn(conn, from_getconn=True)
            except BaseException:
                self._spoil(conn)
                await self._putconn(conn, from_getconn=True)
                raise
            else:
                if pause.needed:
                    self._spoil(conn)
                logger.info("connection given by %r", self.name)
                return conn
            await asyncio.sleep(pause.next(at_once=at_once))

    async def _maybe_close_connection(self, conn: ACT) -> bool:
        seat: Seat = conn._poolguard_seat  # type: ignore[attr-defined]
        seat.lent = seat.vouched = False
        if seat.hold is not None:
            self._holds.returned(seat)
        error = handled()
        unfit = error is not None and not self._closed and self._is_unfit_after(error, conn)
        if unfit:
            await self._close_connection(conn)
            self.run_task(async_module.AddConnection(self))
            return True
        return self._closed and await super()._maybe_close_connection(conn)

    def _set_connection_expiry_date(self, conn: Any) -> None:
        super()._set_connection_expiry_date(conn)
        conn._expire_at = math.inf

    async def _add_to_pool(self, conn: ACT) -> None:
        seat: Seat = conn._poolguard_seat  # type: ignore[attr-defined]
        if self._joins_at_once(seat) or self._may_join(conn):
            await super()._add_to_pool(conn)
            if seat.plain_until <= seat.proved_at:
                self._has_joined(conn)

    async def _close_connection(self, conn: ACT) -> None:
        if self._forked:
            return  # to close it here would end it in the parent
        self._before_close(conn)
        await super()._close_connection(conn)
        self._after_close(conn)

    def _close_to_child(self) -> None:
        super()._close_to_child()
        self._lock = asyncio.Lock()
