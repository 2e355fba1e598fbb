"""How many connects to begin now. Pure: time is an argument, nothing is touched."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

__all__ = [
    "Demand",
    "Late",
    "connects_to_begin",
    "late_ones",
    "lent_at_most",
    "low_water",
    "next_look",
    "patience",
    "with_headroom",
]

SLOWEST_STEP = 0.010
"""Seconds: a queue that persists this long doubles the connects under way, at the latest.

A step is a twentieth of a connect: 15 waiters behind returns that do not come have their connects
after a fifth of one. (With a tenth, they were served after 1.4 connects in the demo's burst.)"""
SHORTEST_STEP = 0.001
SHORTEST_PATIENCE = 0.010
SLOW_DOUBLINGS = 16
"""So many steps make a start: a queue that never empties is bounded by nothing but the room."""
LATE_FACTOR = 5
"""A connect is late after so many times of what one lately took, ..."""
SHORTEST_LATE = 0.5
"""... but not before so many seconds: one lost packet, or a busy machine, costs a part of that."""
LATE_AT_FIRST = 1.0
"""Seconds after which a connect is late while nobody knows how long one takes."""


class Late(NamedTuple):
    """What of the connects under way is likely to hang, at one moment."""

    n: int = 0
    """Those that take much longer than connects lately took."""
    next_at: float | None = None
    """When the next of the others will, or one that begins now."""
    probe_at: float | None = None
    """Where all connects may hang, since none of those begun later has ended well: when one more
    may begin beside them."""


class Demand(NamedTuple):
    """What a pool has and what is asked of it, at one moment. Counts of connections; seconds."""

    waiting: int
    """Acquires in the queue."""
    idle: int
    opening: int
    size: int
    """All connections: idle, lent, being verified, and those being opened."""
    lent: int
    """Connections that somebody may still return."""
    floor: int
    max_size: int
    max_connecting: int
    begun: int
    """Connects begun since the queue last was empty."""
    waited: float
    """How long the queue has not been empty."""
    connect_time: float
    """What a connect takes, as lately seen."""
    retry_at: float | None
    """Set while connecting fails: not before this."""
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
    headroom_from: float = 0.0
    """None is opened ahead before: there was no slot for it just now."""
    late: Late = Late()

    @property
    def coming(self) -> int:
        """Connects under way that are likely to end well soon."""
        return self.opening - self.late.n

    @property
    def for_queue(self) -> int:
        """Waiters that neither a connect nor a verification under way is for."""
        return self.waiting - self.coming - self.promised

    def likely(self, n: int) -> int:
        """Of *n* connections those that can be lent at once."""
        return int(min(n, self.at_once))

    @property
    def headroom(self) -> int:
        """Connections to open before anybody asks for them."""
        if self.retry_at is not None:
            return 0
        return max(0, self.likely(max(with_headroom(self.lent), self.expected)) - self.size)

    @property
    def wanted(self) -> int:
        """Connects that the floor and the queue ask for, were there no reason to go slowly."""
        return max(self.floor - self.size, self.for_queue)

    @property
    def room(self) -> int:
        """Connects that the pool's bounds, and the ledger's, allow to begin."""
        return (
            0
            if self.starved
            else max(0, min(self.max_size - self.size, self.max_connecting - self.opening))
        )

    @property
    def step(self) -> float:
        """Seconds in which the connects under way may double."""
        return min(SLOWEST_STEP, max(SHORTEST_STEP, self.connect_time / 20))


def patience(connect_time: float) -> float:
    """Seconds for which a verification is likely to end well, where a connect takes *connect_time*.

    A verification is one round trip, and a connect at least three (TCP, start-up, authentication):
    one that takes half as long as a connect is probably asking a connection that is dead.
    """
    return max(SHORTEST_PATIENCE, connect_time / 2)


def late_ones(
    now: float, begun: Sequence[float], connect_time: float | None, overtaken: float
) -> Late:
    """What of the connects that began at these times is late.

    :param connect_time: what a connect lately took; None where none has ended well yet.
    :param overtaken: when the latest of those began that have ended well. What began no later, and
        is late, hangs by itself. Otherwise the server or the way to it may be what is slow: then
        one more at a time tries, each after a longer while, so that few hang where all do.
    """
    wait = LATE_AT_FIRST
    if connect_time is not None:
        wait = max(SHORTEST_LATE, LATE_FACTOR * connect_time)
    late = [at for at in begun if at + wait <= now]
    next_at = min((at + wait for at in begun if at + wait > now), default=now + wait)
    if not late or max(late) <= overtaken:
        return Late(len(late), next_at)
    oldest, newest = min(at for at in late if at > overtaken), max(begun)
    return Late(len(late), next_at, max(newest + wait, 2 * newest - oldest))


def connects_to_begin(now: float, demand: Demand) -> int:
    """How many connects to begin at *now*.

    With nothing lent out, nobody can return anything: every waiter needs a connect. Otherwise the
    queue may empty itself, so growth starts slowly (one connect, doubling with each step that the
    queue persists): a queue of a millisecond's length opens nothing that is not needed. While
    connecting fails, one connect at a time probes; one that hangs is none. What is opened ahead
    waits for nobody.
    """
    for_queue = demand.for_queue
    if demand.lent and for_queue > 0:
        doublings = int(demand.waited / demand.step)
        if doublings < SLOW_DOUBLINGS:
            for_queue = min(for_queue, (1 << doublings) - 1 - demand.begun)
    headroom = demand.headroom if now >= demand.headroom_from else 0
    n = min(max(for_queue, demand.floor - demand.size, headroom), demand.room)
    if demand.retry_at is not None:
        n = min(n, 0 if demand.coming or now < demand.retry_at else 1)
    if demand.late.probe_at is not None:
        n = min(n, 0 if now < demand.late.probe_at else 1)
    return max(0, n)


def low_water(now: float, demand: Demand) -> int:
    """With fewer idle connections than this, one is due to be opened ahead.

    *demand* is that after the connects due at *now* have begun, and nothing looks before: an
    acquire that finds a connection free tells nobody.
    """
    if demand.room == 0 or demand.size >= demand.at_once:
        return 0
    if demand.retry_at is not None or now < demand.headroom_from:
        return 0
    return max(0, demand.lent + demand.idle - lent_at_most(demand.size))


def next_look(now: float, demand: Demand) -> float | None:
    """When the same question may have another answer without anything having happened.

    *demand* is that after the connects due at *now* have begun. None: not before an event.
    """
    if demand.room == 0:
        return None
    looks: list[float | None] = []
    if demand.waiting > demand.coming:
        looks.append(demand.promised_until)
    if demand.waiting or demand.retry_at is not None:
        looks.append(demand.late.next_at)
    if demand.wanted <= 0:
        if demand.headroom and demand.headroom_from > now:
            looks.append(demand.headroom_from)
    elif demand.late.probe_at is not None and demand.late.probe_at > now:
        looks.append(demand.late.probe_at)
    elif demand.retry_at is not None:
        looks = [demand.late.next_at if demand.coming else demand.retry_at]
    elif demand.for_queue > 0:
        looks = [now + demand.step]
    return min((at for at in looks if at is not None), default=None)


def with_headroom(lent: int) -> int:
    """How many connections to have while *lent* of them are lent: their square root more.

    Requests that come when they like, n under way on average, are now and then by √n more: a
    Poisson distribution's standard deviation. So few idle connections let nearly all of them find
    one, and also those of a load that grows by √n while a connect takes its time. (The square-root
    rule by which call centres are staffed: Halfin and Whitt 1981.) One that is lent alone needs
    none: a program that does one thing after the other never needs a second.
    """
    return lent + isqrt(lent) if lent > 1 else lent


def lent_at_most(size: int) -> int:
    """How many of *size* connections may be lent before one more is to be opened ahead."""
    lent = size - isqrt(size)
    while with_headroom(lent + 1) <= size:
        lent += 1
    return lent
