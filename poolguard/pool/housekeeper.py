"""The housekeeper of a pool: decides what is to be opened, checked and closed now, and begins it.

A *look* puts together what the pool has (:mod:`.core`), what it may have (:mod:`.leases`) and how
its server fares (:mod:`.outage`) into one snapshot, has :mod:`.upkeep` decide, and returns the I/O
that is left to do, which each kind of pool does in its own way. The sync pool calls in with its
lock held, the async one on its loop; nothing here blocks or refers to the pool. (HikariCP has the
same part under the same name.)
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection
from typing import Any

from ..budget.ledger import Ledger
from ..budget.slots import Orphan
from .command import command_of, sent_over
from .core import Core
from .entry import Entry
from .events import Listener, Warmed, hears_returns
from .expected import Expected
from .growth import likely_back, low_water, patience
from .inquiry import Inquiry
from .leaks import Leaks
from .leases import Leases
from .lifecycle import Lifecycle
from .outage import JITTER
from .outbox import Outbox
from .outcomes import Outcomes
from .snapshot import Counts, Snapshot
from .suspects import Suspects
from .transitions import Ask, Close
from .upkeep import (
    Abandon,
    Action,
    CloseIdle,
    Cut,
    Doubt,
    Open,
    Opening,
    Pace,
    Retire,
    Round,
    Verify,
    between_retirements,
    decide,
)

__all__ = ["Housekeeper"]

HEADROOM_AGAIN = 1.0
"""Seconds until it is tried again to open connections ahead for which there was no slot."""
UNOWNED = 5.0
"""Seconds for which a connection stays lent whose owner has ended: another may have it, ..."""
UNOWNED_WHEN_WAITING = 1.0
"""... and while an acquire waits."""
ANY = 1 << 30
"""However many are idle, the next acquire has the pool looked at."""


class Housekeeper:
    """The housekeeper of one pool. Times by the monotonic clock."""

    def __init__(
        self,
        min_size: int,
        max_size: int,
        *,
        max_waiting: int = 0,
        ledger: Ledger | None = None,
        listener: Listener,
        pace: Pace,
        max_connecting: int,
        max_lifetime: float,
        reconnect_timeout: float,
        leak_after: float = 0.0,
        at_once: float = 0,
    ) -> None:
        self.name = ""
        self.core = Core(
            min_size,
            max_size,
            max_waiting=max_waiting,
            check_after_idle=pace.check_after_idle,
            judge=self._judge,
        )
        self.leases = Leases(ledger)
        self.inquiry = Inquiry()
        self.outbox = outbox = Outbox(listener)
        self.outcomes = Outcomes(outbox.listener)
        returned = outbox.listener.returned if hears_returns(outbox.listener) else None
        self.leaks = Leaks(leak_after, outbox.leak, outbox.tell, returned)
        parts = (self.core, self.leases, self.inquiry, outbox)
        self.lifecycle = Lifecycle(
            *parts, max_lifetime=max_lifetime, reconnect_timeout=reconnect_timeout
        )
        self.outage = self.lifecycle.outage
        self.expected = Expected()
        # Workers that were started together are not to ask the server together.
        every = pace.check_interval * random.uniform(1 - JITTER, 1)
        self.pace = pace._replace(check_interval=every)
        self.suspects = Suspects(pace.check_timeout, every, command_of, sent_over)
        self.max_connecting = max_connecting
        self.at_once = at_once
        self.asked = 0
        """The floor that the warm-up had to reach."""
        self.warm_after: float | None = None
        """Seconds the warm-up took; None while it is under way."""
        self.leaving = False
        """The process will end: it has no floor any more …"""
        self.accepts = False
        """… but for one connection, while it goes on accepting requests."""
        self.watches_owners = False
        """A connection belongs to the thread, or greenlet, that used it last."""
        self._opened_at = 0.0
        self._headroom_from = 0.0
        self.looked = False
        """The pool has begun to open what is expected, as far as that is known."""
        self._begun = 0
        self._queue_since: float | None = None
        self._retire_from = 0.0
        self._idle_low_since = 0.0
        self._acquires = 0

    def named(self, name: str) -> None:
        """The pool is called so."""
        self.name = self.outcomes.pool = self.leaks.pool = self.lifecycle.pool = name

    def opened(self, name: str, now: float, ring: Callable[[], None]) -> None:
        """The pool is open from *now* on; *ring*, from any thread, makes it look at itself."""
        self.named(name)
        self._opened_at = self._idle_low_since = self.expected.asked_since = now
        self.leases.opened(ring)

    def look(self, now: float, ended: Collection[Entry] = ()) -> Round:
        """Note that the server has *ended* these; decide and begin what is due *now*."""
        todo = Round()
        core, leases = self.core, self.leases
        core.mend()
        for entry in ended:
            if (conn := self.lifecycle.ended(entry, now)) is not None:
                todo.dead.append(conn)
        acquires = core.taken_free + core.queued
        is_quiet = acquires == self._acquires and not any(core.those("lent", "resetting"))
        self._acquires = acquires
        wakes = [self._take_back_unowned(now, todo, is_quiet=is_quiet)]
        for entry in leases.beyond([*core.idle]):
            leases.yields()
            todo.surplus.append(core.close(entry, "yielded"))
        # Siblings keep no floor for a process that cannot connect.
        leases.ledger.siblings.report_failing(self.outage.lasts)
        counts = core.counts()
        counts = counts._replace(min_size=self._floor(now, counts))
        self._note_warmth(now, counts)
        todo.asked, told_again = self.expected.asked(now, core, self.outcomes.created)
        wakes.append(told_again)
        at_rest = not (counts.lent or counts.waiting or counts.opening)
        wakes.append(leases.tend(now, self.outbox.say, at_rest=at_rest))
        wakes.append(self.suspects.look(now, core.entries, is_quiet=is_quiet))
        snapshot = self._snapshot(now, counts)
        actions, wake = decide(now, snapshot, self.pace)
        wakes += [wake, self.leaks.overdue(now)]
        wakes += [self._begin(action, now, counts, todo) for action in actions]
        wakes.append(self._need(now, snapshot, todo))
        self._ask(now, todo)
        begun_now = snapshot.after(len(todo.openings))._replace(headroom_from=self._headroom_from)
        rings = is_quiet and (self.suspects.at_rest or self.watches_owners)
        core.look_below(ANY if rings else low_water(now, begun_now))
        core.alert = core.closed or leases.returned_owed > 0 or leases.asks or self._inquires(now)
        core.alert = core.alert or bool(self.suspects.due)
        core.alert = core.alert or bool(leases.beyond(core.those("lent")))
        wakes.append(self.inquiry.next_look(now))
        todo.wake = min((at for at in wakes if at is not None), default=None)
        self.looked = True
        return todo

    def _begin(self, action: Action, now: float, counts: Counts, todo: Round) -> float | None:
        """Do what was decided, as far as it is no I/O; returns when to look at it again."""
        if isinstance(action, Open):
            return self._open(action, now, counts, todo)
        if isinstance(action, CloseIdle):
            self._close_idle(action, now, todo)
        elif isinstance(action, Retire):
            self._retired(now)
            todo.surplus.append(self.core.close(action.entry, "lifetime"))
        elif isinstance(action, Verify):
            likely, for_waiter = action.likely, action.for_waiter
            question = self.suspects.ask(now, self.core.those("checking")) if action.asks else ()
            conn = self.core.check(
                action.entry, now, likely=likely, for_waiter=for_waiter, question=question
            )
            todo.checks.append((action.entry, conn, ()))
        elif isinstance(action, Doubt):
            self.core.doubt(action.since)
        elif isinstance(action, Cut):
            self.outbox.say(logging.WARNING, self.suspects.give_up(self.name, action.entry, now))
            action.entry.cut()
        elif isinstance(action, Abandon):
            action.entry.cut()
        return None

    def _need(self, now: float, snapshot: Snapshot, todo: Round) -> float | None:
        """Tell the ledger how many slots more are needed; returns when to ask for them again."""
        counts = snapshot.counts
        wanted = min(snapshot.wanted, counts.max_size - counts.size) - len(todo.openings)
        if self.outage.refused:
            wanted = min(wanted, 1)  # what siblings give up may go to others of the server
        self.leases.need(wanted)
        again = self.leases.starved_until(now) if wanted > 0 else None
        return None if again == math.inf else again

    def _floor(self, now: float, counts: Counts) -> int:
        """How many connections are kept warm now."""
        if self.leaving:
            self.leases.leave()
            return self.leases.sure_of(min(counts.min_size, self.accepts))
        voiceless = self.inquiry.is_voiceless(now) and counts.size == counts.opening
        # Where a process is sure of none, it warms up with one from what is left all the same.
        begins = self.warm_after is None and counts.min_size > 0
        return self.leases.sure_of(counts.min_size) or int(voiceless or begins)

    def _snapshot(self, now: float, counts: Counts) -> Snapshot:
        core = self.core
        if not counts.waiting:
            self._queue_since, self._begun = None, 0
        elif self._queue_since is None:
            self._queue_since = now
        checking = {entry: entry.check for entry in core.those("checking") if entry.check}
        connecting = [*core.those("connecting")]
        wait = patience(self.lifecycle.expected)
        promised = [at for c in checking.values() if c.likely and (at := c.since + wait) > now]
        is_new = self.warm_after is None and self.at_once > 0
        idle = [*core.idle]
        owed = self.leases.owed()
        self.leases.returned_owed = max(0, owed.returned - min(owed.idle, len(idle)))
        return Snapshot(
            counts=counts,
            idle=idle,
            checking=checking,
            connecting=connecting,
            max_connecting=self.max_connecting,
            begun=self._begun,
            waited=0.0 if self._queue_since is None else now - self._queue_since,
            connect_time=self.lifecycle.expected,
            returning=likely_back(
                counts.lent,
                self.lifecycle.expected,
                core.taken_free + core.queued - counts.waiting - counts.lent,
                core.usage,
            ),
            retry_at=self.outage.retry_at(
                asked=counts.waiting > 0, closed=self.outage.refused and self.leases.has_room
            ),
            late=self.lifecycle.late(now),
            strangers=any(entry.stranger for entry in core.entries),
            promised=len(promised),
            promised_until=min(promised, default=None),
            starved=self.leases.starved_until(now) is not None,
            at_once=0 if self.leaving else self.at_once,
            expected=self.leases.ledger.usage.expected() if is_new else 0,
            level=0 if self.leaving else self.expected.level(counts),
            level_fell=self.expected.has_fallen,
            level_from=self.expected.level_from,
            headroom_from=self._headroom_from,
            doubted_at=core.doubted_at,
            retire_from=self._retire_from,
            idle_low=core.idle_low,
            idle_low_since=self._idle_low_since,
            reason="warmup" if self.warm_after is None else "replace",
            owed=owed.idle,
            suspects=len(self.suspects.due),
            reply_time=self.suspects.reply_time,
            lost=[suspect.entry for suspect in self.suspects.lost()],
            unheard=self.suspects.unheard(now),
            leaving=self.leaving,
        )

    def _note_warmth(self, now: float, counts: Counts) -> None:
        if self.warm_after is not None:
            return
        if self.expected.stands(counts, self.lifecycle.late(now).n, is_new=not self.looked):
            self.warm_after = now - self._opened_at
            self.asked = counts.min_size
            warmed = Warmed(self.name, counts.min_size, counts.size, self.warm_after)
            self.outbox.add(self.outbox.listener.warmed, warmed)

    def _open(self, action: Open, now: float, counts: Counts, todo: Round) -> float | None:
        """Begin connects; returns when to look whether there are slots for the rest."""
        entries = [Entry(slot, now) for slot in self.leases.lease(action.n, now)]
        for entry in entries:
            self.core.begin(entry)
            todo.openings.append(Opening(entry, action.reason))
        if action.reason != "headroom":  # what was begun ahead does not slow the queue down
            self._begun += len(entries)
        if action.reason in ("growth", "headroom"):
            size = counts.size + len(todo.openings)
            self.outbox.log(logging.INFO, "growing pool %r to %s", self.name, size)
        if action.reason == "headroom" and len(entries) < action.n:
            self._headroom_from = self.expected.level_from = now + HEADROOM_AGAIN
            return self._headroom_from
        return None

    def _close_idle(self, action: CloseIdle, now: float, todo: Round) -> None:
        core = self.core
        for _ in range(action.n):
            if action.reason == "yielded":
                self.leases.yields()
                self.expected.was_needed_elsewhere(now)
            todo.surplus.append(core.close(core.idle[0], action.reason))
        if action.reason == "yielded":
            return
        if action.n and not self.leaving:
            text = "shrinking pool %r to %s because %s unused connections in the last %s sec"
            size, seconds = core.counts().size, self.pace.max_idle
            self.outbox.log(logging.INFO, text, self.name, size, action.n, seconds)
        self._idle_low_since = now
        core.note_idle_low()

    def _ask(self, now: float, todo: Round) -> None:
        """Have an idle connection ask the server what is to be asked, if anything is."""
        counts = self.core.counts()
        if not counts.idle and counts.size > counts.opening:
            return  # a connection that comes back will ask
        inquires = self._inquires(now)
        orphans = self._orphans(now)
        recalls = self.expected.may_ask(counts) and not any(self.core.those("checking"))
        if (orphans or inquires or recalls) and counts.idle:
            entry = self.core.idle[-1]
            todo.checks.append((entry, self.core.check(entry, now), orphans))
        else:
            self.leases.settle(orphans, ())

    def _take_back_unowned(self, now: float, todo: Round, *, is_quiet: bool) -> float | None:
        """Take back connections that will not be returned; the answer is when to look for more.

        :param is_quiet: nothing is lent, nor was since the last look.
        """
        patience = UNOWNED_WHEN_WAITING if self.core.waiting else UNOWNED
        unowned, others_end = self.leaks.unowned(self.core.those("lent"), now, patience)
        closed = [self.core.close(entry, "discarded") for entry in unowned]
        todo.surplus += [conn for conn in closed if conn is not None]
        watches = self.watches_owners and not is_quiet
        return now + patience if others_end or watches else None

    def _judge(self, entry: Entry, now: float, fresh: bool) -> Close | Ask | None:
        """What is to become of a connection that would join the pool."""
        # What was owed at the last look may have been found elsewhere, of which we are not told.
        is_owed = self.leases.returned_owed > 0 and self.leases.owed().returned > 0
        if not fresh and (is_owed or self.leases.beyond([entry])):
            self.leases.returned_owed = max(0, self.leases.returned_owed - 1)
            self.leases.yields()
            self.expected.was_needed_elsewhere(now)
            return Close("yielded")
        # One is not closed for its age while others are, or while no successor can be had.
        stays = now < self._retire_from or self.outage.lasts or self.outage.refused
        if not fresh and now >= entry.expires_at and not stays:
            self._retired(now)
            return Close("lifetime")
        due = self._inquires(now) or now >= entry.seated_until
        orphans = self._orphans(now, fresh=fresh)
        question = self.suspects.ask(now, self.core.those("checking"))
        return Ask(orphans, question) if orphans or due or question else None

    def _retired(self, now: float) -> None:
        self.outbox.log(logging.INFO, "discarding expired connection")
        size = self.core.counts().size
        self._retire_from = now + between_retirements(size, self.lifecycle.max_lifetime)

    def _orphans(self, now: float, *, fresh: bool = False) -> list[Orphan]:
        return [] if any(self.core.those("checking")) else self.leases.orphans(now, fresh=fresh)

    def _inquires(self, now: float) -> bool:
        """Whether a connection at hand is to ask the server what it grants."""
        return now >= self.inquiry.at and not any(self.core.those("checking"))

    def wind_up(self, now: float, ended: Collection[Entry], *, dropped: bool) -> list[Any]:
        """Do what is left once the pool is closed, or was *dropped* unclosed.

        The answer is the connections that are to be closed.
        """
        idle = self.core.shut(now)[1] if dropped and not self.core.closed else []
        self.leases.leave()
        for entry in ended:
            self.lifecycle.ended(entry, now)
        for entry in self.core.those("connecting"):  # at which no look will come
            if entry.give_up_at <= now:
                entry.cut()
        return idle

    def close(self) -> None:
        """The last connection has ended."""
        self.leases.close()
        self.expected.close()

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self.core.disown()
        self.outcomes.disown()
        self.leaks.disown()
