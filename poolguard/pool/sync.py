"""The sync pool: psycopg_pool's ``ConnectionPool``, growing in parallel and kept fresh."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, cast
from weakref import ReferenceType, ref

import psycopg_pool
from psycopg import Connection
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from ..borrower import CURRENT
from ..budget.asking import answer, rows
from ..budget.ledger import Ledger, Orphan
from ..budget.session import ASK_ALIVE, END, backends_of, gone_among, pids_of, to_be_ended
from ..clock import now as clock
from ..clock import waitable
from ..listener import Listener
from ..logs import logger
from ._seams import SyncSeams, seat_of, silence
from .arrival import ARRIVING, arrive, given_up, place_of
from .books import Books, Opening, log_callback_failed
from .lent import Lent
from .seat import Seat, Watch
from .shell import Shell, remember_open
from .upkeep import Pace

__all__ = ["GuardedPool"]

HANGS_AFTER = 0.5
"""Seconds after which closing a pool waits no more for a connect that is under way. The server may
hang; psycopg cannot be told to give a connect up."""


class GuardedPool(Shell, SyncSeams[CT], Generic[CT]):
    """A drop-in for :class:`psycopg_pool.ConnectionPool`.

    It takes every argument of that class, with the same defaults and meanings, and these:

    :param ledger: who grants the slots that connections need; by default nobody is asked.
    :param listener: told of every acquire, connect and close.
    :param max_connecting: connects under way at once.
    :param refresh_interval: an idle connection is verified at least this often, in seconds.
    :param check_timeout: bound of one verification, in seconds.
    :param check_after_idle: one idle for longer, in seconds, is verified before it is lent.
    :param leak_after: seconds after which a connection that is still lent is reported, with the
        stack that took it; 0 (never) by default.
    :param at_once: how many acquires can be under way at once. Up to so many, more connections are
        opened than are lent, in the background and before anybody waits for them: their square root
        more. 0 by default: none is opened before it is asked for.

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
        connection_class: type[CT] = cast("type[CT]", Connection),  # noqa: B008
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
        self._warm = threading.Event()
        self._upkeep: threading.Thread | None = None
        self._jobs: dict[threading.Thread, str] = {}
        """Connects and verifications, some of which may have ended."""
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

    def connection(self, timeout: float | None = None) -> Lent[CT]:  # type: ignore[override]
        """A connection for a ``with`` block, as :meth:`psycopg_pool.ConnectionPool.connection`."""
        return Lent(self, timeout)

    def getconn(self, timeout: float | None = None) -> CT:
        """Obtain a connection, as :meth:`psycopg_pool.ConnectionPool.getconn` does.

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
                conn = super().getconn(None if timeout is None else waitable(timeout))
            except BaseException as error:
                explained = self._explained(error, began)
                if explained is error:
                    raise
                raise explained from None
        try:
            self._lend(conn, began, borrower)
        except BaseException:  # what ends the process, or a timeout of gevent's, in a listener
            self.putconn(conn)
            raise
        return conn

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool, as :meth:`psycopg_pool.ConnectionPool.open` does."""
        try:
            super().open(wait, timeout)
        except psycopg_pool.PoolClosed as error:
            raise self._unopened(error) from None

    def wait(self, timeout: float = 30.0) -> None:
        """Wait for the floor, as :meth:`psycopg_pool.ConnectionPool.wait` does.

        Closes the pool when the time is over; :meth:`wait_warm` does not.
        """
        try:
            super().wait(timeout)
        except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed) as error:
            raise self._unopened(error) from None

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds, as :meth:`psycopg_pool.ConnectionPool.resize` does."""
        super().resize(min_size, max_size)
        self._ring()  # those who wait may have a connection opened for them now

    @staticmethod
    def check_connection(conn: CT) -> None:
        """Raise unless the server answers, as
        :meth:`psycopg_pool.ConnectionPool.check_connection`.

        No instrumentation sees the question, and the transaction mode stays as it is.
        """
        answer(conn)

    @property
    def warm(self) -> bool:
        """The floor has been reached at least once."""
        return self._warm.is_set()

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the floor to be reached; true when it has been.

        Unlike :meth:`wait` it leaves the pool open when it has not. With no time to wait, no lock
        is taken.
        """
        return self._warm.is_set() or (timeout > 0 and self._warm.wait(waitable(timeout)))

    def status(self) -> dict[str, Any]:
        """The pool's counts, outcomes and last failure: plain data."""
        with self._counting:
            return self._books.status(self.counts())

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool, as :meth:`psycopg_pool.ConnectionPool.close` does.

        Waits, within *timeout* seconds, until the server has ended the connections that were idle,
        and half a second for those being opened, which close themselves should they come later.
        """
        began = clock()
        super().close(waitable(timeout))
        while (thread := self._unfinished(clock() - began)) is not None:
            if clock() - began >= timeout:
                break
            thread.join(0.005)

    def _unfinished(self, waited: float) -> threading.Thread | None:
        """A thread of the closed pool that is about to end, but for that which asks."""
        here = threading.current_thread()
        opening = self._books.opening > 0
        hangs = opening and waited >= HANGS_AFTER
        for job, what in self._jobs.items():
            if job.is_alive() and job is not here and not (hangs and what == "connect"):
                return job
        upkeep = self._upkeep
        if upkeep is None or upkeep is here or not upkeep.is_alive():
            return None
        watch = self._watch
        closing = watch.any_closing()
        stays = not closing and (hangs or (len(watch) > 0 and not opening))
        return None if stays else upkeep

    # -- the moments of psycopg_pool -----------------------------------------------------------

    def _when_opened(self) -> None:
        watch = self._watch = self._new_watch()
        remember_open(self)
        self._books.opened(self.name, clock(), watch.ring)
        self._upkeep = threading.Thread(
            target=_keep_up,
            # The ring of __del__ comes too early: the pool can still be reached then.
            args=(ref(self, lambda _: watch.ring()), watch, self._books),
            name=f"{self.name}-upkeep",
            daemon=True,
        )
        self._upkeep.start()

    def _when_stopping(self) -> None:
        self._watch.ring()

    def _may_join(self, conn: CT) -> bool:
        with self._counting:
            fate = self._arrives(conn)
            if fate == "joins":
                return True
            if fate in ("gone", "leaves"):
                self._resized_by(-1)
        if fate == "gone":
            self._bury(conn)
        elif fate == "leaves":
            self._discard(conn)
        else:
            self._begin_verifying(conn, fate)
        self._watch.ring()
        return False

    def _has_joined(self, conn: CT) -> None:
        if (seat := seat_of(conn)) is not None and seat.gone:
            # It ended just before it joined, when the upkeep could not find it.
            with self._counting:
                lost = self._lost_idle(conn)
            if not lost:
                return
            self._bury(conn)
        self._watch.ring()

    # -- upkeep --------------------------------------------------------------------------------

    def _look(self, ended: list[Seat]) -> float | None:
        """One round of upkeep; returns when the next is due, by the monotonic clock."""
        with self._counting:
            todo = self._round(ended)
        self._note_silence()
        if self._books.warm_after is not None:
            self._warm.set()
        for opening in todo.openings:
            try:
                self._in_thread("connect", self._open_one, opening)
            except RuntimeError as error:  # the process may have no more threads
                self._not_opened(opening, error)
        for conn in todo.dead:
            self._bury(conn)
        for conn in todo.surplus:
            self._discard(conn)
        for conn, ask in todo.verify:
            self._begin_verifying(conn, ask)
        self._tell_beside()
        return todo.wake

    def _tell_beside(self) -> None:
        """Have the listeners told in another thread: the upkeep must go on where one blocks."""
        if self._books.has_news:
            try:
                self._in_thread("tell", self._books.tell)
            except RuntimeError:  # the process may have no more threads
                self._books.tell()

    def _begin_verifying(self, conn: CT, ask: Sequence[Orphan]) -> None:
        try:
            self._in_thread("verify", self._verify, conn, ask)
        except RuntimeError:  # the process may have no more threads: not now, then
            self._books.lessee.settle(ask, ())
            self._verified(conn)

    def _in_thread(self, what: str, target: Callable[..., None], *args: Any) -> None:
        job = threading.Thread(target=target, args=args, name=f"{self.name}-{what}", daemon=True)
        job.start()
        self._jobs = {each: its for each, its in self._jobs.items() if each.is_alive()} | {
            job: what
        }

    def _open_one(self, opening: Opening) -> None:
        """Connect, in a thread of its own: a connect never queues behind another or a return."""
        seat = opening.seat
        ARRIVING.set((seat, self._watch, self._books.lessee))
        try:
            conn = self._connect_one()
        except Exception as error:  # noqa: BLE001 - whatever connecting raises, the pool goes on
            self._not_opened(opening, error)
            return
        with self._counting:
            self._books.connected(seat, opening.reason, place_of(conn))
        self._put(conn)
        self._watch.ring()  # before a listener can block
        self._books.tell()

    def _not_opened(self, opening: Opening, error: Exception) -> None:
        with self._counting:
            give_up = self._books.connect_failed(opening.seat, opening.reason, error)
            self._resized_by(-1)
        self._note_refusal()
        self._watch.ring()  # before a listener can block
        self._books.tell()
        if give_up:
            try:
                self.reconnect_failed()
            except Exception as raised:  # noqa: BLE001 - as in psycopg_pool's workers
                log_callback_failed("reconnect_failed", raised)

    def _verify(self, conn: CT, ask: Sequence[Orphan]) -> None:
        """Ask one idle connection for a sign of life and put it back, or let it go.

        Where the backends of dead owners are asked about, the answer is the sign of life.
        """
        gone: Sequence[Orphan] = ()
        try:
            if ask:
                gone = _gone(conn, ask)
            elif not self._is_to_inquire():
                self.check_connection(conn)
            if self._inquire is not None and self._is_to_inquire():
                self._inquire(conn)
        except Exception:  # noqa: BLE001 - whatever a dead connection raises
            with self._counting:
                self._verification_ended(conn, alive=False)
                self._resized_by(-1)
                self._count_lost()
            self._bury(conn)
        else:
            self._verified(conn)
        self._books.lessee.settle(ask, gone)
        self._watch.ring()

    def _verified(self, conn: CT) -> None:
        with self._counting:
            self._verification_ended(conn, alive=True)
            drained = self._was_drained(conn)
            if drained:
                self._resized_by(-1)
        if drained:
            self._discard(conn)
            self._when_vacant()
        else:
            self._put(conn)

    def _bury(self, conn: CT) -> None:
        """Close a connection that the server has ended, or that does not answer."""
        silence(conn)
        conn.close()
        self._cut(conn)


def _keep_up(pool: ReferenceType[GuardedPool[Any]], watch: Watch, books: Books) -> None:
    """The upkeep thread: it holds the pool only while it looks at it.

    Once the pool is closed, or collected, it stays until the last connection has ended, so that
    every slot is given back.
    """
    wake: float | None = 0.0  # the first look is due at once: it begins the warm-up
    while True:
        ended = watch.wait(None if wake is None else max(0.0, wake - clock()))
        this = pool()
        if this is not None and not this.closed:
            try:
                wake = this._look(ended)
            except Exception:  # the upkeep must not end before the pool does
                logger.exception("the upkeep of pool %r failed; it goes on", this.name)
                wake = clock() + 1.0
            del this
            continue
        del this
        books.lessee.leave()
        for seat in ended:
            books.ended(seat)
        books.tell()
        books.give_up(clock())
        wake = clock() + 1.0 if watch.blind or books.opening else None
        if not len(watch) and not books.opening:
            books.close()
            watch.close()
            return


def _gone(conn: Connection[Any], orphans: Sequence[Orphan]) -> list[Orphan]:
    """Which of the backends do not exist any more. Those that ought not to are ended."""
    living = backends_of(rows(conn, ASK_ALIVE, {"pids": pids_of(orphans)}))
    if overdue := to_be_ended(orphans, living):
        rows(conn, END, {"pids": overdue})
        logger.info("ended %s sessions whose clients are gone", len(overdue))
    return gone_among(orphans, living)


def _seat_then(configure: ConnectionCB[CT] | None) -> ConnectionCB[CT]:
    """psycopg_pool's ``configure`` callback: ours first, then the user's."""

    def seat_then_configure(conn: CT) -> None:
        try:
            arrive(conn)
            if configure is not None:
                configure(conn)
            if (late := given_up()) is not None:
                raise late
        except BaseException as error:
            late = given_up()
            silence(conn)
            conn.close()
            if late is not None and isinstance(error, Exception):
                raise late from error
            raise

    return seat_then_configure
