"""How a connection comes back to a pool of either kind: made fit to be lent again, or closed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from psycopg.pq import TransactionStatus

from ..budget.queries import rows
from ..budget.session import RESEAT
from ..budget.slots import Orphan
from ..util.clock import now as clock
from .entry import Entry, entry_of, silence
from .jobs import Job, done
from .outbox import logger
from .session import NO_WRITES, condition_of, insist_idle, says_no_writes, was_reset
from .supervised import Supervised
from .transitions import Close, Condition, Fate, Misplaced, Reset
from .waiter import Waiter

__all__ = ["Returning"]


class Returning(Supervised):
    """A pool of either kind, as far as it takes connections in."""

    _is_async: bool
    _begin_check: Callable[[Any, Entry, Collection[Orphan]], None]
    _begin: Callable[[str, Job[None]], Any]
    """Has a job done in a thread, or a task, of its own, which is named. Raises :exc:`RuntimeError`
    where the process may have no more threads."""
    _do: Callable[[Job[None] | None], None]
    """Does a job, if there is one. It takes no time, and its end is not waited for."""

    def _put(self, conn: Any, entry: Entry, *, in_acquire: bool = False) -> Job[None] | None:
        """Take back a connection in any condition; what is left to do before its return is over."""
        condition = condition_of(conn, entry)
        if entry.seat is not None and entry.verdict is None and was_reset(conn):
            entry.verdict = "unseated"
        self._note_return(conn, condition, in_acquire=in_acquire)
        if condition == "clean" and self._on_reset is not None:
            condition = "open"
        return self._settle(conn, entry, self._given_back(conn, entry, condition))

    def _note_return(self, conn: Any, condition: Condition, *, in_acquire: bool) -> None:
        """Log and count, as psycopg_pool does, how a connection comes back that is not clean."""
        if condition in ("closed", "lost") and in_acquire:
            self._statistics.count("connections_lost")
            logger.info("not serving connection found broken")
            return
        if condition == "unfit":
            logger.warning("closing returned connection: %s", conn)
        if condition in ("unfit", "closed", "lost"):
            self._note_bad(conn)

    def _note_bad(self, conn: Any) -> None:
        self._statistics.count("returns_bad")
        logger.warning("discarding closed connection: %s", conn)

    def _refuse(self, conn: Any) -> None:
        """Raise :exc:`ValueError`, unless the pool has taken the connection back by itself."""
        entry = entry_of(conn)
        if entry and entry.unowned_at is not None and entry.state in ("closing", "gone"):
            return
        owner = getattr(conn, "_pool", None)
        why = f"it comes from pool {owner.name!r}" if owner else "it doesn't come from any pool"
        raise ValueError(f"pool {self.name!r} can't take the connection back: {why}: {conn}")

    def _given_back(self, conn: Any, entry: Entry, condition: Condition) -> Fate:
        silence(conn)
        try:
            with self._mutex:
                return self._core.give_back(entry, clock(), condition)
        except Misplaced:
            self._refuse(conn)
            return None

    def _settle(self, conn: Any, entry: Entry, fate: Fate) -> Job[None] | None:
        """Begin what is left to do with a connection; returns what its return has to wait for."""
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
        """Make a connection fit for the next acquire.

        :param beside: in a task or thread of its own. Otherwise the connection stays lent
            meanwhile, so that it is not lost where a signal's handler raises.
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
                    self._core.found_read_only(clock())
                return False
            if self._on_reset is not None:
                what = "error resetting connection"
                await done(self._on_reset(conn))
                insist_idle(conn, "reset", self._on_reset)
            what = "occupying the slot of the budget again failed"
            if entry.seat is not None and was_reset(conn):
                return await self._takes_its_seat(conn, entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not lent again
            kind = type(error).__name__
            logger.warning("%s: %s: %s. Discarding connection %s", what, kind, error, conn)
            self._note_bad(conn)
            return False
        return True

    async def _takes_its_seat(self, conn: Any, entry: Entry) -> bool:
        """Have the session occupy its slot, should the application have let go of its locks;
        whether it does."""
        if entry.seat is None:
            return True
        [row] = await done(rows(conn, RESEAT, entry.seat._asdict()))
        if not row["seated"] and entry.slot is not None:
            self._keeper.leases.ledger.unseated(entry.slot)
        self._note_seat(entry)
        return bool(row["seated"])

    async def _takes_no_writes(self, conn: Any, *, ask: bool = False) -> bool:
        """Whether the server is read-only: as it has said by itself, unless it is to be asked."""
        told = None if ask else says_no_writes(conn)
        if told is None:
            [row] = await done(rows(conn, NO_WRITES))
            told = bool(row["read_only"])
        return told

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
        """Close a connection that the server has ended, or over which it does not answer."""
        silence(conn)
        conn.pgconn.finish()  # close() of an async connection would be a coroutine
        entry = entry_of(conn)
        if entry is not None and not entry.ended:
            entry.cut()
            if self._watch.blind:
                self._ring()
