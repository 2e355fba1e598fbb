"""The sync pool: what its users call, a lock, and waiters that threads or greenlets sleep on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, cast

from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from ..budget.ledger import Ledger
from ..budget.queries import answer
from ..util.clock import now as clock
from ..util.clock import waitable
from .acquirer import CURRENT
from .base import INFO
from .block import Block
from .entry import Entry
from .errors import PoolTimeout
from .events import Listener
from .jobs import at_once
from .outbox import logger
from .owners import HERE
from .session import condition_of, was_reset
from .threads import Threads
from .transitions import Condition, Misplaced
from .waiter import Waiter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GuardedPool"]

LOOK_EVERY = 1.0
"""Seconds after which a waiter has the pool looked at, and sees whether it was served without being
woken: a signal's handler may raise between the two."""
IDLE = int(TransactionStatus.IDLE)


class _Waiter(Waiter):
    """Sleeps on a lock, which is patched where threads are greenlets."""

    __slots__ = ()

    def wake(self) -> None:
        if (woken := self._woken) is not None:
            try:
                woken.release()
            except RuntimeError:
                return  # it is awake

    def wait(self, ring: Callable[[], None]) -> None:
        """Return once it was served or refused, or its time is over; *ring* now and then."""
        woken = self._woken = threading.Lock()
        woken.acquire()
        left = self.until - self.queued_at
        while self.conn is None and self.error is None and left > 0:
            if not woken.acquire(True, left if left < LOOK_EVERY else LOOK_EVERY):
                ring()
                left = self.until - clock()


