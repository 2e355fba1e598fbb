"""How many connections a worker is to keep warm, by what was needed before. Pure: the minute is an
argument, and nothing is kept between two decisions but the level.

Figures named below are those of ``python -m benchmarks history``: four workers that lend 12
connections each on average while they are busiest, three weeks long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from operator import attrgetter
from typing import Literal, NamedTuple

from ..util.headroom import with_headroom
from .minutes import DAY, HOUR, Demand, Past

__all__ = ["Expected", "Reason", "decide", "decide_again", "local_offset", "needed"]

Reason = Literal["floor", "day", "week", "hour", "held"]
"""Why a level is in force: nothing more is known to be needed (``floor``); an earlier day needed
it at this time (``day``), or this day of an earlier week (``week``); the last half hour needed more
than earlier days say, or the last hour did, and none of them is known (``hour``); or less is
needed, and it is on its way down (``held``)."""

BEFORE, AHEAD = 5, 20
"""Minutes around the time of day: what was needed a little before is still kept, as no ramp is on
the minute; and what was needed so soon after is opened now. (With 30 ahead,
2 % more connection-hours are kept in ordinary weeks, and 17 % more where there are hourly jobs.)"""
LAST = 30
"""Minutes that tell what is different today. (With 60, growth is noticed late: a service that
doubles in a week created half as much again while requests waited.)"""
DAYS, WEEKS = 7, 5
"""So far back it looks: at each of so many days, and at this day of so many weeks."""
FADES = 0.8
"""What the day before counts, or the week before, of what a day counts, or a week."""
OF_WEEK = 0.6
"""What this day of last week counts of what yesterday counts. With this and QUANTILE a peak that
one day had alone is believed for three days, and is not believed again a week later."""
QUANTILE = 0.85
"""The part of the past, by weight, that needed no more than is kept. Yesterday alone is never less
than the rest of 1: the second day of a service has what the first one needed."""
HEADROOM = 1.5
"""Square roots of the need, for one day that is known; with n days by weight a part of 1/√n. The
fewer days are known, the more likely chance exceeds the highest of them. (With 1.25, about twice
as many are created while requests wait, for 3 % fewer connection-hours.)"""
LEAST, MOST = 0.7, 2.0
"""Bounds of what today is allowed to be in relation to an earlier day. A quiet half hour, such as
an outage elsewhere, is not to cost more than the headroom and a few connections."""
TELLS = 1.3
"""How much of what comes the last half hour was, that it may tell of it. The average minute's peak
of an even load is by a fourth to a third less than the highest of half an hour."""
EVERY = 5
"""Minutes between two decisions at rest, and between two steps down."""
STEP = 2
"""A step down is one of so many parts of what is too much. (With 4, hourly jobs of 20 seconds
keep 14 % more connection-hours.)"""


class Expected(NamedTuple):
    """What a worker is to keep warm."""

    level: int
    """Connections."""
    reason: Reason


class _Today(NamedTuple):
    average: float | None
    """Of the last half hour's minutes: what each needed at most. None if nothing is known."""
    known: float
    """The part of them that is known."""
    peak: int
    """Of the last half hour."""
    hour: int
    """Of the last hour."""


class _Day(NamedTuple):
    """What an earlier day needed about this time."""

    age: int
    """Days."""
    weight: float
    peak: int
    """Connections, a little before this time and for a while after it."""
    expected: float
    """The same if today goes on as it has begun."""
    before: int
    """The peak of the half hour before."""


def decide(
    now: int,
    past: Past,
    *,
    floor: int,
    most: int,
    level: int,
    decided: int | None = None,
    offset: Callable[[int], int],
) -> Expected:
    """What each worker is to keep warm from *now* on, and why.

    It may rise at once and to the full. It falls by a part every five minutes, once it is clear
    that less is needed: neither a little before this time of day, nor now, nor soon.

    :param now: the minute it is. What is known of it already counts.
    :param floor: what is kept in any case.
    :param most: what is never exceeded: ``max_size``, or how many a worker can use at once.
    :param level: the level in force; the floor where there was no decision yet.
    :param decided: the minute in which that was decided; None says the one before.
    :param offset: by how many minutes local time is ahead of UTC, in a minute: people come by the
        clock on the wall. :func:`local_offset` is this host's.
    """
    today = _today(now, past)
    days = [*_alike(now, past, offset, [*_days(now, past, offset, today)])]
    need, reason = _by_days(days)
    like = _high(days, attrgetter("before"))
    if like is None:  # what comes each hour is met on the first day, too
        need, reason = with_headroom(today.hour), "hour"
    elif today.peak > with_headroom(like.before):
        recent = with_headroom(today.peak)  # nothing tells how long it goes on
        if recent > need:
            need, reason = recent, "hour"
    wanted = min(most, max(floor, need))
    if wanted < level <= most:
        return Expected(_lower(level, wanted, now - 1 if decided is None else decided, now), "held")
    return Expected(wanted, reason if wanted > floor else "floor")


