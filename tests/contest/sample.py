"""A run of the story that never was, with what a test wants of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from poolguard.lab.result import Run, Sample
from poolguard.lab.story import Phase, Story

__all__ = ["STORY", "make_run"]

STORY = Story(
    (
        Phase("day", "steady day", 10.0, 1.0, 1.0),
        Phase("burst", "burst", 4.0, 0.0, 0.0, at_once=4),
        Phase("evening", "evening", 6.0, 1.0, 1.0),
    )
)


def make_run(
    requests: Iterable[tuple[float, float]],
    *,
    name: str = "one",
    opened: Sequence[float] = (),
    failed: Iterable[float] = (),
    lag: float = 0.0,
) -> Run:
    """*requests* are (when, how long), *failed* when those were that failed."""
    samples = [
        Sample(at, latency, 500 if at in failed else 200, phase_at(at)) for at, latency in requests
    ]
    return Run(name, tuple(samples), tuple(opened), ((-1.0, 2),), 8, lag)


def phase_at(at: float) -> str:
    """The phase of that moment."""
    return next(phase.name for phase, _, end in STORY.bounds() if at < end)
