"""A past that is made up: a dictionary of minutes, and weeks as services have them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from poolguard.history.minutes import DAY, HOUR, WEEK, Demand

__all__ = ["MONDAY", "MadeUp", "minute", "week"]

MONDAY = 20_479 * DAY
"""Midnight of Monday, 26 January 2026, UTC."""
WORKERS = 4


class MadeUp(dict[int, Demand]):
    """A :class:`~poolguard.history.minutes.Past` in memory."""

    def read(self, first: int, end: int) -> Sequence[Demand | None]:
        return [self.get(at) for at in range(first, end)]


def minute(one: int, *, waiting: int = 0, created: int = 0, level: int = 0) -> Demand:
    """A minute in which each of the workers has lent as much as the others, but for a third."""
    return Demand(one, max(one, math.ceil(one * WORKERS * 0.7)), waiting, created, level)


def week(start: int = MONDAY, *, peak: int = 12, incident: bool = True) -> MadeUp:
    """Seven days from *start*: busy by day, half as busy at the weekend, and quiet at night. On
    Wednesday at 14:00, UTC, an incident of six minutes takes 31 connections of each worker."""
    past = MadeUp()
    for at in range(start, start + WEEK):
        hours = at % DAY / HOUR
        weekend = (at - MONDAY) // DAY % 7 >= 5
        busy = max(math.sin((hours - 6) / 16 * math.pi), 0.0) if 6 <= hours <= 22 else 0.0
        wave = 0.06 * math.sin(at * 1.7)
        lent = round(peak * (0.5 if weekend else 1.0) * max(busy + wave * busy, 0.05))
        past[at] = minute(lent, level=min(lent + 2, peak + 1))
    struck = start + (MONDAY + 2 * DAY + 14 * HOUR - start) % WEEK
    if incident:
        for at in range(struck, struck + 6):
            first = at == struck
            past[at] = minute(31, waiting=20, created=60 if first else 20, level=past[at].level)
    return past
