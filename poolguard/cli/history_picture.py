"""Draws what was recorded of a guard as lines of text: a panel for each day, on one scale.

::

    Wed 28 Jan: 31 lent at once in one worker, 160 created while a request waited
        31 ┤                               ▒
           │                               ▒
        16 ┤                 ─▂▂▄▄▅▅▅▅▅▅▅▄▄█▃▂─
           │────────────▂▃▅▆▇██████████████████▇▇▅▃▂────
           └┴─────┴─────┴─────┴─────┴─────┴─────┴─────┴─
    created                                +
            0     3     6     9     12    15    18    21
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..history.minutes import DAY, HOUR
from .history_days import Column, Day, columns_of

__all__ = ["draw", "legend", "minutes_each"]

GUTTER = 8
"""Columns to the left of a plot: seven for labels, one for the axis."""
HEIGHT = 4
"""Rows of a plot that reaches the top of the scale. Others have fewer: none above is empty."""
LEAST = 2
"""Rows that each plot has."""
HOURS = range(0, 24, 3)
"""Those that have a label."""
WIDTHS = (10, 12, 15, 20, 30, 36, 60)
"""The minutes that one column may stand for. The hours that have a label are whole columns."""


class _Pen(NamedTuple):
    """The characters that a panel is drawn with."""

    body: str
    """The cell in which a bar ends, filled by one eighth up to eight."""
    beyond: str
    """What is above the level."""
    level: str
    axis: str
    tick: str
    corner: str
    floor: str
    floor_tick: str


_UNICODE = _Pen("▁▂▃▄▅▆▇█", "▒", "─", "│", "┤", "└", "─", "┴")
_ASCII = _Pen("....####", "%", "-", "|", "+", "+", "-", "+")


def minutes_each(width: int) -> int:
    """How many minutes a column stands for in lines of *width* columns."""
    return next((n for n in WIDTHS if DAY // n <= width - GUTTER), WIDTHS[-1])


def draw(days: Sequence[Day], width: int, *, unicode: bool = True) -> Iterator[str]:
    """The days, one panel beneath the other. From 32 columns on, no line is wider than *width*."""
    pen = _UNICODE if unicode else _ASCII
    each = minutes_each(width)
    drawn = [columns_of(day, each) for day in days]
    top = max(
        (max(column.lent, column.level) for columns in drawn for column in columns), default=0
    )
    for day, columns in zip(days, drawn, strict=True):
        lines = [_heading(day, width)]
        if day.known:
            lines += _panel(columns, max(top, HEIGHT), each, pen)
        yield from lines
    yield " " * GUTTER + _hours(each)


def legend(width: int, *, unicode: bool = True) -> list[str]:
    """What the marks mean, in words that are to be wrapped."""
    pen = _UNICODE if unicode else _ASCII
    return [
        f"{pen.body[-1]} the most connections lent at once in one worker, "
        f"{minutes_each(width)} minutes a column; {pen.beyond} what of them was above the level "
        f"that was kept warm; {pen.level} that level, where it shows above them.",
        "created: connections that were created while a request waited (+ stands for more than 9). "
        "Where the axis is broken, nothing was recorded.",
    ]


def _heading(day: Day, width: int) -> str:
    """The day and its numbers, as many of them as there is room for."""
    name = f"{day.date:%a} {day.date.day} {day.date:%b}"
    if not day.known:
        return f"{name}: nothing recorded"[:width]
    created = sum(minute.created for minute in day.known)
    told = [f"{max(minute.one for minute in day.known)} lent at once in one worker"]
    if created:
        told.append(f"{created:,} created while a request waited")
    told.append(f"{max(minute.host for minute in day.known)} on the host")
    if day.changed:
        told.append("the clocks were changed")
    line = f"{name}: {told[0]}"
    for more in told[1:]:
        if len(line) + len(more) + 2 <= width:
            line += f", {more}"
    return line[:width]


def _panel(columns: Sequence[Column], top: int, each: int, pen: _Pen) -> Iterator[str]:
    rows = _plot(columns, top, pen)
    while len(rows) > LEAST and set(rows[0]) == {" "}:
        del rows[0]
    for level, row in zip(range(len(rows), 0, -1), rows, strict=True):
        label = str(round(top * level / HEIGHT)) if level % 2 == 0 else ""
        axis = pen.tick if label else pen.axis
        yield f"{label:>{GUTTER - 2}} {axis}{''.join(row)}".rstrip()
    ticks = {hour * HOUR // each for hour in HOURS}
    floor = (
        " " if not column.known else pen.floor_tick if at in ticks else pen.floor
        for at, column in enumerate(columns)
    )
    yield f"{'':>{GUTTER - 1}}{pen.corner}{''.join(floor)}".rstrip()
    if any(column.created for column in columns):
        counts = (
            "" if not column.created else str(column.created) if column.created < 10 else "+"
            for column in columns
        )
        yield f"{'created':>{GUTTER - 1}} {''.join(f'{count:1}' for count in counts)}".rstrip()


def _plot(columns: Sequence[Column], top: int, pen: _Pen) -> list[list[str]]:
    """The cells of the plot, the top row first."""
    rows = [[" "] * len(columns) for _ in range(HEIGHT)]
    for at, column in enumerate(columns):
        for row in range(HEIGHT):
            rows[HEIGHT - 1 - row][at] = _cell(column, row, top, pen)
    return rows


def _cell(column: Column, row: int, top: int, pen: _Pen) -> str:
    """What *column* has in *row*, counted from the bottom."""

    def eighths(n: int) -> int:
        return min(max(round(n * HEIGHT * 8 / top), 1), HEIGHT * 8) - row * 8 if n else -1

    lent = eighths(column.lent)
    if lent > 0:
        # A cell cannot be filled in part by one and in part by the other.
        kept = eighths(column.lent - column.beyond)
        return pen.beyond if column.beyond and kept < 4 else pen.body[min(lent, 8) - 1]
    return pen.level if 0 < eighths(column.level) <= 8 else " "


def _hours(each: int) -> str:
    row = [" "] * (DAY // each + 1)
    for hour in HOURS:
        at = hour * HOUR // each
        row[at : at + len(str(hour))] = str(hour)
    return "".join(row).rstrip()
