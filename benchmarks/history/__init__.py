"""``history``: synthetic traffic of three weeks, and what is kept warm by the product's decision.

A part for each traffic: connections that were created while a request waited, and connection-hours
that were kept, against a fixed floor, today's guess, and those who know what comes. *decision*:
what one decision costs. Neither needs a server. *days*: the day of ``story``, told three days in a
row. ``python -m benchmarks.history`` draws a week.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from timeit import repeat
from typing import NamedTuple

from poolguard.history.expected import decide, local_offset
from poolguard.history.minutes import DAY, HOUR, KEPT
from poolguard.history.ring import Ring, Row
from poolguard.history.telling import MINUTE
from poolguard.util.rundir import RuntimeDir

from ..table import Row as Line
from ..table import Table, say, show
from .days import play_days
from .replay import History, Replayed, curve, fixed, oracle, replay
from .traffic import MAX_SIZE, TRAFFICS, Scale, Traffic, traffic

TODAY = 10
"""What an asyncio worker has as its floor without a history, at most. A sync worker has 1 and uses
no more, and a gthread worker has all that its threads use: neither creates any while one waits."""
QUICK = Scale(days=3, workers=1)
GOALS = {"of today's, %": 2, "hours": 1.3}
DECISION = {"µs": 200.0}


class Figures(NamedTuple):
    """What one way of keeping connections warm came to."""

    first_day: int
    """Created while a request waited, in all workers."""
    created: int
    """The same later, in the minutes of which one could know."""
    unforeseen: int
    hours: float
    """Connections that were kept after the first day, times hours."""


def figures(of: Traffic, replayed: Replayed) -> Figures:
    """The figures of all days but the first, of which nothing can be known."""
    later = range(DAY, of.minutes)
    return Figures(
        sum(replayed.created[:DAY]),
        sum(replayed.created[at] for at in later if at not in of.unforeseen),
        sum(replayed.created[at] for at in of.unforeseen),
        sum(replayed.kept[DAY:]) / HOUR,
    )


def best_floor(of: Traffic, created: float) -> int:
    """The least fixed floor with which no more are created than that."""
    low, high = 1, MAX_SIZE
    while low < high:
        middle = (low + high) // 2
        enough = figures(of, replay(of, fixed(middle))).created <= created
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _played(name: str, scale: Scale) -> Table:
    say(f"{name}: traffic")
    of = traffic(name, scale)
    today = figures(of, replay(of, fixed(TODAY)))
    say(f"{name}: fixed floors")
    floor = best_floor(of, GOALS["of today's, %"] / 100 * today.created)
    say(f"{name}: history")
    unit = figures(of, oracle(of)).hours
    ways = {
        f"today's guess, {TODAY}": today,
        f"a fixed floor of {floor}": figures(of, replay(of, fixed(floor))),
        "the curve known": figures(of, replay(of, curve(of))),
        "history": figures(of, replay(of, History(of))),
    }
    lines = []
    for who, found in ways.items():
        told: dict[str, list[float]] = {
            "first day": [found.first_day],
            "unforeseen": [found.unforeseen],
            "created": [found.created],
            "of today's, %": [100 * found.created / max(1, today.created)],
            "hours": [found.hours / unit],
        }
        if not of.unforeseen:
            del told["unforeseen"]
        lines.append(Line(who, told, GOALS if who == "history" else {}))
    notes = [
        f"{scale.days} days, {scale.workers} workers; created while a request waited, in all of "
        "them; hours: connections kept after the first day, as a multiple of what is needed within "
        "half an hour",
        "a fixed floor: the least that creates a fiftieth of today's; the curve known: keeps what "
        "one of a million seconds exceeds of the coming half hour, by its true average",
    ]
    return Table(f"{name}: {TRAFFICS[name]}", lines, notes)


def _decision(scale: Scale) -> Table:
    """With five weeks in a real file."""
    now = KEPT * 800 + 10 * HOUR
    with TemporaryDirectory() as folder:
        ring = Ring(RuntimeDir(Path(folder) / "run"), "guard.history", "guard")
        for minute in range(now - KEPT + 1, now + 1):
            say(f"decision: {now - minute} minutes are to be recorded")
            if scale.days == Scale().days or now - minute < 2 * DAY:
                ring.tell(Row(minute, lent=(10 + minute % 4,) * 12))
                ring.settle(minute)
        took = repeat(
            lambda: decide(now, ring, floor=1, most=MAX_SIZE, level=1, offset=local_offset),
            timer=process_time,
            number=200,
            repeat=7,
        )
        ring.close()
    figure = {"µs": [each / 200 * 1e6 for each in took]}
    notes = [f"processor time; at most once in {MINUTE} s in each worker"]
    return Table("decision: what one costs", [Line("decide()", figure, DECISION)], notes)


PARTS: Mapping[str, Callable[[Scale], Table]] = {
    **{name: partial(_played, name) for name in TRAFFICS},
    "decision": _decision,
    "days": lambda scale: play_days(quick=scale == QUICK),
}


def run(*parts: str, quick: bool = False) -> dict[str, Table]:
    """Play the chosen *parts*, or all, and print their tables."""
    return show("history", PARTS, parts, QUICK if quick else Scale())
