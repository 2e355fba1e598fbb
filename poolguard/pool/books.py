"""What a pool knows of itself: counts, clocks and failures, and the decisions drawn from them.

Both pools keep the same books and differ only in how they do what the books tell them. The sync
pool calls in with its lock held, the async one on its loop; nothing here blocks or does I/O, and
nothing here refers to the pool. What listeners are to be told is kept until :meth:`Books.tell`,
which is called outside the lock.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from psycopg.errors import ConnectionTimeout

from ..budget.ledger import Backend, Ledger, Orphan
from ..clock import now as clock
from ..listener import (
    Closed,
    CloseReason,
    Connected,
    ConnectFailed,
    CreateReason,
    Leak,
    Listener,
    Listeners,
    Place,
    Warmed,
    hears_returns,
)
from ..logs import logger as ours
from ._seams import Counts
from .acquires import Acquires
from .errors import PoolTimeout, TooManyRequests, describe, lacks_room, unfit
from .growth import LATE_AT_FIRST, Demand, late_ones, low_water, patience
from .holds import Holds, log_leak
from .lessee import Lessee
from .outage import JITTER, Failure, Outage
from .seat import Seat
from .upkeep import (
    EXPIRY,
    Action,
    Open,
    Pace,
    Snapshot,
    Verification,
    between_retirements,
    decide,
    lifetime,
)

__all__ = ["Books", "Opening", "log_callback_failed"]

# The name of psycopg_pool's own logger: those who filter or count its records go on doing so.
logger = logging.getLogger("psycopg.pool")

AHEAD_AGAIN = 1.0
"""Seconds until it is tried again to open connections ahead for which there was no slot."""
VOICELESS = 2.0
"""Seconds for which the server may not be asked what it is to be, for want of a connection."""
INQUIRE_EVERY = 1.0
"""Seconds between two questions what the server grants, at least."""
SLOWEST_CONNECT = 5.0
"""Seconds: a connect is never expected to take longer."""


class Opening(NamedTuple):
    """A connect to begin: its seat holds the slot already."""

    seat: Seat
    reason: CreateReason


class Books:
    """The books of one pool."""

    def __init__(
        self,
        *,
        ledger: Ledger | None,
        listener: Listener,
        pace: Pace,
        max_connecting: int,
        max_lifetime: float,
        reconnect_timeout: float,
        leak_after: float = 0.0,
        at_once: float = 0,
    ) -> None:
        self.name = ""
        self.lessee = Lessee(ledger)
        # What a listener raises must not harm the pool: an acquire would lose its connection.
        self.listener = listener if isinstance(listener, Listeners) else Listeners([listener])
        self.acquires = Acquires(self.listener)
        returned = self.listener.returned if hears_returns(self.listener) else None
        self.holds = Holds(leak_after, self._leaked, self.tell, returned)
        self.alert = False
        """A connection that comes in may have other things to do than to join the pool."""
        # Workers that were started together are not to ask the server together.
        every = pace.refresh_interval * random.uniform(1 - JITTER, 1)
        self.pace = pace._replace(refresh_interval=every)
        self.max_connecting = max_connecting
        self.at_once = at_once
        self._ahead_from = 0.0
        self.low_water = 0
        """With fewer idle connections than this, the pool is to be looked at."""
        self.max_lifetime = max_lifetime
        self.place: Place | None = None
        """Where its last connection led."""
        self.outage = Outage(reconnect_timeout)

        self.asked = 0
        """The floor that the warm-up had to reach."""
        self.warm_after: float | None = None
        """Seconds the warm-up took; None while it is under way."""

        self._news: deque[Callable[[], None]] = deque()
        self.telling: list[int] = []
        """The threads that tell of it just now."""
        self.leaving = False
        """The process will end: it has no floor any more …"""
        self.accepts = False
        """… but for one connection, while it goes on accepting requests."""
        self._opened_at = 0.0
        self._created: dict[CreateReason, int] = {}
        self._closed: dict[CloseReason, int] = {}

        self._connecting: dict[Seat, None] = {}
        self._begun = 0
        self._queue_since: float | None = None
        self._connect_time = 0.05
        self._overtaken = -math.inf
        """When the latest of those connects began that have ended well."""

        self._verifying: dict[Seat, Verification] = {}
        self.check_after_idle = pace.check_after_idle
        self.doubted_at = 0.0
        self._retire_from = 0.0
        self._idle_low_since = 0.0
        self.can_inquire = False
        self.inquire_at = math.inf
        """When the server is to be asked again what it grants."""
        self._inquired_at = -math.inf
        self._nth = 0
        self._offset = random.random()

    def named(self, name: str) -> None:
        """The pool is called so."""
        self.name = self.acquires.pool = self.holds.pool = name

    def _log(self, level: int, text: str, *args: object) -> None:
        """Write, when no lock is held, a record that psycopg_pool would write here, too."""
        self._news.append(partial(logger.log, level, text, *args))

    def _say(self, level: int, text: str) -> None:
        """Write a record of ours when no lock is held."""
        self._news.append(partial(ours.log, level, "%s", text))

    def _leaked(self, leak: Leak) -> None:
        self._news.append(partial(log_leak, leak))
        self._news.append(partial(self.listener.leak, leak))

    @property
    def has_news(self) -> bool:
        """There is something to :meth:`tell`."""
        return bool(self._news)

    def tell(self) -> None:
        """Tell the listeners what happened since the last call. Not to be called under a lock."""
        self.telling.append(threading.get_ident())
        try:
            while self._news:
                try:
                    news = self._news.popleft()
                except IndexError:
                    return  # another thread tells the rest
                news()
        finally:
            self.telling.pop()

    # -- decisions -----------------------------------------------------------------------------

    @property
    def opening(self) -> int:
        """Connects under way."""
        return len(self._connecting)

    def opened(self, name: str, now: float, ring: Callable[[], None]) -> None:
        """The pool is open from *now* on; *ring*, from any thread, makes it look at itself."""
        self.named(name)
        self._opened_at = self._idle_low_since = now
        self.lessee.opened(ring)

    def close(self) -> None:
        """The last connection has ended."""
        self.lessee.close()

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self.acquires.disown()
        self.holds.disown()

    def look(
        self, now: float, counts: Counts, idle: Sequence[Seat]
    ) -> tuple[list[Opening], list[Action], float | None]:
        """What to do now: the connects to begin (slots in hand, counted), everything else, and
        when to look again at the latest."""
        self.lessee.fails(self.outage.lasts)
        if self.leaving:
            self.lessee.leave()
            floor = self.lessee.sure_of(min(counts.min_size, self.accepts))
        else:
            voiceless = self.is_voiceless(now) and counts.size == self.opening
            # Where a process is sure of none, it warms up with one from what is left all the same.
            begins = self.warm_after is None and counts.min_size > 0
            floor = self.lessee.sure_of(counts.min_size) or int(voiceless or begins)
        counts = counts._replace(min_size=floor)
        self._note_warmth(now, counts)
        tend_at = self.lessee.tend(now, self._say)
        snapshot = self._snapshot(now, counts, idle)
        actions, wake = decide(now, snapshot, self.pace)
        openings: list[Opening] = []
        for action in actions:
            if isinstance(action, Open):
                begun = self._begin(action)
                openings += begun
                if action.reason == "ahead" and len(begun) < action.n:
                    self._ahead_from = now + AHEAD_AGAIN
                    wake = self._ahead_from if wake is None else min(wake, self._ahead_from)
                if action.reason in ("growth", "ahead"):
                    grown = counts.size + len(openings)
                    self._log(logging.INFO, "growing pool %r to %s", self.name, grown)
        wanted = min(snapshot.demand.wanted, counts.max_size - counts.size) - len(openings)
        if self.outage.refused:
            wanted = min(wanted, 1)  # what siblings give up may go to others of the server
        self.lessee.need(wanted)
        again = self.lessee.starved_until(now)
        if wanted > 0 and again is not None and again < math.inf:
            wake = again if wake is None else min(wake, again)
        size = counts.size + len(openings)
        begun_now = snapshot.demand._replace(
            size=size, opening=self.opening, ahead_from=self._ahead_from
        )
        self.low_water = low_water(now, begun_now)
        overdue = self.holds.overdue(now)
        looks = (self.inquire_at, self.inquire_at + VOICELESS)
        inquiry = next((at for at in looks if now < at < math.inf), None)
        wake = min((at for at in (wake, overdue, tend_at, inquiry) if at is not None), default=None)
        self.alert = self.lessee.returned_owed > 0 or self.lessee.asks or self.inquires(now)
        return openings, [a for a in actions if not isinstance(a, Open)], wake

    def _begin(self, action: Open) -> list[Opening]:
        now = clock()
        seats = [Seat(slot, now) for slot in self.lessee.lease(action.n, now)]
        self._connecting.update(dict.fromkeys(seats))
        if action.reason != "ahead":  # what was begun for nobody slows nobody down
            self._begun += len(seats)
        return [Opening(seat, action.reason) for seat in seats]

    def _snapshot(self, now: float, counts: Counts, idle: Sequence[Seat]) -> Snapshot:
        if not counts.waiting:
            self._queue_since, self._begun = None, 0
        elif self._queue_since is None:
            self._queue_since = now
        wait = patience(self._connect_time)
        lapses = [v.since + wait for v in self._verifying.values() if v.likely]
        promised = [at for at in lapses if at > now]
        is_new = self.warm_after is None and self.at_once > 0
        owed = self.lessee.owed()
        self.lessee.returned_owed = max(0, owed.returned - min(owed.idle, len(idle)))
        demand = Demand(
            waiting=counts.waiting,
            idle=counts.idle,
            opening=self.opening,
            size=counts.size,
            lent=self._lent(counts),
            floor=counts.min_size,
            max_size=counts.max_size,
            max_connecting=self.max_connecting,
            begun=self._begun,
            waited=0.0 if self._queue_since is None else now - self._queue_since,
            connect_time=self._connect_time,
            retry_at=self.outage.retry_at(
                asked=counts.waiting > 0,
                closed=self.outage.refused and self.lessee.has_room,
            ),
            promised=len(promised),
            promised_until=min(promised, default=None),
            starved=self.lessee.starved_until(now) is not None,
            at_once=0 if self.leaving else self.at_once,
            expected=self.lessee.ledger.usual() if is_new else 0,
            ahead_from=self._ahead_from,
            late=late_ones(
                now,
                [seat.began for seat in self._connecting],
                self._connect_time if self._nth else None,
                self._overtaken,
            ),
        )
        return Snapshot(
            demand=demand,
            idle=idle,
            verifying=self._verifying,
            doubted_at=self.doubted_at,
            retire_from=self._retire_from,
            idle_low=counts.idle_low,
            idle_low_since=self._idle_low_since,
            reason="warmup" if self.warm_after is None else "replace",
            owed=owed.idle,
            leaving=self.leaving,
            connecting=[*self._connecting],
        )

    def _lent(self, counts: Counts) -> int:
        return max(0, counts.size - self.opening - counts.idle - len(self._verifying))

    def _note_warmth(self, now: float, counts: Counts) -> None:
        if self.warm_after is None and counts.size - self.opening >= counts.min_size:
            self.warm_after = now - self._opened_at
            self.asked = counts.min_size
            warmed = Warmed(self.name, counts.min_size, counts.size, self.warm_after)
            self._news.append(partial(self.listener.warmed, warmed))

    def shrunk(self, n: int, size: int, now: float) -> None:
        """*n* connections that nobody has needed are closed, and *size* stay."""
        if n and not self.leaving:
            self._log(
                logging.INFO,
                "shrinking pool %r to %s because %s unused connections in the last %s sec",
                self.name,
                size,
                n,
                self.pace.idle_timeout,
            )
        self._idle_low_since = now

    # -- connects ------------------------------------------------------------------------------

    def connected(self, seat: Seat, reason: CreateReason, place: Place) -> None:
        """The connect of *seat* has ended well."""
        now = clock()
        self.place = place
        self._connecting.pop(seat, None)
        self._overtaken = max(self._overtaken, seat.began)
        self.outage.ended()
        # A connect that the machine has slept through says nothing of the next one.
        took = min(now - seat.began, SLOWEST_CONNECT)
        self._connect_time += 0.3 * (took - self._connect_time)
        self._nth += 1
        seat.connected_at = seat.proved_at = now
        seat.retire_at = now + lifetime(self._nth, self.max_lifetime, self._offset)
        seat.expires_at = now + EXPIRY * self.max_lifetime
        seat.connected = Connected(self.name, reason, seat.began, now, place)
        self._created[reason] = self._created.get(reason, 0) + 1
        self._log(logging.INFO, "adding new connection to the pool")
        self._news.append(partial(self.listener.connected, seat.connected))
        if seat.gone:  # the watch was faster
            self._count_end(seat)

    def connect_failed(self, seat: Seat, reason: CreateReason, error: BaseException) -> bool:
        """The connect of *seat* has failed. True: time to call ``reconnect_failed``."""
        now = clock()
        self._connecting.pop(seat, None)
        hung = isinstance(error, TimeoutError | ConnectionTimeout)
        if not seat.seated:
            # It never got as far as a socket that the watch could tell of. What the server makes of
            # a connect that we gave up is not known.
            self.lessee.vacate(seat, certainly=not hung)
        text = describe(error, of_connect=not seat.seated)
        if hung and seat.began <= self._overtaken:
            # Those that began later have ended well: it says nothing of the server.
            failure = Failure(is_said=True, gives_up=False)
        else:
            refused = lacks_room(error)
            failure = self.outage.failed(seat.began, now, text, refused=refused)
            if refused:
                self.lessee.refused()
                self.inquire_soon(now)
        if failure.is_said:
            self._log(logging.WARNING, "error connecting in %r: %s", self.name, text)
        failed = ConnectFailed(self.name, reason, seat.began, now, text)
        self._news.append(partial(self.listener.connect_failed, failed))
        if failure.gives_up:
            self._log(
                logging.WARNING,
                "reconnection attempt in pool %r failed after %s sec",
                self.name,
                self.outage.reconnect_timeout,
            )
        return failure.gives_up

    def inquire_soon(self, now: float) -> None:
        """Have the server asked what it grants, but not again and again."""
        if self.can_inquire:
            self.inquire_at = min(self.inquire_at, max(now, self._inquired_at + INQUIRE_EVERY))

    def inquires(self, now: float) -> bool:
        """Whether a connection at hand is to ask the server what it grants."""
        return now >= self.inquire_at and not self._verifying

    def is_voiceless(self, now: float) -> bool:
        """Whether there has been no connection at hand to ask with for so long that what is known
        of the server is too old to go by, and binds siblings too."""
        return now >= self.inquire_at + VOICELESS

    def inquired(self, now: float, again: float | None) -> None:
        """It was asked, and is to be so again after so many seconds."""
        self._inquired_at, self.inquire_at = now, math.inf if again is None else now + again

    def give_up(self, now: float) -> None:
        """Give up the connects that are due, of a pool that is looked at no more."""
        for seat in [*self._connecting]:
            if seat.give_up_at <= now:
                seat.cut()

    def connect_cancelled(self, seat: Seat) -> None:
        """The connect was given up: mostly since the pool closed."""
        self._connecting.pop(seat, None)
        if not seat.seated:
            self.lessee.vacate(seat, certainly=False)

    def ended(self, seat: Seat) -> None:
        """The server has ended its side of the seat's connection, or we have cut it."""
        seat.end()
        self.lessee.vacate(seat, certainly=not seat.severed)
        if seat.connected is not None:
            self._count_end(seat)

    def _count_end(self, seat: Seat) -> None:
        if seat.booked:
            return
        seat.booked = True
        reason = seat.reason or "lost"
        self._closed[reason] = self._closed.get(reason, 0) + 1
        closed = Closed(self.name, reason, clock() - seat.connected_at)
        self._news.append(partial(self.listener.closed, closed))

    # -- verification --------------------------------------------------------------------------

    def verification_began(self, seat: Seat, now: float, *, likely: bool = True) -> None:
        self._verifying[seat] = Verification(now, likely)

    def verification_ended(self, seat: Seat, *, alive: bool) -> None:
        """The server has answered over the seat's connection, or it is dead."""
        verification = self._verifying.pop(seat, None)
        if not alive and verification is not None:
            self.doubt(verification.since)

    @property
    def being_verified(self) -> int:
        """Connections that are out of the pool until the server has answered over them."""
        return len(self._verifying)

    def doubt(self, since: float) -> None:
        """A connection was found dead that may have been so at *since*: what has not been proved
        later is verified before it is lent."""
        self.doubted_at = max(self.doubted_at, since)

    def parted_in(self, error: BaseException, seat: Seat, *, dead: bool) -> bool:
        """The seat's connection is returned while *error* is on its way. True: it is to be closed.

        One that is *dead* is not taken back anyway.
        """
        told = unfit(error, seat.amid)
        if dead or told == "ending":
            self.doubt(clock())
        if dead or told is None:
            return False
        seat.reason = "discarded"
        return True

    def retired(self, seat: Seat, now: float, size: int) -> None:
        """The seat's connection is closed for its age."""
        seat.reason = "lifetime"
        self._log(logging.INFO, "discarding expired connection")
        self._retire_from = now + between_retirements(size, self.max_lifetime)

    def has_expired(self, seat: Seat, now: float, size: int) -> bool:
        """Whether a connection that has come in is to be closed for its age, and booked as such.

        Not while others are, or while no successor can be had.
        """
        stays = self.outage.lasts or self.outage.refused
        if now < seat.expires_at or now < self._retire_from or stays:
            return False
        self.retired(seat, now, size)
        return True

    def asks(self, now: float, *, fresh: bool = False) -> list[Orphan]:
        """What a connection at hand is to ask the server now, about slots of the dead."""
        return [] if self._verifying else self.lessee.orphans(now, fresh=fresh)

    def comes_back_for_others(self, seat: Seat) -> bool:
        """Whether a connection that was returned is to be closed since others want its slot. Then
        it has been booked as such."""
        # What was owed at the last look may have been found elsewhere, without a word to us.
        if self.lessee.returned_owed > 0 and self.lessee.owed().returned > 0:
            self.lessee.returned_owed -= 1
            self.yields(seat)
            return True
        return False

    def yields(self, seat: Seat) -> None:
        """The seat's connection is closed for the siblings' sake."""
        seat.reason = "yielded"
        self.lessee.yields()

    def seated(self, seat: Seat, backend: Backend) -> None:
        """Say which session the seat's connection is with."""
        self.lessee.seated(seat, backend)

    def check_failed(self, seat: Seat, began: float, since: float, *, dead: bool) -> bool:
        """The ``check`` callback, asked at *began*, has refused the connection of *seat*. True: an
        acquire goes on at once, since it was an old one that has died, of which there may be more:
        one that was there before the acquire began, *since* then.
        """
        if dead:
            self.doubt(began)
        was_free = seat.was_free
        self.acquires.spoil(seat)
        return dead and was_free and seat.connected_at < since

    # -- errors --------------------------------------------------------------------------------

    def timeout_error(self, elapsed: float, counts: Counts) -> PoolTimeout:
        """The error of an acquire that found no connection within its time."""
        return PoolTimeout(
            f"couldn't get a connection after {elapsed:.2f} sec{self._state(counts)}"
        )

    def rejected_error(self, counts: Counts) -> TooManyRequests:
        """The error of an acquire that found the queue full."""
        return TooManyRequests(
            f"the pool {self.name!r} has already {counts.waiting} requests waiting"
            f"{self._state(counts)}"
        )

    def incomplete_error(self, error: Exception, counts: Counts) -> PoolTimeout:
        """The error of a wait for the floor that was in vain, *error* being psycopg_pool's."""
        return PoolTimeout(f"{error}{self._state(counts)}")

    def _state(self, counts: Counts) -> str:
        """What an error tells of the pool, and what to change."""
        text = (
            f" (pool {self.name!r}: {counts.size} of {counts.max_size} connections, "
            f"{counts.idle} idle, {self._lent(counts)} used, {self.opening} opening; "
            f"{counts.waiting} waiting)."
        )
        if self.outage.lasts:
            return f"{text} Connecting fails: {self.outage.last_error}. Look at the server first"
        oldest = clock() - min((seat.began for seat in self._connecting), default=math.inf)
        if oldest > LATE_AT_FIRST:
            return (
                f"{text} A connect is under way for {oldest:.1f} s: the server, or the way to it, "
                f"does not answer. Look there first"
            )
        if self.outage.refused:
            return (
                f"{text} The server has no room for more connections: {self.outage.last_error}. "
                f"Have others hold fewer (poolguard check tells who holds how many), or raise what "
                f"the server grants"
            )
        if self.lessee.starved:
            return f"{text} The budget has no free slot: {self.lessee.ledger.explain()}"
        if counts.size >= counts.max_size:
            return f"{text} Raise max_size (and budget), or hold connections for a shorter time"
        return text

    # -- status --------------------------------------------------------------------------------

    def status(self, counts: Counts) -> dict[str, Any]:
        """The pool's part of a guard's status: plain data."""
        return {
            "name": self.name,
            "floor": counts.min_size,
            "max_size": counts.max_size,
            "idle": counts.idle,
            "used": self._lent(counts),
            "opening": self.opening,
            "waiting": counts.waiting,
            "acquires": self.acquires.counts(counts.taken_free),
            "created": dict(self._created),
            "closed": dict(self._closed),
            "leaks": self.holds.counts,
            "warmup": {
                "asked": self.asked or counts.min_size,
                "opened": self._created.get("warmup", 0),
                "seconds": self.warm_after,
            },
            "last_error": self.outage.last_error,
        }


def log_callback_failed(name: str, error: Exception) -> None:
    """A callback of the user's has raised where there is nobody to raise it to."""
    logger.warning("callback %s failed: %s: %s", name, type(error).__name__, error)
