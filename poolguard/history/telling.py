"""What one process tells of each minute, by what its pool has seen between two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .ring import WINDOWS, Row

__all__ = ["Seen", "Telling"]

MINUTE = 60.0
WINDOW = MINUTE / WINDOWS
NONE = -1
"""The minute of no row."""
MOST_BETWEEN = 5
"""Minutes between two looks that are recorded. In a longer time the machine has slept."""


class Seen(NamedTuple):
    """What a pool has been asked for since it was looked at before."""

    lent: int
    """The most connections that were lent at once."""
    waiting: int = 0
    """The most acquires that waited at once."""
    created: int = 0
    """Connections that were created while an acquire waited."""
    level: int = 0
    """How many it is to keep warm."""


class Telling:
    """The rows of one process. Times by the clock on the wall, in seconds since 1970."""

    def __init__(self) -> None:
        self._row = Row(NONE)

    def __repr__(self) -> str:
        return f"<Telling {self._row}>"

    def note(self, since: float, until: float, seen: Seen) -> tuple[list[Row], list[int]]:
        """Add what was *seen* from *since* to *until*.

        Returns the rows that have changed, and the minutes that are over.
        """
        before, rows = self._row, list[Row]()
        for minute, first, last in _minutes(since, until):
            row = self._row if self._row.minute == minute else Row(minute)
            lent = tuple(
                max(n, seen.lent) if first <= window <= last else n
                for window, n in enumerate(row.lent)
            )
            self._row = row._replace(lent=lent, level=max(row.level, seen.level))
            rows.append(self._row)
        if seen.waiting or seen.created:
            rows[-1] = self._row = self._row._replace(
                waiting=max(self._row.waiting, seen.waiting),
                created=self._row.created + seen.created,
            )
        over = {before.minute, *(row.minute for row in rows)} - {NONE, self._row.minute}
        return [row for row in rows if row != before], sorted(over)


def _minutes(since: float, until: float) -> Iterator[tuple[int, int, int]]:
    """Each minute from *since* to *until*, and its first and last window of these."""
    first, last = int(since // MINUTE), int(until // MINUTE)
    if last - first > MOST_BETWEEN or last < first:
        first, since = last, until
    for minute in range(first, last + 1):
        begin = int((since - minute * MINUTE) // WINDOW) if minute == first else 0
        end = int((until - minute * MINUTE) // WINDOW) if minute == last else WINDOWS - 1
        yield minute, max(0, begin), min(WINDOWS - 1, end)
