"""What is recorded of each minute, and the minutes that are known. Pure.

A minute is told by its number: whole minutes since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["DAY", "HOUR", "KEPT", "NOTHING", "WEEK", "Demand", "Past"]

HOUR = 60
DAY = 24 * HOUR
WEEK = 7 * DAY
KEPT = 5 * WEEK
"""So many minutes are kept."""


class Demand(NamedTuple):
    """What one minute has asked of a guard's pools, on all hosts that record in the same place."""

    one: int
    """The most connections that were lent at once in one worker."""
    host: int
    """The same in all workers of one host together."""
    waiting: int
    """The most acquires that waited at once in one worker."""
    created: int
    """Connections that were created while an acquire waited for one, in all workers."""
    level: int
    """How many connections a worker was to keep warm then, at most: its expected level."""

    def merged(self, other: Demand) -> Demand:
        """Both of the same minute, as two workers know it."""
        return Demand(
            max(self.one, other.one),
            max(self.host, other.host),
            max(self.waiting, other.waiting),
            self.created + other.created,
            max(self.level, other.level),
        )


NOTHING = Demand(0, 0, 0, 0, 0)
"""A minute in which nothing was lent."""


class Past(Protocol):
    """The minutes that were recorded."""

    def read(self, first: int, end: int) -> Sequence[Demand | None]:
        """Those from *first* to before *end*; None for each of which nothing is known: the service
        may not have run then."""