def decide_again(now: int, lent: int) -> int:
    """The minute from which on a worker that decides *now* is to decide again: the next one while
    it has *lent* any; else every five minutes, when the level may fall."""
    return now + 1 if lent else now - now % EVERY + EVERY


def needed(first: int, last: int, offset: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """The minutes that decisions from *first* to *last* look at, each range to before its end."""
    yield first - HOUR, last + 1
    # The week before each of the last days is looked at, too.
    for age in (*range(1, DAYS + 7), *range(14, 7 * WEEKS + 1, 7)):
        times = _same_time(first, age, offset), _same_time(last, age, offset)
        yield min(times) - LAST, max(times) + AHEAD


def local_offset(minute: int) -> int:
    """By how many minutes this host's local time is ahead of UTC in that minute."""
    return time.localtime(minute * 60).tm_gmtoff // 60


def _lower(level: int, wanted: int, decided: int, now: int) -> int:
    """At most a step in each five minutes by the clock, which is the same for all workers."""
    if now // EVERY == decided // EVERY:
        return level
    return level - max(1, (level - wanted) // STEP)


def _today(now: int, past: Past) -> _Today:
    minutes = past.read(now - HOUR, now + 1)
    ended = _needs(minutes[-1 - LAST : -1])
    average = sum(ended) / len(ended) if ended else None
    peak = max([*ended, *_needs(minutes[-1:])], default=0)
    return _Today(average, len(ended) / LAST, peak, max(_needs(minutes), default=0))


def _days(now: int, past: Past, offset: Callable[[int], int], today: _Today) -> Iterator[_Day]:
    for age in (*range(1, DAYS + 1), *range(14, 7 * WEEKS + 1, 7)):
        at = _same_time(now, age, offset)
        minutes = past.read(at - LAST, at + AHEAD)
        around = _needs(minutes[LAST - BEFORE :])
        if around:
            peak, before = max(around), _needs(minutes[:LAST])
            weight = _weight(age) * len(around) / (BEFORE + AHEAD)
            average = sum(before) / len(before) if before else 0.0
            likely = peak * _relation(today, average, peak)
            yield _Day(age, weight, peak, likely, max(before, default=0))


def _relation(today: _Today, average: float, peak: int) -> float:
    """What today needs in relation to a day on which the last half hour needed so many on average,
    and then so many come at once. The night does not tell of the morning: the less the half hour
    needed in comparison, the less it tells."""
    if today.average is None or not average or not peak:
        return 1.0
    tells = today.known * min(1.0, TELLS * average / peak) ** 2
    return min(MOST, max(LEAST, 1.0 + tells * (today.average / average - 1.0)))


def _weight(age: int) -> float:
    of_day: float = FADES ** (age - 1) if age <= DAYS else 0.0
    of_week: float = OF_WEEK * FADES ** (age // 7 - 1) if age % 7 == 0 else 0.0
    return max(of_day, of_week)


def _alike(
    now: int, past: Past, offset: Callable[[int], int], days: Sequence[_Day]
) -> Iterator[_Day]:
    """Without the days that are busier than this day of the week is: a Friday tells nothing of a
    Saturday. Such a day is busier than the last two of this day were, and was so a week before."""
    of_week = [day.peak for day in days if day.age in (7, 14)]
    if not of_week:
        yield from days
        return
    usual = with_headroom(max(of_week))
    for day in days:
        if day.age < 7 and day.peak > usual:
            at = _same_time(now, day.age + 7, offset)
            if max(_needs(past.read(at - BEFORE, at + AHEAD)), default=0) > usual:
                continue
        yield day


def _by_days(days: Sequence[_Day]) -> tuple[int, Reason]:
    """What they make one expect, and which kind of them."""
    high = _high(days, attrgetter("expected"))
    if high is None:
        return 0, "floor"
    n = max(1.0, sum(day.weight for day in days))
    # One that is lent alone needs no headroom: see with_headroom().
    headroom = HEADROOM * sqrt(high.expected / n) if round(high.expected) > 1 else 0.0
    return round(high.expected + headroom), "week" if high.age % 7 == 0 else "day"


def _high(days: Sequence[_Day], figure: Callable[[_Day], float]) -> _Day | None:
    """The day that stands at the high quantile of that figure."""
    above = (1.0 - QUANTILE) * sum(day.weight for day in days)
    for day in sorted(days, key=figure, reverse=True):
        above -= day.weight
        if above < 0.0:
            return day
    return None


def _same_time(now: int, age: int, offset: Callable[[int], int]) -> int:
    """The minute so many days ago at which clocks on the wall showed what they show now."""
    at = now - age * DAY
    return at + offset(now) - offset(at)


def _needs(minutes: Sequence[Demand | None]) -> list[int]:
    """What each of those that are known needed: as many as were lent, or as waited."""
    return [
        each.one if each.one >= each.waiting else each.waiting
        for each in minutes
        if each is not None
    ]
