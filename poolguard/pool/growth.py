"""How many connects to begin now. Pure: time is an argument, nothing is touched."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Demand", "connects_to_begin", "next_look"]

SLOWEST_STEP = 0.020
"""Seconds: a queue that persists this long doubles the connects under way, at the latest."""
SHORTEST_STEP = 0.001
SLOW_DOUBLINGS = 16
"""So many steps make a start: a queue that never empties is bounded by nothing but the room."""


@dataclass(frozen=True, slots=True)
class Demand:
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
    starved: bool = False
    """The ledger had no slot left when it was last asked, and has not rung since."""

    @property
    def wanted(self) -> int:
        """Connects that the floor and the queue ask for, were there no reason to go slowly."""
        return max(self.floor - self.size, self.waiting - self.opening)

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
        return min(SLOWEST_STEP, max(SHORTEST_STEP, self.connect_time / 10))


def connects_to_begin(now: float, demand: Demand) -> int:
    """How many connects to begin at *now*.

    With nothing lent out, nobody can return anything: every waiter needs a connect. Otherwise the
    queue may empty itself, so growth starts slowly (one connect, doubling with each step that the
    queue persists): a queue of a millisecond's length opens nothing that is not needed. While
    connecting fails, one connect at a time probes.
    """
    for_queue = demand.waiting - demand.opening
    if demand.lent and for_queue > 0:
        doublings = int(demand.waited / demand.step)
        if doublings < SLOW_DOUBLINGS:
            for_queue = min(for_queue, (1 << doublings) - 1 - demand.begun)
    n = min(max(for_queue, demand.floor - demand.size), demand.room)
    if demand.retry_at is not None:
        n = min(n, 0 if demand.opening or now < demand.retry_at else 1)
    return max(0, n)


def next_look(now: float, demand: Demand) -> float | None:
    """When the same question may have another answer without anything having happened.

    *demand* is that after the connects due at *now* have begun. None: not before an event.
    """
    if demand.wanted <= 0 or demand.room == 0:
        return None
    if demand.retry_at is not None:
        return None if demand.opening else demand.retry_at
    if demand.waiting > demand.opening:
        return now + demand.step
    return None
