"""A pool at one moment: the record by which :mod:`.growth` and :mod:`.upkeep` decide.

Its first part is what ``pool.counts()`` answers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .entry import Check, Entry
from .events import CreateReason

__all__ = ["Counts", "Late", "Snapshot"]


class Counts(NamedTuple):
    """How many connections are where, at one moment."""

    idle: int = 0
    lent: int = 0
    """Those that an acquire has been given, or that are being made fit for the next one."""
    checking: int = 0
    opening: int = 0
    waiting: int = 0
    """Acquires in the queue."""
    min_size: int = 0
    max_size: int = 0

    @property
    def size(self) -> int:
        """All of the pool: not those that are being closed."""
        return self.idle + self.lent + self.checking + self.opening


class Late(NamedTuple):
    """What of the connects under way is likely to hang, at one moment."""

    n: int = 0
    """Those that take much longer than connects lately took."""
    next_at: float | None = None
    """When the next of the others will, or one that begins now."""
    probe_at: float | None = None
    """Where all may hang, as none begun later has ended well: when one more may begin."""


class Snapshot(NamedTuple):
    """A pool at one moment. Times by the monotonic clock, durations in seconds."""

    counts: Counts
    """Its ``min_size`` is the floor that is kept warm now."""
    idle: Sequence[Entry]
    checking: Mapping[Entry, Check]
    max_connecting: int
    begun: int
    """Connects begun since the queue last was empty."""
    waited: float
    """How long the queue has not been empty."""
    connect_time: float
    """What a connect takes, as lately seen."""
    retry_at: float | None
    """Set while connecting fails: not before this."""
    doubted_at: float
    """What has not been proved since then may be dead, as another connection was."""
    idle_low: int
    """The fewest idle connections since ``idle_low_since``: so many were not needed."""
    idle_low_since: float
    reason: CreateReason
    """Why a connect for the floor would be made now."""
    connecting: Sequence[Entry] = ()
    """Those whose connects are under way."""
    late: Late = Late()
    returning: int = sys.maxsize
    """How many of those that are lent are likely to come back within a connect."""
    strangers: bool = False
    """Some connections are still to be greeted, once they are idle."""
    promised: int = 0
    """Connections that are being verified, and are likely to serve waiters in a moment."""
    promised_until: float | None = None
    """When the first of them ceases to be likely."""
    starved: bool = False
    """The ledger had no slot left when it was last asked, and has not rung since."""
    at_once: float = 0
    """Most acquires that can be under way at once: up to so many, connections are opened ahead."""
    expected: int = 0
    """Connections that the pool will likely use, before it can know by itself."""
    level: int = 0
    """Connections to be kept warm, the floor's among them, while nobody else needs their slots."""
    level_fell: bool = False
    """It was higher: what was kept for that is not needed any more."""
    level_from: float = 0.0
    """None is opened for the level before: others have just needed the slot of one."""
    headroom_from: float = 0.0
    """None is opened ahead before: there was no slot for it just now."""
    retire_from: float = 0.0
    """No connection is to be retired before: the last one was so just now."""
    owed: int = 0
    """Idle connections that the siblings want, as far as they are above the floor."""
    suspects: int = 0
    """Commands that have been under way for long, and that the server is to be asked about."""
    reply_time: float = math.inf
    """Seconds within which the server is to reply to that question."""
    lost: Sequence[Entry] = ()
    """Lent ones whose commands get no answer, by the server's word."""
    unheard: Entry | None = None
    """A lent one that the server may never have heard: nothing sent over it is acknowledged."""
    leaving: bool = False
    """The process will end: what its last requests do not use is closed."""

    def after(self, n: int) -> Snapshot:
        """The same once *n* more connects have begun."""
        counts = self.counts._replace(opening=self.counts.opening + n)
        return self._replace(counts=counts, begun=self.begun + n)

    @property
    def coming(self) -> int:
        """Connects under way that are likely to end well soon."""
        return self.counts.opening - self.late.n

    @property
    def for_queue(self) -> int:
        """Waiters that neither a connect nor a verification under way is for."""
        return self.counts.waiting - self.coming - self.promised

    @property
    def for_floor(self) -> int:
        """Connections that the floor lacks; negative where there are more."""
        return self.counts.min_size - self.counts.size

    def likely(self, n: int) -> int:
        """Of *n* connections those that can be lent at once."""
        return int(min(n, self.at_once))

    @property
    def wanted(self) -> int:
        """Connections that the floor and the queue ask for, were there no reason to go slowly."""
        return max(self.for_floor, self.for_queue)

    @property
    def room(self) -> int:
        """Connects that the pool's bounds, and the ledger's, allow to begin."""
        c, connecting = self.counts, self.max_connecting - self.counts.opening
        return 0 if self.starved else max(0, min(c.max_size - c.size, connecting))
