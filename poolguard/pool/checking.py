"""How idle connections are asked for a sign of life, in a pool of either kind.

One after the other, so that an acquire finds the others. With the same round trip the server may be
asked which backends of processes that have died are still there, what it grants, or whether it
takes writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from psycopg import Error
from psycopg.pq import TransactionStatus

from ..budget.queries import rows
from ..budget.session import ASK_ALIVE, END, backends_of, gone_among, pids_of, to_be_ended
from ..budget.slots import Orphan
from ..util.clock import now as clock
from ..util.logs import logger as ours
from .entry import Entry
from .evidence import ASK_STATES, Asked, reply_of
from .housekeeper import Housekeeper
from .jobs import done
from .outbox import logger
from .returning import Returning
from .transitions import Close, Fate
from .upkeep import check_after_another

__all__ = ["Checking", "begin_next"]


def begin_next(keeper: Housekeeper, now: float) -> tuple[Any, Entry] | None:
    """Begin the check that is to follow another one at once, if there is nothing else to be done:
    its connection and its entry. Call it under the pool's lock."""
    core = keeper.core
    if core.waiting or keeper.suspects.due or any(core.those("checking")):
        return None
    any_lent = any(core.those("lent", "resetting"))
    entry = check_after_another(now, core.idle, keeper.pace, any_lent=any_lent)
    if entry is None or entry.proved_at < core.doubted_at:
        return None
    return core.check(entry, now), entry


class Checking(Returning):
    """A pool of either kind, as far as it checks its idle connections."""

    check_connection: Callable[[Any], Any]

    def _begin_check(self, conn: Any, entry: Entry, ask: Collection[Orphan]) -> None:
        try:
            self._begin("verify", self._check_in_turn(conn, entry, ask))
        except RuntimeError:  # there are no more threads: it is checked another time
            self._keeper.leases.settle(ask, ())
            with self._mutex:
                fate = self._core.was_checked(entry, clock())
            self._do(self._settle(conn, entry, fate))

    async def _check_in_turn(self, conn: Any, entry: Entry, ask: Collection[Orphan]) -> None:
        """Check that one, and then those that will be due soon: to begin a thread, and to look at
        the pool before and after, costs more than the check itself."""
        following = await self._check_one(conn, entry, ask, in_turn=True)
        while following is not None:
            following = await self._check_one(*following, (), in_turn=True)

    async def _check_one(
        self, conn: Any, entry: Entry, ask: Collection[Orphan], *, in_turn: bool = False
    ) -> tuple[Any, Entry] | None:
        """Ask an idle connection for a sign of life, and have it lent again, or let it go.

        Where the backends of processes that died are asked about, the answer is the sign of life.

        :param in_turn: the answer is the one whose check begins as this one's ends, if there is
            one. No look at the pool comes between, which would find no answer to wait for.
        """
        gone: Collection[Orphan] = ()
        fate: Fate
        following: tuple[Any, Entry] | None = None
        question = () if entry.check is None else entry.check.question
        try:
            if ask:
                gone = await self._gone(conn, ask)
            if question:
                await self._ask_about(conn, question)
            is_fit = await self._is_fit(conn, entry, answered=bool(ask or question))
            if is_fit:
                await self._ask_more(conn, entry)
        except (Exception, asyncio.CancelledError) as error:
            with self._mutex:
                if entry.check is not None and isinstance(error, Exception):
                    self._core.doubt(entry.check.since)
                self._core.close(entry, None)
            self._statistics.count("connections_lost")
            logger.warning("discarding broken connection: %s", conn)
            fate = Close(None)
            if not isinstance(error, Exception):
                self._bury(conn)
                raise
        else:
            with self._mutex:
                fate = self._answered(entry, is_fit=is_fit)
                if in_turn and fate is None:
                    following = begin_next(self._keeper, clock())
        finally:
            self._keeper.leases.settle(ask, gone)
            if following is None or ask or question:
                self._ring()
        await self._settle_all(conn, entry, fate)
        return following

    def _answered(self, entry: Entry, *, is_fit: bool) -> Fate:
        if is_fit:
            return self._core.was_checked(entry, clock())
        self._core.close(entry, "discarded")
        return Close("discarded")

    async def _is_fit(self, conn: Any, entry: Entry, *, answered: bool) -> bool:
        """Whether a connection over which the server answers may be lent again.

        :param answered: it has answered already, or is asked something else anyway.
        """
        check = entry.check
        if check is not None and check.writable:
            return not await self._takes_no_writes(conn, ask=True)
        if not answered and entry.seat is not None:
            return await self._takes_its_seat(conn, entry)
        if entry.stranger and self._introduce is not None and not self._is_waited_for(entry):
            await done(self._introduce(conn))
            return True
        if not (answered or self._is_to_inquire()):
            await done(self.check_connection(conn))
        return True

    async def _ask_more(self, conn: Any, entry: Entry) -> None:
        """Ask over the connection what the server grants, and what the memory wants to know, if
        that is due; the memory's not while an acquire waits."""
        if self._inquire is not None and self._is_to_inquire():
            await done(self._inquire(conn))
        memory = self._keeper.expected.memory
        if memory is not None and memory.asks and not self._is_waited_for(entry):
            await memory.ask(conn)

    def _is_waited_for(self, entry: Entry) -> bool:
        """An acquire waits for the end of its check."""
        return entry.check is None or entry.check.for_waiter

    async def _ask_about(self, conn: Any, question: tuple[Asked, ...]) -> None:
        """Ask the server about commands over other connections, which get no answer.

        Not every server that speaks PostgreSQL's protocol can say that: it is as alive as others.
        """
        pids = [asked.backend.pid for asked in question]
        suspects = self._keeper.suspects
        try:
            reply = reply_of(await done(rows(conn, ASK_STATES, {"pids": pids})))
        except Error:
            if conn.pgconn.transaction_status != TransactionStatus.IDLE:
                raise
            suspects.refused(clock())
            return
        with self._mutex:
            suspects.heard(clock(), question, reply)

    async def _check_idle(self) -> None:
        """Check the idle connections one after the other, so that an acquire finds the others."""
        for entry in [*self._core.idle]:
            with self._mutex:
                if entry.state != "idle":
                    continue
                conn = self._core.check(entry, clock())
            self._ring()  # should the server not answer
            await self._check_one(conn, entry, ())

    async def _gone(self, conn: Any, orphans: Collection[Orphan]) -> list[Orphan]:
        """Which of the backends do not exist any more; those that ought not to are ended."""
        living = backends_of(await done(rows(conn, ASK_ALIVE, {"pids": pids_of(orphans)})))
        if overdue := to_be_ended(orphans, living):
            await done(rows(conn, END, {"pids": overdue}))
            ours.info("ended %s sessions whose clients are gone", len(overdue))
        return gone_among(orphans, living)
