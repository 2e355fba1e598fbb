"""How many connects to begin now. Pure: time is an argument, nothing is touched."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from ..util.headroom import with_headroom
from .snapshot import Late, Snapshot

__all__ = [
    "connects_to_begin",
    "late_ones",
    "lent_at_most",
    "likely_back",
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
RAISED_AT_ONCE = 2
"""Connects under way at once for what is expected to be needed soon, while nobody waits."""
LATE_FACTOR = 5
"""A connect is late after so many times of what one lately took, ..."""
SHORTEST_LATE = 0.5
"""... but not before so many seconds: one lost packet, or a busy machine, costs a part of that."""
LATE_AT_FIRST = 1.0
"""Seconds after which a connect is late while it is not known how long one takes."""


def patience(connect_time: float) -> float:
    """Seconds for which a verification is likely to end well, where a connect takes *connect_time*.

    A verification is one round trip, and a connect at least three (TCP, start-up, authentication):
    one that takes half as long as a connect is probably asking a connection that is dead.
    """
    return max(SHORTEST_PATIENCE, connect_time / 2)


def likely_back(lent: int, within: float, ended: int, usage: float) -> int:
    """How many of so many that are *lent* are likely to come back *within* so many seconds, by how
    long others were lent.

    :param ended: so many of these have come back, which were lent for *usage* seconds in all. While
        there is none, it is not known when any will.
    """
    return int(lent * within * ended / max(usage, 1e-9)) if ended > 0 else 0


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


def headroom(s: Snapshot) -> int:
    """Connections to open before any acquire needs them."""
    if s.retry_at is not None:
        return 0
    return max(0, s.likely(max(with_headroom(s.counts.lent), s.expected)) - s.counts.size)


def for_level(now: float, s: Snapshot) -> int:
    """Connections to open for the level that is expected to be needed: all at once as the pool
    warms up, and later a few at a time, since nobody waits for them."""
    if s.retry_at is not None or now < s.level_from:
        return 0
    lacking = max(0, s.level - s.counts.size)
    return lacking if s.reason == "warmup" else min(lacking, max(0, RAISED_AT_ONCE - s.coming))


def step(connect_time: float) -> float:
    """Seconds in which the connects under way may double."""
    return min(SLOWEST_STEP, max(SHORTEST_STEP, connect_time / 20))


def connects_to_begin(now: float, s: Snapshot) -> int:
    """How many connects to begin at *now*.

    What will not come back within a connect cannot serve the queue: every other waiter needs a
    connect at once. The rest of the queue may empty itself, so that growth starts slowly (one
    connect, doubling with each step that the queue persists): a queue of a millisecond's length
    opens nothing that is not needed. While
    connecting fails, one connect at a time probes; one that hangs is none. What is opened ahead
    does not go slowly.
    """
    for_queue = s.for_queue
    if s.counts.lent and for_queue > 0:
        doublings = int(s.waited / step(s.connect_time))
        if doublings < SLOW_DOUBLINGS:
            slowly = (1 << doublings) - 1 - s.begun
            for_queue = min(for_queue, max(slowly, for_queue - s.returning))
    ahead = headroom(s) if now >= s.headroom_from else 0
    if s.counts.waiting:
        ahead = min(ahead, max(0, s.for_queue))  # beyond that it would slow down those waited for
    n = min(max(for_queue, s.for_floor, ahead, for_level(now, s)), s.room)
    if s.retry_at is not None:
        n = min(n, 0 if s.coming or now < s.retry_at else 1)
    if s.late.probe_at is not None:
        n = min(n, 0 if now < s.late.probe_at else 1)
    return max(0, n)


def low_water(now: float, s: Snapshot) -> int:
    """With fewer idle connections than this, one is due to be opened ahead.

    *s* is after the connects due at *now* have begun. Without this there would be no look at the
    pool: an acquire that finds a connection free rings for none.
    """
    if s.room == 0 or s.counts.size >= s.at_once:
        return 0
    if s.retry_at is not None or now < s.headroom_from:
        return 0
    return max(0, s.counts.lent + s.counts.idle - lent_at_most(s.counts.size))


def next_look(now: float, s: Snapshot) -> float | None:
    """When the same question may have another answer without anything having happened.

    *s* is after the connects due at *now* have begun. None: not before an event.
    """
    if s.room == 0:
        return None
    looks: list[float | None] = []
    if s.counts.waiting > s.coming:
        looks.append(s.promised_until)
    if s.counts.waiting or s.retry_at is not None:
        looks.append(s.late.next_at)
    if s.wanted <= 0:
        if headroom(s) and s.headroom_from > now:
            looks.append(s.headroom_from)
        if s.level > s.counts.size and s.level_from > now:
            looks.append(s.level_from)
    elif s.late.probe_at is not None and s.late.probe_at > now:
        looks.append(s.late.probe_at)
    elif s.retry_at is not None:
        looks = [s.late.next_at if s.coming else s.retry_at]
    elif s.for_queue > 0:
        looks = [now + step(s.connect_time)]
    return min((at for at in looks if at is not None), default=None)


def lent_at_most(size: int) -> int:
    """How many of *size* connections may be lent before one more is to be opened ahead."""
    lent = size - isqrt(size)
    while with_headroom(lent + 1) <= size:
        lent += 1
    return lent
