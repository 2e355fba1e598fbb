"""The demo's story: a day in fast motion, as the times at which requests are due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Arrival", "Phase", "Story"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the story, in which the requests per second change evenly.

    They begin at *rate* and end at *rate_at_end*.
    """

    name: str
    title: str
    seconds: float
    rate: float
    rate_at_end: float
    at_once: int = 0
    """How many requests more are all meant to start in the middle of the phase."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the story: when it is meant to start, in seconds since the traffic began."""

    at: float
    phase: str


@dataclass(frozen=True, slots=True)
class Story:
    """A sequence of phases."""

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
        """All requests, in the order in which they are meant to start.

        At a given rate they are spaced evenly, not at random. So two runs are given the very same
        traffic, and how many connections are needed follows from rate and query time alone.
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

That is 20 fewer than poolguard's floor here. They make up for a pause of up to 0.12 s, as when the
machine itself stands still, without a connect."""
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
