"""The numbers to configure, from minutes that were recorded, and what less would have cost. Pure.

What would have been created is an estimate, of one worker: the busiest of each minute, since a
minute tells of that one. It would have had its floor warm, and above that what it had lent at once
within the last :data:`UNUSED` minutes. Each further connection that was lent had to be created,
while a request waited for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from .minutes import Demand

__all__ = ["COVERED", "UNUSED", "Floor", "Limit", "Numbers", "cost", "numbers"]

COVERED = 0.999
"""The share of the minutes in which a floor is to be at least what was lent."""
UNUSED = 30
"""Minutes after which a connection above the floor is closed: the default of ``idle_timeout``."""
_SHARES = (0.995, 0.99, 0.98, 0.95, 0.9, 0.75, 0.5)
"""The shares of the minutes that the lower numbers cover."""


class Floor(NamedTuple):
    """What a floor would have meant for the busiest worker."""

    floor: int
    minutes: int
    """Minutes in which more was lent than that."""
    created: int
    """Connections that would have been created while a request waited: an estimate."""


class Limit(NamedTuple):
    """What a limit would have meant: ``max_size``, or the budget."""

    limit: int
    minutes: int
    """Minutes in which requests would have waited for what others had."""


class Numbers(NamedTuple):
    """What would have sufficed."""

    floor: Floor
    """The least that covers :data:`COVERED` of the known minutes."""
    max_size: int
    """The most that one worker had lent at once, with those that waited until one was returned."""
    budget: int
    """The same of all workers of a host, times *instances*."""
    instances: int
    known: int
    """The minutes all this is from."""
    asked: int
    """The minutes that were looked at, the unknown ones too."""
    span: int
    """Those since the first that is known."""
    created: int
    """Connections that were created while an acquire waited, in all workers."""
    lower: tuple[Floor, ...]
    """What some lower floors would have cost, from the highest."""
    max_sizes: tuple[Limit, ...]
    budgets: tuple[Limit, ...]

    @property
    def covered(self) -> float:
        """The share of the known minutes in which the floor would have been enough."""
        return 1 - self.floor.minutes / self.known


def numbers(minutes: Sequence[Demand | None], instances: int = 1) -> Numbers | None:
    """The numbers that *minutes* ask for; None where nothing is known of any.

    :param instances: how many hosts share the budget. Each is taken to need what this one does.
    """
    known = [minute for minute in minutes if minute is not None]
    if not known:
        return None
    lent = [minute.one for minute in known]
    wanted = [minute.one + _in_vain(minute) for minute in known]
    hosts = [max(minute.host, minute.one) + _in_vain(minute) for minute in known]
    floor = max(_covering(lent, COVERED), 1)
    lower = {floor - 1, *(_covering(lent, share) for share in _SHARES)}
    return Numbers(
        floor=cost(minutes, floor),
        max_size=max(*wanted, 1),
        budget=max(*hosts, 1) * instances,
        instances=instances,
        known=len(known),
        asked=len(minutes),
        span=len(minutes) - next(n for n, minute in enumerate(minutes) if minute is not None),
        created=sum(minute.created for minute in known),
        lower=tuple(cost(minutes, n) for n in sorted(lower, reverse=True) if 0 < n < floor),
        max_sizes=_limits(wanted),
        budgets=tuple(Limit(n * instances, over) for n, over in _limits(hosts)),
    )


def cost(minutes: Sequence[Demand | None], floor: int) -> Floor:
    """What *floor* would have meant for the busiest worker in *minutes*."""
    over = created = 0
    for demand, before in zip(minutes, _used_before(minutes), strict=True):
        if demand is not None and demand.one > floor:
            over += 1
            created += max(demand.one - max(floor, before), 0)
    return Floor(floor, over, created)


def _in_vain(minute: Demand) -> int:
    """Acquires that waited for a return. Others waited while theirs was created, and what they got
    is among what was lent."""
    return max(minute.waiting - minute.created, 0)


def _used_before(minutes: Sequence[Demand | None]) -> list[int]:
    """For each minute, the most that was lent at once in the :data:`UNUSED` minutes before it."""
    found: list[int] = []
    falling: deque[tuple[int, int]] = deque()
    for at, minute in enumerate(minutes):
        while falling and falling[0][0] < at - UNUSED:
            falling.popleft()
        found.append(falling[0][1] if falling else 0)
        lent = 0 if minute is None else minute.one
        while falling and falling[-1][1] <= lent:
            falling.pop()
        falling.append((at, lent))
    return found


def _covering(values: Sequence[int], share: float) -> int:
    """The least number that is at least as high as *share* of *values*."""
    allowed = int(len(values) * (1 - share) + 1e-9)
    for value, n in sorted(Counter(values).items(), reverse=True):
        if n > allowed:
            return value
        allowed -= n
    return 0


def _limits(values: Sequence[int]) -> tuple[Limit, ...]:
    """What some limits below the highest of *values* would have meant, from the highest."""
    most = max(values)
    lower = {most - 1, *(_covering(values, share) for share in (COVERED, 0.99, 0.95, 0.75))}
    return tuple(
        Limit(n, sum(value > n for value in values))
        for n in sorted(lower, reverse=True)
        if 0 < n < most
    )
