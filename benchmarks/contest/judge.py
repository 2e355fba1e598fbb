"""What is read off runs: pure arithmetic on what was recorded."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable

from poolguard.cli.report.summary import BURST
from poolguard.lab.result import Run
from poolguard.lab.story import Story

from .rounds import Rounds

CONNECT_MOST = 0.3
"""Seconds before a connection's arrival in which it may have been begun."""


def slowest(run: Run, phases: Iterable[str] = ()) -> float:
    """The slowest request's seconds, of all or of some phases; a failed one counts until then."""
    wanted = set(phases)
    return max((s.latency for s in run.samples if not wanted or s.phase in wanted), default=0.0)


def slowest_outside(run: Run) -> float:
    """The same of all but the burst."""
    return slowest(run, {sample.phase for sample in run.samples} - {BURST})


def failed(run: Run, phases: Iterable[str] = ()) -> int:
    """How many requests had no answer, or one that says that it failed."""
    wanted = set(phases)
    return sum(s.failed for s in run.samples if not wanted or s.phase in wanted)


def relative(
    rounds: Rounds, name: str, other: str, figure: Callable[[Run], float] = slowest
) -> list[float]:
    """One contender's figure in the other's of the same round."""
    return [figure(ours) / figure(theirs) for ours, theirs in rounds.pairs(name, other)]


def of_best(
    rounds: Rounds, name: str, rivals: Collection[str], phases: Collection[str] = ()
) -> list[float]:
    """Its slowest request in that of the best rival of the same round, who failed none."""
    found = []
    for played in rounds.rounds:
        well = [played[r] for r in rivals if r in played and not failed(played[r], phases)]
        if well and name in played:
            best = min(slowest(run, phases) for run in well)
            found.append(slowest(played[name], phases) / best)
    return found


def said(run: Run, outcome: str) -> int:
    """How many requests' spans say that their acquires came to this."""
    return sum(
        span.kind == "SERVER" and span.attributes.get("poolguard.request.outcome") == outcome
        for span in run.spans
    )


def outside(run: Run, story: Story) -> list[float]:
    """When the server saw connections arrive during the traffic, but not during the burst."""
    start, end = bounds(story, BURST)
    return [at for at in run.opened if 0 <= at < story.seconds and not start <= at < end]


def needless(run: Run, story: Story) -> int:
    """How many of these were not needed: there were no more requests than open connections."""
    return sum(_in_flight(run, at) <= _open(run, at - CONNECT_MOST) for at in outside(run, story))


def created(run: Run, story: Story) -> int:
    """How many requests outside the burst had a connection created for them, say their spans.

    Those are left out for which there were more requests at once than open connections.
    """
    roots = [span.start for span in run.spans if span.kind == "SERVER"]
    if not roots or not run.samples:
        return 0
    began = min(roots) - min(s.at for s in run.samples)  # the first request's: of another clock
    start, end = bounds(story, BURST)
    tagged = (
        span.start - began
        for span in run.spans
        if span.attributes.get("poolguard.request.outcome") == "created"
    )
    return sum(
        not start <= at < end and _in_flight(run, at + CONNECT_MOST) <= _open(run, at)
        for at in tagged
    )


def recovery(run: Run, phase: str, event_at: float, calm: str) -> float:
    """Seconds from an event until requests fared as before it again: none failed or was slow.

    Slow is twice the median of the *calm* phase, and 50 ms more.
    """
    usual = statistics.median(s.latency for s in run.samples if s.phase == calm)
    bound = 2 * usual + 0.05
    after = (s for s in run.samples if s.phase == phase and s.at >= event_at)
    ill = (s for s in after if s.failed or s.latency > bound)
    return max((s.at + s.latency - event_at for s in ill), default=0.0)


def bounds(story: Story, name: str) -> tuple[float, float]:
    """Start and end of a phase, in seconds since the traffic began."""
    return next((start, end) for phase, start, end in story.bounds() if phase.name == name)


def _in_flight(run: Run, until: float) -> int:
    """How many requests there were at most, in the time in which a connect was under way."""
    began = until - CONNECT_MOST
    moments = [began, *(s.at for s in run.samples if began < s.at <= until)]
    return max(sum(s.at <= m < s.at + s.latency for s in run.samples) for m in moments)


def _open(run: Run, at: float) -> int:
    """How many connections the server had then."""
    nth = bisect_right(run.connections, at, key=lambda pair: pair[0])
    return run.connections[nth - 1][1] if nth else 0
