"""How many connections a pool is expected to need, and what is told to the memory that knows it."""

from __future__ import annotations

import math
from typing import Any

from .core import Core
from .memory import Asked, Memory
from .snapshot import Counts

__all__ = ["Expected"]

LEVEL_AGAIN = 10.0
"""Seconds for which nothing is opened for the expected level once others have needed a slot."""
TOLD_EVERY = 5.0
"""Seconds after which what the pool is asked for is told again, while anything is lent, ..."""
TOLD_AT_REST = 20.0
"""... and for which nothing is told while it is asked for nothing."""


class Expected:
    """A pool's expected level, which stands above its floor. Times by the monotonic clock."""

    def __init__(self) -> None:
        self.memory: Memory | None = None
        self.by_memory = 0
        """The level, as the memory says it."""
        self.has_fallen = False
        """The level has fallen, and what was kept for it may stand still."""
        self.level_from = 0.0
        """Nothing is opened for the level before."""
        self.asked_since = 0.0
        self._told_at = -math.inf
        self._created = 0

    def __repr__(self) -> str:
        return f"<Expected {self.by_memory}>"

    def level(self, counts: Counts) -> int:
        """The connections to keep warm while nobody else needs their slots, the floor's among
        them."""
        return max(counts.min_size, min(self.by_memory, counts.max_size))

    def status(self, counts: Counts) -> dict[str, Any]:
        """The level in force, and what it is due to: plain data."""
        level = self.level(counts)
        memory = self.memory if level > counts.min_size else None
        return {"level": level, "reason": "floor" if memory is None else memory.reason}

    def stands(self, counts: Counts, late: int, *, is_new: bool) -> bool:
        """Whether the pool has warmed up. What is expected beyond the floor is waited for while it
        comes as quickly as the floor.

        :param late: so many of the connects under way take much longer than others.
        :param is_new: none has been begun yet.
        """
        there = counts.size - counts.opening
        if there < counts.min_size:
            return False
        return there >= self.level(counts) or (counts.opening <= late and not is_new)

    def was_needed_elsewhere(self, now: float) -> None:
        """Others have needed the slot of a connection of this pool."""
        self.level_from = now + LEVEL_AGAIN

    def asked(self, now: float, core: Core, created: int) -> tuple[Asked | None, float | None]:
        """What the memory is to be told of the time since this was called before, and when it is to
        be told again.

        :param created: so many acquires have been given a connection that was made for them.
        """
        if self.memory is None:
            return None, None
        since, before = self.asked_since, self._created
        at_rest = not (core.most_lent or core.most_waiting or created != before)
        if at_rest and now < self._told_at + TOLD_AT_REST:
            return None, None
        self._told_at = now
        lent, waiting = core.count_anew()
        self.asked_since, self._created = now, created
        level, floor = min(self.by_memory, core.max_size), core.min_size
        told = Asked(since, now, lent, waiting, created - before, level, floor)
        return told, now + TOLD_EVERY if lent or waiting else None

    def asked_anew(self, now: float, core: Core, created: int) -> Asked | None:
        """The same at once, since the memory knows more now."""
        self._told_at = -math.inf
        return self.asked(now, core, created)[0]

    def tell(self, asked: Asked) -> bool:
        """Have the memory record that; whether there is something to be done by what it says. The
        pool's lock must not be held."""
        before, asks = self.by_memory, self.asks
        if self.memory is not None:
            self.by_memory = self.memory.remember(asked)
        if self.by_memory != before:
            self.has_fallen = self.by_memory < before
            return True
        return self.asks and not asks

    @property
    def asks(self) -> bool:
        """The memory wants to be given an idle connection."""
        return self.memory is not None and self.memory.asks

    def may_ask(self, counts: Counts) -> bool:
        """Whether it is given one now: none that a request is about to ask for."""
        spare = counts.idle > 1 or (counts.idle > 0 and not counts.lent)
        return self.asks and spare and not counts.waiting

    def close(self) -> None:
        """There is nothing to be told any more."""
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.close()
