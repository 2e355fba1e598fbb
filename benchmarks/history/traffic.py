"""What simulated services are asked for: connections lent at once, second by second."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from poolguard.history.minutes import DAY, HOUR

MAX_SIZE = 60
"""Of a worker."""
BUSY = 12.0
"""Connections that a worker uses on average when a weekday is at its busiest."""
NIGHT = 0.08
"""Part of that which is asked for at night."""
WEEKEND = 0.45
RANDOM_DAY = 0.06
"""Standard deviation of what a day has more or less than others like it, as a part, ..."""
RANDOM_SHIFT = 8.0
"""... and of how much earlier or later it begins, in minutes."""
BURST, BURST_SECONDS = 25, 20
"""Connections of a worker that jobs use at the full hour, and for how long."""
CLUMP = 3
RARE = 1e-6
"""What is kept by who knows the curve is exceeded in one of a million seconds."""

Mean = Callable[[int], float]
"""Connections that a worker uses on average in a minute."""


class Scale(NamedTuple):
    """How much is simulated."""

    days: int = 21
    workers: int = 4
    seed: int = 1


class Traffic(NamedTuple):
    """What each worker of a host is asked for. It begins on a Monday at midnight."""

    name: str
    seconds: Sequence[Sequence[bytes]]
    """For each worker, for each minute: how many are lent at once, second by second."""
    peaks: Sequence[Sequence[int]]
    """The most of each minute."""
    rare: Sequence[int]
    """For each minute: what one of a million such seconds exceeds."""
    unforeseen: range
    """Minutes of which nobody could know."""

    @property
    def minutes(self) -> int:
        return len(self.rare)


def traffic(name: str, scale: Scale) -> Traffic:
    """The one of that name."""
    mean, unforeseen = _mean(name, scale)
    means = [mean(minute) for minute in range(scale.days * DAY)]
    random = Random(f"{name} {scale.seed}")
    seconds = [[_drawn(each, random) for each in means] for _ in range(scale.workers)]
    rare = [_rare(round(each, 1)) for each in means]
    if name == "cron":
        for minute in range(0, len(means), HOUR):
            rare[minute] += BURST
            for worker in seconds:
                burst = bytes(n + BURST for n in worker[minute][:BURST_SECONDS])
                worker[minute] = burst + worker[minute][BURST_SECONDS:]
    elif name == "clumps":
        rare = [CLUMP * each for each in rare]
        clumps = bytes(min(MAX_SIZE, CLUMP * n) for n in range(256))
        seconds = [[each.translate(clumps) for each in worker] for worker in seconds]
    elif name == "incident":
        for worker in seconds:
            for minute in unforeseen:
                worker[minute] = bytes([MAX_SIZE] * 60)
    peaks = [[*map(max, worker)] for worker in seconds]
    return Traffic(name, seconds, peaks, rare, unforeseen)


TRAFFICS: Mapping[str, str] = {
    "weeks": "weekdays and weekends, no day quite like another",
    "bell": "on weekdays all begin at nine sharp, after a night without work",
    "clumps": f"clients ask for {CLUMP} things at once",
    "cron": f"at each full hour {BURST} more in each worker for {BURST_SECONDS} s, and a third of "
    "the usual beside them",
    "launch": "on one day three times as many come within ten minutes, and some stay",
    "doubling": "in the second third of the time it becomes twice as much",
    "incident": "on one day the database hangs for ten minutes, and all that can be lent is",
}


def _mean(name: str, scale: Scale) -> tuple[Mean, range]:
    """How much is asked for on average, and the minutes of which nobody could know."""
    mean, middle = _week(scale), scale.days // 2 - 1
    if name == "launch":
        at = middle * DAY + 14 * HOUR
        return _launched(mean, at), range(at, at + HOUR)
    if name == "incident":
        at = max(1, middle - 1) * DAY + 11 * HOUR
        return mean, range(at, at + 10)
    if name == "doubling":
        return _doubled(mean, scale.days), range(0)
    if name == "bell":
        return _rung(mean), range(0)
    part = {"cron": 1 / 3, "clumps": 1 / CLUMP}.get(name, 1.0)
    return lambda minute: part * mean(minute), range(0)


def _week(scale: Scale) -> Mean:
    random = Random(f"days {scale.seed}")
    of_day = [random.gauss(1.0, RANDOM_DAY) for _ in range(scale.days)]
    shifts = [random.gauss(0.0, RANDOM_SHIFT) for _ in range(scale.days)]

    def mean(minute: int) -> float:
        day = minute // DAY
        part = NIGHT + (1 - NIGHT) * _working_hours((minute % DAY - shifts[day]) / HOUR)
        return BUSY * of_day[day] * (WEEKEND if day % 7 > 4 else 1.0) * part

    return mean


def _working_hours(hour: float) -> float:
    """0 to 1: a ramp of about two hours in the morning, a dip at noon, and a slow evening."""
    rise = 1 / (1 + math.exp(-(hour - 8.0) * 3.5))
    fall = 1 / (1 + math.exp((hour - 19.0) * 1.3))
    dip = 1 - 0.25 * math.exp(-(((hour - 12.8) / 0.8) ** 2))
    return rise * fall * dip


def _launched(mean: Mean, at: int) -> Mean:
    def launched(minute: int) -> float:
        later = max(0, minute - at)
        return mean(minute) * (1 + min(1.0, later / 10) * (0.6 + 1.4 * math.exp(-later / DAY)))

    return launched


def _doubled(mean: Mean, days: int) -> Mean:
    def doubled(minute: int) -> float:
        return mean(minute) * 2 ** min(1.0, max(0.0, 3 * minute / (days * DAY) - 1))

    return doubled


def _rung(mean: Mean) -> Mean:
    def rung(minute: int) -> float:
        day, at = divmod(minute, DAY)
        return mean(minute) if day % 7 > 4 or 9 * HOUR <= at < 20 * HOUR else 0.2

    return rung


def _drawn(mean: float, random: Random) -> bytes:
    """A minute of requests that come when they like: each second anew by Poisson's distribution."""
    sums = _sums(round(mean, 1))
    return bytes(random.choices(range(len(sums)), cum_weights=sums, k=60))


def _rare(mean: float) -> int:
    return sum(each < 1.0 - RARE for each in _sums(mean))


@cache
def _sums(mean: float) -> list[float]:
    """How likely each number or a lesser one is."""
    likely = math.exp(-mean)
    sums, n = [likely], 0
    while n < MAX_SIZE and not (n > mean and likely < 1e-10):
        n += 1
        likely *= mean / n
        sums.append(sums[-1] + likely)
    return sums
