"""A host's pools under simulated traffic, minute by minute, by what decides what they keep warm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from poolguard.history.expected import decide
from poolguard.history.minutes import NOTHING, Demand
from poolguard.util.headroom import with_headroom

from .traffic import MAX_SIZE, Traffic

IDLE = 30
"""Minutes: the product's ``idle_timeout``."""
AHEAD = 30
"""Minutes: what they need is what is to be kept now."""
JUST_NOW = 5
"""Minutes. What stands above a level that falls is closed if it was not needed for so long."""

Levels = Callable[[int], int]
"""What each worker is to keep warm in a minute. It is asked once a minute, in their order."""


class Pool:
    """One worker's pool, which grows and closes as the product's does.

    It opens what is asked for, and the square root of that more. What nobody needed is closed at
    the end of each half hour, down to the level; and where the level falls, what is above it and
    was not needed just now.
    """

    def __init__(self, phase: int) -> None:
        self.size = self.level = 0
        self._most = 0
        self._phase = phase
        self._just_now = [0] * JUST_NOW

    def keep(self, level: int) -> None:
        """Have this level in force from now on."""
        if level < self.level:
            self._close(level, max(self._just_now))
        self.level = level
        self.size = max(self.size, level)

    def lend(self, minute: int, seconds: bytes, peak: int) -> int:
        """Be asked for so many; how many were created while they were waited for."""
        created = 0
        if with_headroom(peak) > self.size:
            for n in seconds:
                created += max(0, n - self.size)
                self.size = max(self.size, min(MAX_SIZE, with_headroom(n)))
        self._most = max(self._most, peak)
        self._just_now[minute % JUST_NOW] = peak
        return created

    def tidy(self, minute: int) -> None:
        """Close what the last half hour did not need, if that is over."""
        if (minute + self._phase) % IDLE == IDLE - 1:
            self._close(self.level, self._most)
            self._most = 0

    def _close(self, level: int, needed: int) -> None:
        self.size = max(level, min(self.size, with_headroom(needed)))


class Replayed(NamedTuple):
    """What happened, minute by minute, in all workers together."""

    created: Sequence[int]
    kept: Sequence[int]
    levels: Sequence[int]
    """Of one worker."""


def replay(traffic: Traffic, levels: Levels) -> Replayed:
    """What happens with these levels."""
    pools = [Pool(phase=7 * nth) for nth in range(len(traffic.seconds))]
    created, kept, in_force = list[int](), list[int](), list[int]()
    for minute in range(traffic.minutes):
        level, new, size = levels(minute), 0, 0
        for pool, seconds, peaks in zip(pools, traffic.seconds, traffic.peaks, strict=True):
            if level != pool.level:
                pool.keep(level)
            new += pool.lend(minute, seconds[minute], peaks[minute])
            size += pool.size
            pool.tidy(minute)
        created.append(new)
        kept.append(size)
        in_force.append(level)
    return Replayed(created, kept, in_force)


class History:
    """The levels by the product's own decision, which is told of each minute once it is over."""

    def __init__(self, traffic: Traffic, floor: int = 1) -> None:
        self._needs = [*map(max, zip(*traffic.peaks, strict=True))]
        self._past: list[Demand] = []
        self._floor = self._level = floor

    def __call__(self, minute: int) -> int:
        self._past += [NOTHING._replace(one=n) for n in self._needs[len(self._past) : minute]]
        self._level, _ = decide(
            minute,
            self,
            floor=self._floor,
            most=MAX_SIZE,
            level=self._level,
            offset=lambda _: 0,
        )
        return self._level

    def read(self, first: int, end: int) -> Sequence[Demand | None]:
        """What is known: a :class:`~poolguard.history.minutes.Past`."""
        known = self._past[max(0, first) : max(0, end)]
        before = min(end, 0) - min(first, 0)
        return [*([None] * before), *known, *([None] * (end - first - before - len(known)))]


def fixed(level: int) -> Levels:
    """Always the same."""
    return lambda _: level


def curve(traffic: Traffic) -> Levels:
    """By who knows how much is asked for on average in each minute, but not when just who comes."""
    levels = _soon(traffic.rare)
    # What was just needed stays as well, or it would not be closed as the level falls.
    return lambda minute: max(levels[max(0, minute - JUST_NOW) : minute + 1])


def oracle(traffic: Traffic) -> Replayed:
    """By who knows all that comes: each pool has what its next half hour needs."""
    kept = [sum(each) for each in zip(*map(_soon, traffic.peaks), strict=True)]
    return Replayed([0] * traffic.minutes, kept, [])


def _soon(needs: Sequence[int]) -> list[int]:
    return [max(1, *needs[at : at + AHEAD]) for at in range(len(needs))]
