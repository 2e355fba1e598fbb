"""What an act gives back, and the ratios of two contenders in the same round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from poolguard.lab.result import Run
from poolguard.lab.story import Story

from ..contest.rounds import Rounds
from ..table import Table
from .judge import failed, slowest

__all__ = ["Act", "of_best", "ratios"]


@dataclass(frozen=True, slots=True)
class Act:
    """One act, as all contenders have played it."""

    table: Table
    story: Story
    rounds: Rounds


def ratios(
    rounds: Rounds, name: str, other: str, figure: Callable[[Run], float] = slowest
) -> list[float]:
    """One contender's figure in the other's of the same round."""
    return [figure(ours) / figure(theirs) for ours, theirs in rounds.pairs(name, other)]


def of_best(rounds: Rounds, name: str, rivals: Iterable[str]) -> list[float]:
    """Its slowest request in that of the best rival of the same round, who failed none."""
    rivals = list(rivals)
    found = []
    for played in rounds.rounds:
        theirs = [slowest(played[r]) for r in rivals if r in played and not failed(played[r])]
        if theirs and name in played:
            found.append(slowest(played[name]) / min(theirs))
    return found
