"""A day of a guard's history as inline SVG.

A chart fills the width that it is given without scaling its text: x is in percent, y in pixels.
Areas and lines, which cannot be in percent, stand in a nested drawing that is stretched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..history.minutes import DAY, HOUR
from .history_days import Column, Day, columns_of
from .text import markup, plural

__all__ = ["CREATED", "EACH", "chart", "ticks"]

EACH = 5
"""Minutes of each step of the lines."""
HEIGHT = 96
"""Pixels of a plot."""
TOP = 6
STRIP = 20
"""Pixels beneath a plot for the marks of what was created."""
BOTTOM = 20
"""Pixels beneath those for the hours."""
CREATED = "M0,-5 L5,0 L0,5 L-5,0 Z"
APART = 15
"""Minutes within which what was created has one mark."""


def chart(day: Day, top: int, described: str) -> str:
    """One day.

    :param top: the number at the upper end of the scale, which all days share.
    :param described: the same in words, for those who do not see it.
    """
    steps = columns_of(day, EACH)
    floor = TOP + HEIGHT
    strip = STRIP if any(step.created for step in steps) else 0
    plot = (
        "".join(
            f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            for y, _ in _labels(top)[1:]
        )
        + f'<svg class="clip" x="0" y="{TOP}" width="100%" height="{HEIGHT}" '
        f'viewBox="0 0 {len(steps)} {HEIGHT}" preserveAspectRatio="none">'
        + _unknown(steps[: day.until // EACH])
        + _areas(steps, top)
        + _levels(steps, top)
        + f'</svg><line class="axis" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>'
        + "".join(_marks(day, floor + STRIP / 2 + 2))
        + _hours(floor + strip)
    )
    height = floor + strip + BOTTOM
    axis = "".join(
        f'<text class="label" x="100%" y="{y:.1f}" dy="0.32em">{label}</text>'
        for y, label in _labels(top)
    )
    return (
        f'<div class="chart"><svg class="y" height="{height}" aria-hidden="true">{axis}</svg>'
        f'<svg class="plot" height="{height}" role="img" aria-label="{markup(described)}">'
        f"{plot}</svg></div>"
    )


def ticks(top: int) -> list[int]:
    """Three or so round numbers from 0 to *top*."""
    step = next(
        step
        for decade in (10**n for n in range(20))
        for step in (decade, 2 * decade, 5 * decade)
        if top / step <= 3.5
    )
    return list(range(0, top + 1, step))


def _labels(top: int) -> list[tuple[float, str]]:
    return [(TOP + HEIGHT - n / top * HEIGHT, str(n)) for n in ticks(top)]


def _areas(steps: Sequence[Column], top: int) -> str:
    lent = [step.lent if step.known else None for step in steps]
    kept = [step.lent - step.beyond if step.known else None for step in steps]
    return "".join(
        f'<path class="lent" d="{path}"/>' for path in _area(lent, [0] * len(steps), top)
    ) + "".join(f'<path class="beyond" d="{path}"/>' for path in _area(lent, kept, top))


def _area(upper: Sequence[int | None], lower: Sequence[int | None], top: int) -> Iterator[str]:
    """The steps in which *upper* is above *lower*, as one rectangle each run of the same height."""
    at = 0
    while at < len(upper):
        high, low = upper[at], lower[at]
        end = at + 1
        while end < len(upper) and (upper[end], lower[end]) == (high, low):
            end += 1
        if high is not None and low is not None and high > low:
            yield f"M{at},{_y(high, top)}H{end}V{_y(low, top)}H{at}Z"
        at = end


def _levels(steps: Sequence[Column], top: int) -> str:
    path, drawn = "", False
    for at, step in enumerate(steps):
        if step.known and step.level:
            path += f"{'L' if drawn else 'M'}{at},{_y(step.level, top)}H{at + 1}"
        drawn = bool(step.known and step.level)
    return f'<path class="level" d="{path}"/>' if path else ""


def _unknown(steps: Sequence[Column]) -> str:
    flags = [None if step.known else 1 for step in steps]
    return "".join(
        f'<path class="unknown" d="{path}"/>' for path in _area(flags, [0] * len(steps), 1)
    )


def _marks(day: Day, y: float) -> Iterator[str]:
    for at in range(0, DAY, APART):
        created = sum(
            minute.created for minute in day.minutes[at : at + APART] if minute is not None
        )
        if created:
            x = (at + APART / 2) / DAY * 100
            told = (
                f"{at // HOUR}:{at % HOUR:02}: {created:,} {plural(created, 'connection')} created "
                "while a request waited"
            )
            yield (
                f'<svg x="{x:.2f}%" y="{y:.1f}" class="created" overflow="visible">'
                f'<path d="{CREATED}"><title>{told}</title></path></svg>'
            )


def _hours(y: float) -> str:
    return "".join(_hour(hour, y + 14) for hour in range(0, 25, 3))


def _hour(hour: int, y: float) -> str:
    kind = "first" if not hour else "last" if hour == 24 else "x"
    tight = " tight" if hour % 6 else ""
    return f'<text class="label {kind}{tight}" x="{hour / 24 * 100:.2f}%" y="{y}">{hour}</text>'


def _y(n: int, top: int) -> str:
    return f"{HEIGHT - n / top * HEIGHT:.1f}"