class GuardedPool(Threads, ConnectionPool[CT], Generic[CT]):
    """A drop-in for :class:`psycopg_pool.ConnectionPool`.

    It takes every argument of that class, with the same defaults and meanings, and these:

    :param ledger: grants the slots that connections need; by default there is no bound.
    :param listener: told of every acquire, connect and close.
    :param max_connecting: connects under way at once.
    :param check_interval: an idle connection is verified at least this often, in seconds.
    :param check_timeout: bound of one verification, in seconds.
    :param check_after_idle: one idle for longer, in seconds, is verified before it is lent.
    :param leak_after: seconds after which a connection that is still lent is reported, with the
        stack that took it; 0 (never) by default.
    :param at_once: how many acquires can be under way at once. Up to so many, more connections are
        opened than are lent, in the background and before an acquire waits for them: their square
        root more. 0 by default: none is opened before it is asked for.

    It differs in this: it opens as many connections at once as are waited for, where psycopg_pool
    opens one after the other. It notices earlier that a connection has died: one that the server
    ends while it is idle leaves the pool at once. It replaces old ones one at a time, at 70 to 90 %
    of *max_lifetime*. While connecting fails it tries about once a second for ever, and calls
    *reconnect_failed* after each *reconnect_timeout*. Its errors are subclasses of psycopg_pool's,
    with more in their texts.
    """

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        # No cast: pyright would make of it a pool whose connections are of no known class.
        connection_class: type[CT] = Connection,  # type: ignore[assignment]
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,  # noqa: A002 - psycopg_pool's name
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
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
        self._begin_threads()
        if open or open is None:
            self.open()

    def __enter__(self) -> Self:
        self._opens_unasked = False
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- acquiring -----------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> Block[CT]:  # type: ignore[override]
        """A connection for a ``with`` block, as :meth:`psycopg_pool.ConnectionPool.connection`."""
        return Block(self, timeout)

    def getconn(self, timeout: float | None = None) -> CT:
        """Obtain a connection, as :meth:`psycopg_pool.ConnectionPool.getconn` does.

        Raises :exc:`~poolguard.pool.errors.PoolTimeout`, ``TooManyRequests`` and ``PoolClosed``
        (subclasses of psycopg_pool's), or :exc:`~poolguard.errors.ForkError` in a child of the
        process that opened the pool.
        """
        began = clock()
        acquirer = CURRENT.get()
        if acquirer is not None and acquirer.checkouts:
            self._keeper.leaks.asked(acquirer)
        if timeout is None:
            timeout = self.timeout
        core = self._core
        conn: CT | None = None
        try:
            if core.idle and timeout > 0 and self._on_check is None and not self._opens_unasked:
                with self._mutex:
                    conn = core.take(began)
                if core.look_due:
                    self._look_soon()
            if conn is not None:
                if logger.isEnabledFor(INFO):
                    logger.info("connection requested from %r", self.name)
                    logger.info("connection given by %r", self.name)
                conn._pool = self
                entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
                entry.owner = HERE.owner
                if acquirer is not None or self._tells_immediate or self._watches_all:
                    self._lend(entry, began, acquirer)
                return conn
        except BaseException:  # of a signal's handler, or of gevent's timeout in a listener
            self._recover(conn)
            raise
        return self._getconn_slowly(_Waiter(began, began + timeout), timeout)

    def _getconn_slowly(self, waiter: _Waiter, timeout: float) -> CT:
        conn: CT | None = None
        try:
            if timeout <= 0 or self._core.closed or self._opens_unasked:
                self._acquire_in_vain(timeout)
            logs = logger.isEnabledFor(INFO)
            if logs:
                logger.info("connection requested from %r", self.name)
            conn = self._obtain(waiter, waiter.began)
            if self._on_check is not None:
                first, conn = conn, None
                conn = cast("CT", at_once(self._obtain_checked(first, waiter)))
        except BaseException as error:
            self._recover(conn)
            self._note_failure(error, waiter)
            raise
        try:
            if logs:
                logger.info("connection given by %r", self.name)
            self._lend_late(conn._poolguard_entry, waiter)  # type: ignore[attr-defined]
        except BaseException:
            self._recover(conn)
            raise
        return conn

    def _obtain(self, waiter: _Waiter, now: float) -> CT:
        """A connection that is free, or the next that comes in."""
        core = self._core
        conn: Any = None
        try:
            with self._mutex:
                conn = core.acquire(now, waiter)
            if conn == "queued":
                if core.look_due:
                    self._look_soon()
                waiter.wait(self._ring)
                conn, waiter.conn = waiter.conn, None
                if conn is None:
                    with self._mutex:
                        conn = core.withdraw(waiter, clock(), timed_out=True)
            if conn == "closed":
                self._insist_open()
            if conn == "refused":
                self._reject()
            if conn is None:
                raise waiter.error or PoolTimeout
            conn._pool = self
            conn._poolguard_entry.owner = HERE.owner
            return cast("CT", conn)
        except BaseException:
            self._recover(None if isinstance(conn, str) else conn)
            with self._mutex:
                conn = self._core.withdraw(waiter, clock())
            self._recover(conn)
            raise

    def _recover(self, conn: Any) -> None:
        """An acquire has been broken off: *conn*, if it was given one, goes to others.

        A signal's handler may have raised as the lock was about to be released, to which a ``with``
        block does not see until Python 3.11.
        """
        mutex: Any = self._mutex
        while mutex._is_owned():
            mutex.release()
        if conn is not None:
            self._do(self._put(conn, conn._poolguard_entry, in_acquire=True))

    # -- returning -----------------------------------------------------------------------------

    # A call costs as much as all the rest of an ordinary return: so it is one function, with a
    # branch more than others may have.
    def putconn(self, conn: CT) -> None:  # noqa: C901 - each call in it is one of every return's
        """Take a connection back, as :meth:`psycopg_pool.ConnectionPool.putconn` does.

        Raises :exc:`ValueError` for one that is not lent from here.
        """
        try:
            entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
            if conn._pool is not self:
                return self._refuse(conn)
        except AttributeError:
            return self._refuse(conn)
        lent_at = entry.lent_at
        try:
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
                return self._do(self._put(conn, entry))
            conn._pool = None
            with self._mutex:
                fate = self._core.give_back(entry, clock())
        except Misplaced:
            return self._refuse(conn)
        except BaseException:  # a signal's handler has raised in the midst of it
            self._put_after_all(conn, entry, lent_at)
            raise
        if isinstance(fate, _Waiter):
            fate.wake()
        elif fate is not None:
            self._do(self._settle(conn, entry, fate))
        if self._core.look_due:
            self._look_soon()
        return None

    def _put_after_all(self, conn: Any, entry: Entry, lent_at: float) -> None:
        """A return was broken off: take the connection back, or close it, unless a reset runs."""
        self._recover(None)
        is_fit = self._on_reset is None and condition_of(conn, entry) == "clean"
        with self._mutex:
            self._core.mend()
            waiters = [*self._core.waiting]
            still = entry.state == "lent" and entry.lent_at == lent_at
            condition: Condition = "clean" if is_fit and entry.verdict is None else "unfit"
            fate = self._core.give_back(entry, clock(), condition) if still else None
        self._do(self._settle(conn, entry, fate))
        for waiter in waiters:
            waiter.wake()

    @property
    def interrupted(self) -> bool:
        """This runs in the midst of a call of this very thread's, as what a collection of garbage
        or a signal has called does: nothing can be given back now."""
        mutex: Any = self._mutex
        return bool(mutex._is_owned())

    # -- the pool's life -----------------------------------------------------------------------

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool, as :meth:`psycopg_pool.ConnectionPool.open` does."""
        with self._mutex:
            if self._may_open():
                self._was_opened = True
                self._core.closed = self._core.alert = False
                self._begin_upkeep()
        if wait:
            self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """Wait for the floor, as :meth:`psycopg_pool.ConnectionPool.wait` does.

        Closes the pool when the time is over; :meth:`wait_warm` does not.
        """
        self._insist_open()
        full = threading.Event()
        with self._mutex:
            self._full.append(full)
        self._ring()
        logger.info("waiting for pool %r initialization", self.name)
        if not full.wait(waitable(timeout)):
            error = self._incomplete(timeout)
            self.close()
            raise error
        logger.info("pool %r is ready to use", self.name)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds, as :meth:`psycopg_pool.ConnectionPool.resize` does."""
        with self._mutex:
            self._resize(min_size, max_size)

    def check(self) -> None:
        """Verify the idle connections, as :meth:`psycopg_pool.ConnectionPool.check` does.

        One after the other, so that an acquire finds the others; each within ``check_timeout``.
        """
        self._do(self._check_idle())

    def drain(self) -> None:
        """Renew all connections, as :meth:`psycopg_pool.ConnectionPool.drain` does."""
        self._do(self._drain())

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool, as :meth:`psycopg_pool.ConnectionPool.close` does.

        Waits, within *timeout* seconds, until the server has ended the connections that were idle,
        and half a second for those being opened, which close themselves should they come later.
        """
        began = clock()
        for conn in [] if self.closed else self._shut():
            self._do(self._discard(conn))
        self._ring()
        timeout = waitable(timeout)
        while (thread := self._unfinished(clock() - began)) is not None:
            if clock() - began >= timeout:
                break
            thread.join(0.005)

    @staticmethod
    def check_connection(conn: CT) -> None:
        """Raise unless the server answers, as psycopg_pool's ``check_connection`` does.

        No instrumentation sees the question, and the transaction mode stays as it is.
        """
        answer(conn)
