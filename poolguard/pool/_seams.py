"""Every private name of psycopg_pool that poolguard touches, each with its reason.

Two classes turn psycopg_pool's inner workings into a handful of named moments, which the shells in
``sync.py`` and ``aio.py`` answer. psycopg_pool promises none of these names: when a release moves
one, this is the file to mend, and ``tests/pool/test_seams.py`` says which.

===========================  ==========================================================
``_start_initial_tasks``     the pool opens: connecting and shrinking become our upkeep's
``run_task(AddConnection)``  "one is gone, connect again": becomes one fewer in the count,
                             and the upkeep derives the rest (psycopg_pool connects in the
                             workers that also take back connections, with growing delays)
``_maybe_grow_pool``         an acquire has joined the queue (psycopg_pool opens one
                             connection at a time)
``_get_ready_connection``    a free connection was handed out: no wait, no connect
``_add_to_pool``             a connection comes in, new or returned
``_close_connection``        the pool closes a connection of its own will
``_signal_stop_worker``      the pool closes, or is collected unclosed
``_connect``                 one connect with psycopg_pool's statistics and callbacks
``_check_open``              the pool is about to open, or to be asked for a connection: not
``_check_open_getconn``      in a child of the process that opened it
``_check_connection``        the ``check`` callback may find a free connection dead
``_lock``                    what the pool's counts are changed under
``_nconns _pool _waiting``   the counts: all connections, the idle ones, the queue
``_nconns_min``              the fewest idle ones of late: what shrinking is judged by
``_min_size _max_size``      the bounds, which ``resize()`` moves
``_stats _CONNECTIONS_LOST`` a connection the watch found dead is counted as lost
``_closed``                   a pool that a fork has carried into a child is closed there
``conn._pool``               a connection without it warns when it is collected open
===========================  ==========================================================
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic

from psycopg_pool import AsyncConnectionPool, ConnectionPool
from psycopg_pool import pool as sync_module
from psycopg_pool import pool_async as async_module
from psycopg_pool.abc import ACT, CT

from .seat import Seat

__all__ = ["CHECK_FAILED_AT", "AsyncSeams", "Counts", "Reader", "SyncSeams", "seat_of", "silence"]

CHECK_FAILED_AT: ContextVar[float] = ContextVar("poolguard_check_failed_at", default=0.0)
"""When the ``check`` callback last failed in this thread or task: its acquire goes on trying."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A pool's own numbers, read at one moment."""

    size: int
    idle: int
    waiting: int
    idle_low: int
    min_size: int
    max_size: int


def seat_of(conn: Any) -> Seat | None:
    """The seat of a connection that one of our pools made."""
    seat: Seat | None = getattr(conn, "_poolguard_seat", None)
    return seat


def silence(conn: Any) -> None:
    """Let the connection be collected without a warning that it was left open."""
    conn._pool = None


class Reader:
    """What both classes read in the same way."""

    _pool: Any
    _waiting: Any
    _nconns: int
    _nconns_min: int
    _min_size: int
    _max_size: int
    _stats: Any
    _CONNECTIONS_LOST: str
    _closed: bool
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

    def _check_open(self) -> None:
        self._refuse_child()
        super()._check_open()  # type: ignore[misc] # psycopg_pool's, which the pools derive from

    def _check_open_getconn(self) -> None:
        self._refuse_child()
        super()._check_open_getconn()  # type: ignore[misc]

    def counts(self) -> Counts:
        return Counts(
            self._nconns,
            len(self._pool),
            len(self._waiting),
            self._nconns_min,
            self._min_size,
            self._max_size,
        )

    def _idle_seats(self) -> list[Seat]:
        return [seat for conn in self._pool if (seat := seat_of(conn)) is not None]

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

    def _fewer_idle(self) -> None:
        """One of the idle ones is gone for good."""
        self._nconns_min = min(self._nconns_min, len(self._pool))

    def _idle_conn(self) -> Any:
        """The one that is handed out last."""
        return self._pool[0]

    def _take_longest_idle(self) -> Any:
        conn = self._pool.popleft()
        self._nconns_min = min(self._nconns_min, len(self._pool))
        return conn

    def _count_lost(self) -> None:
        self._stats[self._CONNECTIONS_LOST] += 1

    def _start_counting(self) -> None:
        self._nconns = 0  # psycopg_pool counts the floor as present before it has connected
        self._nconns_min = 0


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
        return self._connect()

    def _put(self, conn: CT) -> None:
        """Give the connection to the first waiter, or lay it with the idle ones."""
        self._add_to_pool(conn)

    def _discard(self, conn: CT) -> None:
        self._close_connection(conn)

    def _start_initial_tasks(self) -> None:
        self._start_counting()
        self._when_opened()

    def run_task(self, task: Any) -> None:
        if isinstance(task, sync_module.AddConnection):
            with self._lock:
                self._nconns -= 1
            self._when_vacant()
        else:
            super().run_task(task)

    def _maybe_grow_pool(self) -> None:
        self._when_queued()

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        conn = super()._get_ready_connection(timeout)
        if conn is not None and (seat := seat_of(conn)) is not None:
            seat.was_free = True
        return conn

    def _add_to_pool(self, conn: CT) -> None:
        if self._may_join(conn):
            super()._add_to_pool(conn)
            self._has_joined(conn)

    def _check_connection(self, conn: CT) -> None:
        try:
            super()._check_connection(conn)
        except BaseException:
            CHECK_FAILED_AT.set(monotonic())
            raise

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
        return await self._connect()

    async def _put(self, conn: ACT) -> None:
        """Give the connection to the first waiter, or lay it with the idle ones."""
        await self._add_to_pool(conn)

    async def _discard(self, conn: ACT) -> None:
        await self._close_connection(conn)

    def _start_initial_tasks(self) -> None:
        self._start_counting()
        self._when_opened()

    def run_task(self, task: Any) -> None:
        if isinstance(task, async_module.AddConnection):
            self._nconns -= 1
            self._when_vacant()
        else:
            super().run_task(task)

    def _maybe_grow_pool(self) -> None:
        self._when_queued()

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        conn = await super()._get_ready_connection(timeout)
        if conn is not None and (seat := seat_of(conn)) is not None:
            seat.was_free = True
        return conn

    async def _add_to_pool(self, conn: ACT) -> None:
        if self._may_join(conn):
            await super()._add_to_pool(conn)
            self._has_joined(conn)

    async def _check_connection(self, conn: ACT) -> None:
        try:
            await super()._check_connection(conn)
        except BaseException:
            CHECK_FAILED_AT.set(monotonic())
            raise

    async def _close_connection(self, conn: ACT) -> None:
        if self._forked:
            return  # to close it here would end it in the parent
        self._before_close(conn)
        await super()._close_connection(conn)
        self._after_close(conn)

    def _close_to_child(self) -> None:
        super()._close_to_child()
        self._lock = asyncio.Lock()
