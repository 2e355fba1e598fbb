"""The story's two acts: what traffic there is, and what happens to the database."""

from __future__ import annotations

from poolguard.lab import story as demo
from poolguard.lab.story import BURST, NIGHT, Phase, Story

from ..contenders.apps.terms import HOUR
from ..contest.conditions import Conditions
from ..contest.stage import Event, Stage

__all__ = [
    "CALM",
    "DAY",
    "DROP",
    "GIVE_UP",
    "LIGHT",
    "OUTAGE",
    "QUICK_DAY",
    "RESTART",
    "day_conditions",
    "events",
    "moment",
    "outage_conditions",
]

RATE = demo.DAY
FAST = 1.0
"""Seconds that stand for an hour."""
GIVE_UP = 2.0
"""Seconds after which a client of the second act has had enough."""


def _day(cold: float, day: float, night: float, morning: float, burst: float) -> Story:
    return Story(
        (
            Phase("cold", "cold start", cold, RATE, RATE),
            Phase("day", "steady day", day, RATE, RATE),
            Phase("night", "quiet night", night, NIGHT, NIGHT),
            Phase("ramp", "morning ramp", 0.5, NIGHT, RATE),
            Phase("morning", "busy morning", morning, RATE, RATE),
            Phase("burst", "burst", burst, 20.0, 20.0, at_once=BURST),
        )
    )


DAY = _day(cold=1.5, day=0.4, night=2.2, morning=0.8, burst=1.4)
"""A day: that of the demo, shorter, since so many play it."""
QUICK_DAY = _day(cold=0.5, day=0.2, night=0.5, morning=0.3, burst=1.0)

LIGHT = 4.0
"""Requests per second of the second act: one after the other, with pauses in between."""
CALM, RESTART, DROP = "calm", "restart", "drop"

OUTAGE = Story(
    (
        Phase(CALM, "calm", 0.9, LIGHT, LIGHT),
        Phase(RESTART, "restart", 1.8, LIGHT, LIGHT),
        Phase(DROP, "silent drop", 2.2, LIGHT, LIGHT),
    )
)
"""An outage that everybody is told of, and one that nobody is."""


def day_conditions() -> Conditions:
    """Of the first act: a day in fast motion."""
    return Conditions(query=0.25, hour=FAST)


def outage_conditions(*, real_time: bool) -> Conditions:
    """Of the second act: queries so short that none is under way when something happens.

    In fast motion its traffic is 4 requests an hour, so that poolguard's verification before use,
    due after 30 idle seconds, is due for each of them. In real time all has its real default.
    """
    if real_time:
        return Conditions(query=0.01, hour=HOUR)
    return Conditions(
        query=0.01, hour=FAST, poolguard={"POOLGUARD_CHECK_AFTER_IDLE": str(30 * FAST / HOUR)}
    )


def events(stage: Stage) -> list[Event]:
    """What happens in the second act."""
    return [
        Event(moment(RESTART), lambda _: stage.server.restart()),
        Event(moment(DROP), lambda _: stage.proxy.silence_all()),
    ]


def moment(phase: str) -> float:
    """When it happens: near the phase's beginning, between two requests.

    The one has its answer, though it may have connected first, and the other is not there before a
    server that stops has ended all of its sessions.
    """
    start = next(start for found, start, _ in OUTAGE.bounds() if found.name == phase)
    due = min(arrival.at for arrival in OUTAGE.arrivals() if arrival.at > start + 0.5 / LIGHT)
    return due - 0.12
