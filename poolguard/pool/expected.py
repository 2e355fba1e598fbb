"""How many connections a pool is expected to need, and what is told to the memory that knows it."""

from __future__ import annotations

from .core import Core
from .memory import Asked
from .snapshot import Counts

__all__ = ["Expected"]

LEVEL_AGAIN = 10.0
"""Seconds for which nothing is opened for the expected level once others have needed a slot."""
TOLD_EVERY = 5.0
"""Seconds after which what the pool is asked for is told again, while anything is lent."""


class Expected:
    """A pool's expected level, which stands above its floor. Times by the monotonic clock."""

    def __init__(self) -> None:
        self.is_told = False
        """There is a memory."""
        self.by_memory = 0
        """What it says."""
        self.level_from = 0.0
        """Nothing is opened for the level before."""
        self.asked_since = 0.0
        self._created = 0

    def __repr__(self) -> str:
        return f"<Expected {self.by_memory}>"

    def level(self, counts: Counts) -> int:
        """The connections to keep warm while nobody else needs their slots, the floor's among
        them."""
        return max(counts.min_size, min(self.by_memory, counts.max_size))

    def was_needed_elsewhere(self, now: float) -> None:
        """Others have needed the slot of a connection of this pool."""
        self.level_from = now + LEVEL_AGAIN

    def asked(self, now: float, core: Core, created: int) -> tuple[Asked | None, float | None]:
        """What the memory is to be told of the time since this was called before, and when it is to
        be told again.

        :param created: so many acquires have been given a connection that was made for them.
        """
        if not self.is_told:
            return None, None
        lent, waiting = core.count_anew()
        told = Asked(self.asked_since, now, lent, waiting, created - self._created, self.by_memory)
        self.asked_since, self._created = now, created
        return told, now + TOLD_EVERY if lent or waiting else None
