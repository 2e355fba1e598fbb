"""The numbers to configure, in words and as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..history.minutes import DAY, HOUR
from ..history.numbers import UNUSED, Limit, Numbers
from .text import columns, plural, wrapped

__all__ = ["ESTIMATED", "as_data", "known", "lower", "period", "share", "summary"]

WHOLE = 0.99
"""The share of the minutes that is as good as all of them: a reboot takes a few."""
ESTIMATED = (
    "What is created is an estimate, of the busiest worker: it would have kept its floor warm, and "
    f"above that what it had lent at once in the last {UNUSED} minutes, and created the rest while "
    "requests waited. Each other worker would have created as many at most."
)


def summary(found: Numbers) -> str:
    """The numbers in one sentence."""
    told = period(found.asked if found.known > found.asked * WHOLE else found.span)
    minutes = f"of the minutes of the last {told}"
    if found.known < found.span:
        minutes = f"of the known minutes ({found.known:,}) of the last {told}"
    budget = f"budget {found.budget}"
    if found.instances > 1:
        budget += f" ({found.instances} × {found.budget // found.instances})"
    return (
        f"floor {found.floor.floor} would have covered {share(found.covered)} {minutes}; "
        f"max_size {found.max_size}; {budget}"
    )


def known(found: Numbers) -> str | None:
    """What to bear in mind where the numbers come from less than was asked for; else None."""
    if found.known > found.asked * WHOLE:
        return None
    told = f"of the last {period(found.asked)}, {period(found.known)} are known"
    if found.known < min(DAY, found.asked * WHOLE):
        return f"{told}, less than a day: too little to configure by"
    if found.known < found.span * WHOLE:
        return f"{told}: in the others, nothing ran, or nothing was recorded"
    return f"{told}: nothing was recorded before"


def lower(found: Numbers) -> Iterator[str]:
    """What each number less would have cost, as lines of text."""
    rows = [
        (
            str(each.floor),
            f"{each.minutes:,}",
            share(each.minutes / found.known),
            f"about {each.created:,}" if each.created else "0",
        )
        for each in (found.floor, *found.lower)
    ]
    head = ("floor", "minutes beyond it", "of all", "created while a request waited")
    yield from columns([head, *rows], right=(0, 1, 2, 3))
    yield from wrapped(ESTIMATED, width=78)
    for name, most, limits in (
        ("max_size", found.max_size, found.max_sizes),
        ("budget", found.budget, found.budgets),
    ):
        if limits:
            yield ""
            yield from columns(
                [
                    (name, "minutes in which requests would have waited for a return", "of all"),
                    *(
                        (str(each.limit), f"{each.minutes:,}", share(each.minutes / found.known))
                        for each in (Limit(most, 0), *limits)
                    ),
                ],
                right=(0, 1, 2),
            )


def as_data(found: Numbers | None) -> dict[str, Any] | None:
    """The same for machines."""
    if found is None:
        return None
    return {
        "floor": found.floor.floor,
        "max_size": found.max_size,
        "budget": found.budget,
        "instances": found.instances,
        "covered": round(found.covered, 6),
        "minutes_asked": found.asked,
        "minutes_known": found.known,
        "created_while_waiting": found.created,
        "floors": [
            {
                "floor": each.floor,
                "minutes_beyond": each.minutes,
                "created_while_waiting_estimate": each.created,
            }
            for each in (found.floor, *found.lower)
        ],
        "max_sizes": [_limit("max_size", each) for each in found.max_sizes],
        "budgets": [_limit("budget", each) for each in found.budgets],
    }


def period(minutes: int) -> str:
    """So many minutes: ``7 days``, ``3 days 4 h``, ``24 h``, ``12 h 5 min``."""
    days, rest = divmod(minutes, DAY) if minutes != DAY else (0, DAY)
    hours, left = divmod(rest, HOUR)
    told = [f"{days} {plural(days, 'day')}"] if days else []
    told += [f"{hours} h"] if hours else []
    told += [f"{left} min"] if left and not days else []
    return " ".join(told) or "0 min"


def share(of_all: float) -> str:
    """A share of the minutes. Only none is 0 %, and only all are 100 %."""
    if 0 < of_all < 0.001:
        return "< 0.1 %"
    tenths = int(of_all * 1000 + 1e-9) / 10
    return f"{tenths:.0f} %" if tenths in (0, 100) else f"{tenths:.1f} %"


def _limit(name: str, each: Limit) -> dict[str, int]:
    return {name: each.limit, "minutes_beyond": each.minutes}
