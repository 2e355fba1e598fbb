"""What a pool does beside its users: connects, checks, resets, closes; sync and async alike.

Each job is one coroutine. The async pool runs it in a task. In the sync pool nothing of it waits
but in the thread that runs it, so that it is over at its first step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from psycopg import Error
from psycopg.pq import TransactionStatus

from ..budget.queries import rows
from ..budget.session import ASK_ALIVE, END, backends_of, gone_among, pids_of, to_be_ended
from ..budget.slots import Orphan
from ..util.clock import now as clock
from ..util.conninfo import connects_its_own_way, insist_clear
from ..util.logs import logger as ours
from .base import Base
from .block import is_plain
from .entry import Entry, entry_of, silence
from .errors import PoolClosed, PoolTimeout
from .fates import Close, Condition, Fate, Misplaced, Reset, Waiter
from .hosts import addresses
from .news import logger
from .session import (
    NO_WRITES,
    arrive,
    condition_of,
    given_up,
    insist_idle,
    note_errors,
    place_of,
    says_no_writes,
)
from .upkeep import Opening

__all__ = ["Job", "Jobs", "at_once", "done"]

T = TypeVar("T")
Job = Coroutine[Any, Any, T]


async def done(what: Any) -> Any:
    """What a method of a connection, or a callback, answers: in an async pool it is awaited."""
    return await what if isinstance(what, Awaitable) else what


def at_once(job: Job[T]) -> T:
    """Run a job in which nothing is awaited to its end."""
    try:
        job.send(None)
    except StopIteration as end:
        answer: T = end.value
        return answer
    job.close()
    raise RuntimeError("something was awaited where nothing can be: is the pool not async?")


class Jobs(Base):
    """A pool of either kind, as far as it works beside those who use it."""

    connection_class: Any
    _mutex: AbstractContextManager[Any]
    """What the core is read and changed under."""
    _is_async: bool
    _sleep: Callable[[float], Any]
    _obtain: Callable[[Any, float], Any]
    check_connection: Callable[[Any], Any]

    def _begin(self, what: str, job: Job[None]) -> Any:
        """Have a job done in a thread, or a task, of its own. Raises :exc:`RuntimeError` where the
        process may have no more threads."""
        raise NotImplementedError

    def _do(self, job: Job[None]) -> None:
        """Do a job of which nobody waits for the end, and which takes no time."""
        raise NotImplementedError

    # -- one look ------------------------------------------------------------------------------

    def _look(self, ended: Collection[Entry]) -> float | None:
        """One round of upkeep; returns when the next is due, by the monotonic clock."""
        with self._mutex:
            todo = self._keeper.look(clock(), ended)
            counts = self._core.counts()
            full: list[Any] = []
            if counts.size - counts.opening >= counts.min_size:
                full, self._full = self._full, []
        for event in full:
            event.set()
        if self._keeper.warm_after is not None:
            self._warm_event.set()
        self._note_silence()
        for opening in todo.openings:
            try:
                self._begin("connect", self._open_one(opening))
            except RuntimeError as error:
                self._do(self._not_opened(opening, error))
        for conn in todo.dead:
            self._count("connections_lost")
            self._bury(conn)
        for conn in todo.surplus:
            self._do(self._discard(conn))
        for entry, conn, ask in todo.checks:
            self._begin_check(conn, entry, ask)
        self._tell()
        return todo.wake

    def _tell(self) -> None:
        raise NotImplementedError

    # -- connects ------------------------------------------------------------------------------

    async def _open_one(self, opening: Opening) -> None:
        """Connect: never behind another connect, nor behind a return."""
        entry = opening.entry
        try:
            conn = await self._connect_one(entry)
        except asyncio.CancelledError:
            self._keeper.connect_cancelled(entry)
            self._ring()
            raise
        except Exception as error:  # noqa: BLE001 - whatever connecting raises, the pool goes on
            await self._not_opened(opening, error)
            return
        silence(conn)
        with self._mutex:
            self._keeper.connected(entry, opening.reason, place_of(conn), clock())
            fate = self._core.arrive(entry, clock())
        await self._settle_all(conn, entry, fate)
        self._ring()  # before a listener can block
        self._keeper.news.tell()

    async def _connect_one(self, entry: Entry) -> Any:
        while True:
            made_with = self.kwargs
            try:
                return await self._dial(entry)
            except Error as error:
                with self._mutex:
                    again = self._may_connect_again(entry, error, made_with)
                if not again:
                    raise

    async def _dial(self, entry: Entry) -> Any:
        self._count("connections_num")
        conninfo = await done(self.conninfo() if callable(self.conninfo) else self.conninfo)
        self._tried = conninfo
        insist_clear(conninfo)
        kwargs = await done(self.kwargs() if callable(self.kwargs) else self.kwargs)
        began = clock()
        try:
            if self._is_async and not connects_its_own_way(self.connection_class):
                kwargs = {**kwargs, **await addresses(conninfo, kwargs)}
            conn = await done(self.connection_class.connect(conninfo, **kwargs))
        except Exception:
            self._count("connections_errors")
            raise
        self._count("connections_ms", 1000.0 * (clock() - began))
        conn._pool = self  # while it is configured it is the pool's, as psycopg sees it
        try:
            arrive(conn, entry, self._watch, self._keeper.leases)
            entry.plain = is_plain(type(conn))
            note_errors(conn, entry)
            if self._on_configure is not None:
                await done(self._on_configure(conn))
                insist_idle(conn, "configure", self._on_configure)
            if (late := given_up(entry)) is not None:
                raise late
        except BaseException as error:
            late = given_up(entry)
            await self._discard(conn)
            if late is not None and isinstance(error, Exception):
                raise late from error
            raise
        return conn

    async def _not_opened(self, opening: Opening, error: Exception) -> None:
        with self._mutex:
            gives_up = self._keeper.connect_failed(opening.entry, opening.reason, error, clock())
        self._note_refusal()
        self._ring()  # before a listener can block
        self._keeper.news.tell()
        if gives_up:
            try:
                await done(self.reconnect_failed())
            except Exception as raised:  # noqa: BLE001 - as in psycopg_pool's workers
                kind = type(raised).__name__
                logger.warning("callback reconnect_failed failed: %s: %s", kind, raised)

    def reconnect_failed(self) -> Any:
        """Tell the ``reconnect_failed`` callback, as psycopg_pool's does."""
        if self._on_reconnect_failed is not None:
            return self._on_reconnect_failed(self)
        return None

    # -- connections that come in --------------------------------------------------------------

    def _put(self, conn: Any, entry: Entry, *, in_acquire: bool = False) -> Job[None] | None:
        """Take back one that may be in any condition. Returns what is left to do, for which whoever
        has returned it waits."""
        condition = condition_of(conn, entry)
        self._note_return(conn, condition, in_acquire=in_acquire)
        if condition == "clean" and self._on_reset is not None:
            condition = "open"
        return self._settle(conn, entry, self._given_back(conn, entry, condition))

    def _given_back(self, conn: Any, entry: Entry, condition: Condition) -> Fate:
        silence(conn)
        try:
            with self._mutex:
                return self._core.give_back(entry, clock(), condition)
        except Misplaced:
            self._refuse(conn)
            return None

    def _settle(self, conn: Any, entry: Entry, fate: Fate) -> Job[None] | None:
        """Begin what is left to do with a connection that has come in. Returns what is to be done
        before its return is over."""
        if self._core.look_due:
            self._look_soon()
        if isinstance(fate, Waiter):
            fate.wake()
        if fate is None or isinstance(fate, Waiter) or self._forked:
            return None  # to close it in a child would end it in the parent
        if isinstance(fate, Reset):
            if self._on_reset is None:
                return self._reset_one(conn, entry, beside=self._is_async)
            try:
                self._begin("reset", self._reset_one(conn, entry, beside=True))
            except RuntimeError:
                return self._reset_one(conn, entry, beside=False)
            return None
        self._ring()
        if isinstance(fate, Close):
            return self._close_one(conn, fate)
        self._begin_check(conn, entry, fate.orphans)
        return None

    async def _settle_all(self, conn: Any, entry: Entry, fate: Fate) -> None:
        if (job := self._settle(conn, entry, fate)) is not None:
            await job

    async def _reset_one(self, conn: Any, entry: Entry, *, beside: bool) -> None:
        """Make a connection fit for others.

        *beside* the one who has returned it; otherwise it stays lent so long, so that it is not
        lost where a signal's handler raises meanwhile.
        """
        if beside:
            try:
                with self._mutex:
                    self._core.reset(entry, clock())
            except Misplaced:  # its return was broken off as this began, and it was closed
                return
        is_fit = False
        try:
            is_fit = await self._is_fit_again(conn, entry)
        finally:
            silence(conn)
            entry.verdict = None
            with self._mutex:
                if beside:
                    fate = self._core.was_reset(entry, clock(), is_fit=is_fit)
                else:
                    fate = self._core.give_back(entry, clock(), "clean" if is_fit else "unfit")
            job = self._settle(conn, entry, fate)
        if job is not None:
            await job

    async def _is_fit_again(self, conn: Any, entry: Entry) -> bool:
        """Roll back what was left open, and call the user's ``reset``; whether that went well."""
        conn._pool = self
        what = "rollback failed"
        try:
            if conn.pgconn.transaction_status != TransactionStatus.IDLE:
                logger.warning("rolling back returned connection: %s", conn)
                await done(conn.rollback())
            what = "asking whether the server takes writes failed"
            if entry.verdict == "read-only" and await self._takes_no_writes(conn):
                with self._mutex:
                    self._keeper.read_only(clock())
                return False
            if self._on_reset is not None:
                what = "error resetting connection"
                await done(self._on_reset(conn))
                insist_idle(conn, "reset", self._on_reset)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is to have it
            kind = type(error).__name__
            logger.warning("%s: %s: %s. Discarding connection %s", what, kind, error, conn)
            self._note_bad(conn)
            return False
        return True

    async def _takes_no_writes(self, conn: Any, *, ask: bool = False) -> bool:
        """Whether the server of an idle connection is read-only. It is asked where it has not said
        so, or where it is to be *asked* all the same."""
        told = None if ask else says_no_writes(conn)
        if told is None:
            [row] = await done(rows(conn, NO_WRITES))
            told = bool(row["read_only"])
        return told

    async def _obtain_checked(self, conn: Any, waiter: Waiter) -> Any:
        """The first connection from *conn* on that the ``check`` callback does not refuse."""
        while True:
            entry: Entry = conn._poolguard_entry
            asked_at = clock()
            is_refused = True
            try:
                await done(self._on_check(conn))
                is_refused = False
            except Exception as error:  # noqa: BLE001 - whatever it is, it refuses this one
                logger.info("connection failed check: %s", error)
            finally:
                if is_refused:
                    with self._mutex:
                        again = self._check_failed(waiter, entry, asked_at, conn)
                    if (job := self._put(conn, entry, in_acquire=True)) is not None:
                        self._do(job)
            if not is_refused:
                return conn
            await done(self._sleep(waiter.pause(clock(), at_once=again)))
            if (now := clock()) >= waiter.until:
                raise PoolTimeout
            conn = await done(self._obtain(waiter, now))

    # -- checks --------------------------------------------------------------------------------

    def _begin_check(self, conn: Any, entry: Entry, ask: Collection[Orphan]) -> None:
        try:
            self._begin("verify", self._check_one(conn, entry, ask))
        except RuntimeError:  # not now, then
            self._keeper.leases.settle(ask, ())
            with self._mutex:
                fate = self._core.was_checked(entry, clock())
            if (job := self._settle(conn, entry, fate)) is not None:
                self._do(job)

    async def _check_one(self, conn: Any, entry: Entry, ask: Collection[Orphan]) -> None:
        """Ask an idle connection for a sign of life, and have it lent again, or let it go.

        Where the backends of dead owners are asked about, the answer is the sign of life.
        """
        gone: Collection[Orphan] = ()
        fate: Fate
        try:
            check = entry.check
            no_writes = False
            if ask:
                gone = await self._gone(conn, ask)
            elif check is not None and check.writable:
                no_writes = await self._takes_no_writes(conn, ask=True)
            elif not self._is_to_inquire():
                await done(self.check_connection(conn))
            if self._inquire is not None and self._is_to_inquire() and not no_writes:
                await done(self._inquire(conn))
        except (Exception, asyncio.CancelledError) as error:
            with self._mutex:
                if entry.check is not None and isinstance(error, Exception):
                    self._core.doubt(entry.check.since)
                self._core.close(entry, None)
            self._count("connections_lost")
            logger.warning("discarding broken connection: %s", conn)
            fate = Close(None)
            if not isinstance(error, Exception):
                self._bury(conn)
                raise
        else:
            with self._mutex:
                if no_writes:
                    self._core.close(entry, "discarded")
                    fate = Close("discarded")
                else:
                    fate = self._core.was_checked(entry, clock())
        finally:
            self._keeper.leases.settle(ask, gone)
            self._ring()
        await self._settle_all(conn, entry, fate)

    async def _check_idle(self) -> None:
        """Check the idle ones, one after the other, so that an acquire finds the others."""
        for entry in [*self._core.idle]:
            with self._mutex:
                if entry.state != "idle":
                    continue
                conn = self._core.check(entry, clock())
            self._ring()  # should the server not answer
            await self._check_one(conn, entry, ())

    async def _gone(self, conn: Any, orphans: Collection[Orphan]) -> list[Orphan]:
        """Which of the backends do not exist any more. Those that ought not to are ended."""
        living = backends_of(await done(rows(conn, ASK_ALIVE, {"pids": pids_of(orphans)})))
        if overdue := to_be_ended(orphans, living):
            await done(rows(conn, END, {"pids": overdue}))
            ours.info("ended %s sessions whose clients are gone", len(overdue))
        return gone_among(orphans, living)

    # -- closing -------------------------------------------------------------------------------

    def _shut(self) -> list[Any]:
        """Close the pool to those who wait, and to all that come; returns what is to be closed."""
        with self._mutex:
            waiting, conns = self._core.shut(clock())
        for waiter in waiting:
            waiter.error = PoolClosed(f"the pool {self.name!r} is closed")
            waiter.wake()
        return conns

    async def _drain(self) -> None:
        with self._mutex:
            conns = self._core.drain(clock())
        for conn in conns:
            await self._discard(conn)
        self._ring()

    async def _close_one(self, conn: Any, fate: Close) -> None:
        if fate.worn:
            logger.info("discarding expired connection")
        if fate.reason is None:
            self._bury(conn)
        else:
            await self._discard(conn)

    async def _discard(self, conn: Any) -> None:
        """Close a connection of the pool's own will."""
        silence(conn)
        await done(conn.close())
        entry = entry_of(conn)
        if entry is not None and not entry.ended:
            entry.hang_up()
            if self._watch.blind:
                self._ring()

    def _bury(self, conn: Any) -> None:
        """Close a connection that the server has ended, or that does not answer: it may never."""
        silence(conn)
        conn.pgconn.finish()  # close() of an async connection would be a coroutine
        entry = entry_of(conn)
        if entry is not None and not entry.ended:
            entry.cut()
            if self._watch.blind:
                self._ring()
