"""What is read off runs: pure arithmetic on what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from poolguard.cli.report.summary import BURST
from poolguard.lab.result import Run
from poolguard.lab.story import Story

from .rounds import Rounds


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


def outside(run: Run, story: Story) -> int:
    """How many connections the server saw arrive during the traffic, but not during the burst."""
    start, end = bounds(story, BURST)
    return sum(0 <= at < story.seconds and not start <= at < end for at in run.opened)


def bounds(story: Story, name: str) -> tuple[float, float]:
    """Start and end of a phase, in seconds since the traffic began."""
    return next((start, end) for phase, start, end in story.bounds() if phase.name == name)
