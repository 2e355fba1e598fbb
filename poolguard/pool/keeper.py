"""Keeps one pool: what is to be opened, checked and closed now, and what the pool has seen.

A *look* puts together what the pool is (:mod:`.core`), what it may have (:mod:`.leases`) and how
its server fares (:mod:`.outage`), has :mod:`.upkeep` decide, and returns the I/O that is left to
do, which each pool does in its own way. The sync pool calls in with its lock held, the async one on
its loop; nothing here blocks or refers to the pool.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection
from typing import Any

from ..budget.ledger import Ledger
from ..budget.slots import Orphan
from .connects import Connects, hangs
from .core import Core
from .entry import Entry, is_closed_here
from .events import (
    Closed,
    CloseReason,
    CreateReason,
    Listener,
    Place,
    Warmed,
    hears_returns,
)
from .fates import Ask, Close, Counts
from .growth import Demand, low_water, patience
from .leaks import Leaks
from .leases import Leases
from .news import News
from .outage import JITTER
from .outcomes import Outcomes
from .upkeep import (
    Abandon,
    CloseIdle,
    Open,
    Opening,
    Pace,
    Retire,
    Round,
    Snapshot,
    Verify,
    between_retirements,
    decide,
)

__all__ = ["Keeper"]

HEADROOM_AGAIN = 1.0
"""Seconds until it is tried again to open connections ahead for which there was no slot."""
VOICELESS = 2.0
"""Seconds for which the server may not be asked what it is to be, for want of a connection."""
INQUIRE_EVERY = 1.0
"""Seconds between two questions what the server grants, at least."""
READ_ONLY_EVERY = 5.0
"""Seconds between two times that all are asked whether their server takes writes, at least."""
UNOWNED = 5.0
"""Seconds for which a connection stays lent whose owner has ended: another may know of it, ..."""
UNOWNED_WHEN_WAITING = 1.0
"""... and while somebody waits for a connection."""


class Keeper:
    """The keeper of one pool. Times by the monotonic clock."""

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
        self.news = news = News(listener)
        self.outcomes = Outcomes(news.listener)
        returned = news.listener.returned if hears_returns(news.listener) else None
        self.leaks = Leaks(leak_after, news.leak, news.tell, returned)
        self.connects = Connects(news, max_lifetime, reconnect_timeout)
        self.outage = self.connects.outage
        # Workers that were started together are not to ask the server together.
        every = pace.check_interval * random.uniform(1 - JITTER, 1)
        self.pace = pace._replace(check_interval=every)
        self.max_connecting = max_connecting
        self.at_once = at_once
        self.max_lifetime = max_lifetime
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
        self.can_inquire = False
        self.inquire_at = math.inf
        """When the server is to be asked again what it grants."""
        self._inquired_at = -math.inf
        self._opened_at = 0.0
        self._headroom_from = 0.0
        self._begun = 0
        self._queue_since: float | None = None
        self._retire_from = 0.0
        self._idle_low_since = 0.0
        self.closed: dict[CloseReason, int] = {}

    def named(self, name: str) -> None:
        """The pool is called so."""
        self.name = self.outcomes.pool = self.leaks.pool = self.connects.pool = name

    # -- one look ------------------------------------------------------------------------------

    def opened(self, name: str, now: float, ring: Callable[[], None]) -> None:
        """The pool is open from *now* on; *ring*, from any thread, makes it look at itself."""
        self.named(name)
        self._opened_at = self._idle_low_since = now
        self.leases.opened(ring)

    def look(self, now: float, ended: Collection[Entry] = ()) -> Round:
        """Note that the server has *ended* these; decide and begin what is due *now*."""
        todo = Round()
        core, leases = self.core, self.leases
        core.mend()
        for entry in ended:
            if (conn := self.ended(entry, now)) is not None:
                todo.dead.append(conn)
        look_for_owners = self._take_back_unowned(now, todo)
        leases.fails(self.outage.lasts)
        counts = core.counts()
        counts = counts._replace(min_size=self._floor(now, counts))
        self._note_warmth(now, counts)
        tend_at = leases.tend(now, self.news.say)
        snapshot = self._snapshot(now, counts)
        actions, wake = decide(now, snapshot, self.pace)
        wakes = [wake, tend_at, look_for_owners, self.leaks.overdue(now)]
        for action in actions:
            if isinstance(action, Open):
                wakes.append(self._open(action, now, counts, todo))
            elif isinstance(action, CloseIdle):
                self._close_idle(action, now, todo)
            elif isinstance(action, Retire):
                self._retired(now)
                todo.surplus.append(core.close(action.entry, "lifetime"))
            elif isinstance(action, Verify):
                likely, for_waiter = action.likely, action.for_waiter
                conn = core.check(action.entry, now, likely=likely, for_waiter=for_waiter)
                todo.checks.append((action.entry, conn, ()))
            elif isinstance(action, Abandon):
                action.entry.cut()
        wanted = min(snapshot.demand.wanted, counts.max_size - counts.size) - len(todo.openings)
        if self.outage.refused:
            wanted = min(wanted, 1)  # what siblings give up may go to others of the server
        leases.need(wanted)
        if wanted > 0 and (again := leases.starved_until(now)) != math.inf:
            wakes.append(again)
        self._ask(now, todo)
        begun_now = snapshot.demand._replace(
            size=counts.size + len(todo.openings),
            opening=counts.opening + len(todo.openings),
            headroom_from=self._headroom_from,
        )
        core.look_below(low_water(now, begun_now))
        core.alert = core.closed or leases.returned_owed > 0 or leases.asks or self._inquires(now)
        looks = (self.inquire_at, self.inquire_at + VOICELESS)
        wakes.append(next((at for at in looks if now < at < math.inf), None))
        todo.wake = min((at for at in wakes if at is not None), default=None)
        return todo

    def _floor(self, now: float, counts: Counts) -> int:
        """So many connections are kept warm now."""
        if self.leaving:
            self.leases.leave()
            return self.leases.sure_of(min(counts.min_size, self.accepts))
        voiceless = self.is_voiceless(now) and counts.size == counts.opening
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
        wait = patience(self.connects.expected)
        promised = [at for c in checking.values() if c.likely and (at := c.since + wait) > now]
        is_new = self.warm_after is None and self.at_once > 0
        idle = [*core.idle]
        owed = self.leases.owed()
        self.leases.returned_owed = max(0, owed.returned - min(owed.idle, len(idle)))
        demand = Demand(
            waiting=counts.waiting,
            idle=counts.idle,
            opening=counts.opening,
            size=counts.size,
            lent=counts.lent,
            floor=counts.min_size,
            max_size=counts.max_size,
            max_connecting=self.max_connecting,
            begun=self._begun,
            waited=0.0 if self._queue_since is None else now - self._queue_since,
            connect_time=self.connects.expected,
            retry_at=self.outage.retry_at(
                asked=counts.waiting > 0,
                closed=self.outage.refused and self.leases.has_room,
            ),
            promised=len(promised),
            promised_until=min(promised, default=None),
            starved=self.leases.starved_until(now) is not None,
            at_once=0 if self.leaving else self.at_once,
            expected=self.leases.ledger.usage.expected() if is_new else 0,
            headroom_from=self._headroom_from,
            late=self.connects.late(now, [entry.began for entry in connecting]),
        )
        return Snapshot(
            demand=demand,
            idle=idle,
            checking=checking,
            doubted_at=core.doubted_at,
            retire_from=self._retire_from,
            idle_low=core.idle_low,
            idle_low_since=self._idle_low_since,
            reason="warmup" if self.warm_after is None else "replace",
            owed=owed.idle,
            leaving=self.leaving,
            connecting=connecting,
        )

    def _note_warmth(self, now: float, counts: Counts) -> None:
        if self.warm_after is None and counts.size - counts.opening >= counts.min_size:
            self.warm_after = now - self._opened_at
            self.asked = counts.min_size
            warmed = Warmed(self.name, counts.min_size, counts.size, self.warm_after)
            self.news.add(self.news.listener.warmed, warmed)

    def _open(self, action: Open, now: float, counts: Counts, todo: Round) -> float | None:
        """Begin connects; returns when to look whether there are slots for the rest."""
        entries = [Entry(slot, now) for slot in self.leases.lease(action.n, now)]
        for entry in entries:
            self.core.begin(entry)
            todo.openings.append(Opening(entry, action.reason))
        if action.reason != "headroom":  # what was begun for nobody slows nobody down
            self._begun += len(entries)
        if action.reason in ("growth", "headroom"):
            size = counts.size + len(todo.openings)
            self.news.log(logging.INFO, "growing pool %r to %s", self.name, size)
        if action.reason == "headroom" and len(entries) < action.n:
            self._headroom_from = now + HEADROOM_AGAIN
            return self._headroom_from
        return None

    def _close_idle(self, action: CloseIdle, now: float, todo: Round) -> None:
        core = self.core
        for _ in range(action.n):
            if action.reason == "yielded":
                self.leases.yields()
            todo.surplus.append(core.close(core.idle[0], action.reason))
        if action.reason == "yielded":
            return
        if action.n and not self.leaving:
            self.news.log(
                logging.INFO,
                "shrinking pool %r to %s because %s unused connections in the last %s sec",
                self.name,
                core.counts().size,
                action.n,
                self.pace.idle_timeout,
            )
        self._idle_low_since = now
        core.note_idle_low()

    def _ask(self, now: float, todo: Round) -> None:
        """Have an idle connection ask for the dead's slots, where that is of use to anybody."""
        counts = self.core.counts()
        if not counts.idle and counts.size > counts.opening:
            return  # a connection that comes back will ask
        inquires = self._inquires(now)
        orphans = self._orphans(now)
        if (orphans or inquires) and counts.idle:
            entry = self.core.idle[-1]
            todo.checks.append((entry, self.core.check(entry, now), orphans))
        else:
            self.leases.settle(orphans, ())

    def _take_back_unowned(self, now: float, todo: Round) -> float | None:
        """Take back what was lent to one who is gone; returns when to look for more."""
        patience = UNOWNED_WHEN_WAITING if self.core.waiting else UNOWNED
        looks = self.watches_owners  # of one who ends nobody tells
        for entry in self.core.those("lent"):
            if entry.conn is None:
                self.leaks.collected(entry)
                self.core.close(entry, "discarded")
                continue
            looks |= entry.ended
            if entry.owner is None or entry.owner() is not None or self.leaks.has_acquirer(entry):
                entry.unowned_at = None
            elif entry.unowned_at is None or entry.unowned_at < entry.lent_at:
                entry.unowned_at = now
            elif now >= entry.unowned_at + patience:
                self.leaks.abandoned(entry)
                todo.surplus.append(self.core.close(entry, "discarded"))
        return now + patience if looks else None

    # -- connections that come in --------------------------------------------------------------

    def _judge(self, entry: Entry, now: float, fresh: bool) -> Close | Ask | None:
        """What is to become of one that would join the pool."""
        # What was owed at the last look may have been found elsewhere, without a word to us.
        if not fresh and self.leases.returned_owed > 0 and self.leases.owed().returned > 0:
            self.leases.returned_owed -= 1
            self.leases.yields()
            return Close("yielded")
        # For its age: not while others are, or while no successor can be had.
        stays = now < self._retire_from or self.outage.lasts or self.outage.refused
        if not fresh and now >= entry.expires_at and not stays:
            self._retired(now)
            return Close("lifetime")
        inquires = self._inquires(now)
        orphans = self._orphans(now, fresh=fresh)
        return Ask(orphans) if orphans or inquires else None

    def _retired(self, now: float) -> None:
        self.news.log(logging.INFO, "discarding expired connection")
        size = self.core.counts().size
        self._retire_from = now + between_retirements(size, self.max_lifetime)

    def _orphans(self, now: float, *, fresh: bool = False) -> list[Orphan]:
        return [] if self._checks else self.leases.orphans(now, fresh=fresh)

    def _inquires(self, now: float) -> bool:
        """Whether a connection at hand is to ask the server what it grants."""
        return now >= self.inquire_at and not self._checks

    @property
    def _checks(self) -> bool:
        return any(True for _ in self.core.those("checking"))

    def read_only(self, now: float) -> None:
        """A server takes no writes, as it has said."""
        if now >= self.core.read_only_at + READ_ONLY_EVERY:
            self.core.doubt_writes(now)

    # -- connects ------------------------------------------------------------------------------

    def connected(self, entry: Entry, reason: CreateReason, place: Place, now: float) -> None:
        """The connect of *entry* has ended well."""
        self.connects.ended(entry, reason, place, now)
        if entry.ended:  # the watch was faster
            self._count_end(entry, now)

    def connect_failed(
        self, entry: Entry, reason: CreateReason, error: BaseException, now: float
    ) -> bool:
        """The connect of *entry* has failed. True: time to call ``reconnect_failed``."""
        self.core.close(entry, None)
        if not entry.watched:
            # It never got as far as a socket that the watch could tell of. What the server makes of
            # a connect that we gave up is not known.
            self.leases.vacate(entry, certainly=not hangs(error))
        failure = self.connects.failed(entry, reason, error, now)
        if failure is None:
            return False
        if self.outage.refused:
            self.leases.refused()
            self.inquire_soon(now)
        return failure.gives_up

    def connect_cancelled(self, entry: Entry) -> None:
        """The connect was given up: mostly since the pool closed."""
        self.core.close(entry, None)
        if not entry.watched:
            self.leases.vacate(entry, certainly=False)

    # -- ends ----------------------------------------------------------------------------------

    def ended(self, entry: Entry, now: float) -> Any:
        """The server has ended its side of the connection, or we have cut it: the connection, where
        it lay idle; else None."""
        if entry.state == "lent" and entry.verdict is None and is_closed_here(entry.conn):
            entry.reason = entry.reason or "discarded"
        conn = self.core.end(entry)
        self.leases.vacate(entry, certainly=not entry.severed)
        if entry.connected is not None:
            self._count_end(entry, now)
        return conn

    def _count_end(self, entry: Entry, now: float) -> None:
        if entry.counted:
            return
        entry.counted = True
        reason = entry.reason or "lost"
        self.closed[reason] = self.closed.get(reason, 0) + 1
        closed = Closed(self.name, reason, now - entry.connected_at)
        self.news.add(self.news.listener.closed, closed)

    def wind_up(self, now: float, ended: Collection[Entry], *, dropped: bool) -> list[Any]:
        """What is left to do once the pool is closed, or was *dropped* unclosed: the connections to
        be closed."""
        idle = self.core.shut(now)[1] if dropped and not self.core.closed else []
        self.leases.leave()
        for entry in ended:
            self.ended(entry, now)
        for entry in self.core.those("connecting"):  # which nobody looks at any more
            if entry.give_up_at <= now:
                entry.cut()
        return idle

    def close(self) -> None:
        """The last connection has ended."""
        self.leases.close()

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self.core.disown()
        self.outcomes.disown()
        self.leaks.disown()

    # -- what the server grants ----------------------------------------------------------------

    def inquire_soon(self, now: float) -> None:
        """Have the server asked what it grants, but not again and again."""
        if self.can_inquire:
            self.inquire_at = min(self.inquire_at, max(now, self._inquired_at + INQUIRE_EVERY))

    def is_voiceless(self, now: float) -> bool:
        """Whether there has been no connection at hand to ask with for so long that what is known
        of the server is too old to go by, and binds siblings too."""
        return now >= self.inquire_at + VOICELESS

    def inquired(self, now: float, again: float | None) -> None:
        """It was asked, and is to be so again after so many seconds."""
        self._inquired_at, self.inquire_at = now, math.inf if again is None else now + again
