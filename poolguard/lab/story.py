"""The demo's story: a day in fast motion, as the times at which requests are due. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Arrival", "Phase", "Story"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the story. Requests per second go evenly from *rate* to *rate_at_end*."""

    name: str
    title: str
    seconds: float
    rate: float
    rate_at_end: float
    at_once: int = 0
    """So many requests more, all meant to start in the middle of the phase."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the story: when it is meant to start, in seconds since the traffic began."""

    at: float
    phase: str


@dataclass(frozen=True, slots=True)
class Story:
    """Phases one after the other."""

    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def bounds(self) -> Iterator[tuple[Phase, float, float]]:
        """Each phase with its start and end, in seconds since the traffic began."""
        start = 0.0
        for phase in self.phases:
            yield phase, start, start + phase.seconds
            start += phase.seconds

    def title_at(self, at: float) -> str:
        """The title of the phase that *at*, in seconds since the traffic began, belongs to."""
        for phase, _, end in self.bounds():
            if at < end:
                return phase.title
        return self.phases[-1].title

    def arrivals(self) -> list[Arrival]:
        """Every request, in the order in which they are meant to start.

        They are spaced evenly within a rate, not at random: two runs are given the very same
        traffic, and the needed connections follow from rate and query time alone.
        """
        arrivals: list[Arrival] = []
        owed = 0.0
        step = 0.001
        for phase, start, _ in self.bounds():
            steps = round(phase.seconds / step)
            for i in range(steps):
                share = i / steps
                owed += (phase.rate + (phase.rate_at_end - phase.rate) * share) * step
                if owed >= 1.0:
                    owed -= 1.0
                    arrivals.append(Arrival(start + i * step, phase.name))
            middle = start + phase.seconds / 2
            arrivals += [Arrival(middle, phase.name)] * phase.at_once
        return sorted(arrivals, key=lambda arrival: arrival.at)


DAY = 160.0
"""Requests per second by day: with queries of 250 ms, 40 connections are in use at once.

That is 20 fewer than poolguard's floor here: where the machine itself stands still, the story's
pause of up to 0.12 s is made up for without a connect."""
NIGHT = 2.0
BURST = 72


def _story(cold: float, day: float, night: float, morning: float, burst: float) -> Story:
    return Story(
        (
            Phase("cold", "cold start", cold, DAY, DAY),
            Phase("day", "steady day", day, DAY, DAY),
            Phase("night", "quiet night", night, NIGHT, NIGHT),
            Phase("ramp", "morning ramp", 0.5, NIGHT, DAY),
            Phase("morning", "busy morning", morning, DAY, DAY),
            Phase("burst", "burst", burst, 20.0, 20.0, at_once=BURST),
        )
    )


FULL = _story(cold=4.5, day=4.5, night=8.0, morning=3.5, burst=2.5)
QUICK = _story(cold=2.0, day=1.0, night=4.0, morning=1.5, burst=2.0)
