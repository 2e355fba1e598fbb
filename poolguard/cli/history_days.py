"""Recorded minutes as days, in which a minute has its place by the clock on the wall."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, tzinfo
from typing import NamedTuple

from ..history.minutes import DAY, HOUR, Demand, Past

__all__ = ["Column", "Day", "columns_of", "days"]


class Column(NamedTuple):
    """Some minutes of a day, drawn in one place."""

    known: bool
    """Anything is known of it."""
    lent: int = 0
    """The most connections that were lent at once in one worker."""
    level: int = 0
    """The most that a worker was to keep warm."""
    beyond: int = 0
    """By how much the first was above the second, in the minute in which it was most."""
    created: int = 0
    """Connections that were created while a request waited."""


class Day(NamedTuple):
    """One day of the calendar."""

    date: date
    minutes: list[Demand | None]
    """By the clock on the wall, from midnight. An hour that comes twice is merged, and nothing is
    known of one that is left out."""
    changed: bool = False
    """The clocks were changed on this day."""
    until: int = DAY
    """The first of the minutes that is yet to come."""

    @property
    def known(self) -> list[Demand]:
        """The minutes of which something is known."""
        return [minute for minute in self.minutes if minute is not None]


def days(past: Past, first: int, end: int, zone: tzinfo | None = None) -> list[Day]:
    """The days of the minutes from *first* to before *end*, each of them whole.

    :param zone: where the clock hangs; None: here.
    """
    found = []
    at, last = _local(first, zone).date(), _local(end - 1, zone).date()
    while at <= last:
        found.append(_day(past, at, zone, end))
        at += timedelta(1)
    return found


def columns_of(day: Day, each: int) -> list[Column]:
    """The day in columns of *each* minutes."""
    return [_column(day.minutes[at : at + each]) for at in range(0, DAY, each)]


def _column(minutes: list[Demand | None]) -> Column:
    known = [minute for minute in minutes if minute is not None]
    if not known:
        return Column(False)
    return Column(
        True,
        max(minute.one for minute in known),
        max(minute.level for minute in known),
        # Nothing is above a level that was not told.
        max(minute.one - min(minute.level or minute.one, minute.one) for minute in known),
        sum(minute.created for minute in known),
    )


def _day(past: Past, at: date, zone: tzinfo | None, end: int) -> Day:
    begin, after = _midnight(at, zone), _midnight(at + timedelta(1), zone)
    minutes: list[Demand | None] = [None] * DAY
    changed = after - begin != DAY
    for place, demand in _placed(past, begin, min(after, end), zone, changed=changed):
        before = minutes[place]
        minutes[place] = demand if before is None else before.merged(demand)
    until = DAY if end >= after else (end - begin if not changed else _place(end, zone))
    return Day(at, minutes, changed, until)


def _placed(
    past: Past, begin: int, end: int, zone: tzinfo | None, *, changed: bool
) -> Iterator[tuple[int, Demand]]:
    for number, demand in enumerate(past.read(begin, end)):
        if demand is None:
            continue
        if changed:
            yield _place(begin + number, zone), demand
        else:
            yield number, demand


def _place(minute: int, zone: tzinfo | None) -> int:
    at = _local(minute, zone)
    return at.hour * HOUR + at.minute


def _local(minute: int, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(minute * 60, zone)


def _midnight(at: date, zone: tzinfo | None) -> int:
    """The minute with which a day begins; where the clocks skip it, the first that there is."""
    return int(datetime(at.year, at.month, at.day, tzinfo=zone).timestamp() // 60)
