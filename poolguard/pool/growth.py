"""How many connects to begin now. Pure: time is an argument, nothing is touched."""

from __future__ import annotations

from typing import NamedTuple

from .ahead import for_company, lent_at_most

__all__ = ["Demand", "connects_to_begin", "low_water", "next_look", "patience"]

SLOWEST_STEP = 0.010
"""Seconds: a queue that persists this long doubles the connects under way, at the latest.

A step is a twentieth of a connect: 15 waiters behind returns that do not come have their connects
after a fifth of one. (With a tenth, they were served after 1.4 connects in the demo's burst.)"""
SHORTEST_STEP = 0.001
SHORTEST_PATIENCE = 0.010
SLOW_DOUBLINGS = 16
"""So many steps make a start: a queue that never empties is bounded by nothing but the room."""


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
    ahead_from: float = 0.0
    """None is opened ahead before: there was no slot for it just now."""

    @property
    def for_queue(self) -> int:
        """Waiters that neither a connect nor a verification under way is for."""
        return self.waiting - self.opening - self.promised

    def likely(self, n: int) -> int:
        """Of *n* connections those that can be lent at once."""
        return int(min(n, self.at_once))

    @property
    def ahead(self) -> int:
        """Connections to open before anybody asks for them."""
        if self.retry_at is not None:
            return 0
        return max(0, self.likely(max(for_company(self.lent), self.expected)) - self.size)

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


def connects_to_begin(now: float, demand: Demand) -> int:
    """How many connects to begin at *now*.

    With nothing lent out, nobody can return anything: every waiter needs a connect. Otherwise the
    queue may empty itself, so growth starts slowly (one connect, doubling with each step that the
    queue persists): a queue of a millisecond's length opens nothing that is not needed. While
    connecting fails, one connect at a time probes. What is opened ahead waits for nobody.
    """
    for_queue = demand.for_queue
    if demand.lent and for_queue > 0:
        doublings = int(demand.waited / demand.step)
        if doublings < SLOW_DOUBLINGS:
            for_queue = min(for_queue, (1 << doublings) - 1 - demand.begun)
    ahead = demand.ahead if now >= demand.ahead_from else 0
    n = min(max(for_queue, demand.floor - demand.size, ahead), demand.room)
    if demand.retry_at is not None:
        n = min(n, 0 if demand.opening or now < demand.retry_at else 1)
    return max(0, n)


def low_water(now: float, demand: Demand) -> int:
    """With fewer idle connections than this, one is due to be opened ahead.

    *demand* is that after the connects due at *now* have begun, and nothing looks before: an
    acquire that finds a connection free tells nobody.
    """
    if demand.room == 0 or demand.size >= demand.at_once:
        return 0
    if demand.retry_at is not None or now < demand.ahead_from:
        return 0
    return max(0, demand.lent + demand.idle - lent_at_most(demand.size))


def next_look(now: float, demand: Demand) -> float | None:
    """When the same question may have another answer without anything having happened.

    *demand* is that after the connects due at *now* have begun. None: not before an event.
    """
    if demand.room == 0:
        return None
    lapses = demand.promised_until if demand.waiting > demand.opening else None
    if demand.wanted <= 0:
        if demand.ahead and demand.ahead_from > now:
            return demand.ahead_from if lapses is None else min(lapses, demand.ahead_from)
        return lapses
    if demand.retry_at is not None:
        return None if demand.opening else demand.retry_at
    if demand.for_queue > 0:
        return now + demand.step
    return lapses
