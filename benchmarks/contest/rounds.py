"""Contenders in turn, round after round, and the runs that are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poolguard.errors import LabError
from poolguard.lab.result import Run

from ..table import say
from .contenders import Contender, missing

LAG_MOST = 0.05
"""Seconds: a run in which the load's own generator was later than this says nothing."""
TRIES = 3
"""How often a run is played until its generator was on time."""


@dataclass(slots=True)
class Rounds:
    """What the contenders did, round by round."""

    rounds: list[dict[str, Run]] = field(default_factory=list)
    """Each contender's run, by name; one that was refused to the last is not there."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many runs of whom were refused, since the generator lagged."""
    unmeasured: dict[str, str] = field(default_factory=dict)
    """Who could not run here at all, and why."""
    lag_most: float = LAG_MOST
    """A run whose generator was later is refused."""

    def of(self, name: str) -> list[Run]:
        """All runs of one contender."""
        return [played[name] for played in self.rounds if name in played]

    def pairs(self, name: str, other: str) -> list[tuple[Run, Run]]:
        """The runs of two in the rounds in which both have one."""
        return [(p[name], p[other]) for p in self.rounds if name in p and other in p]

    def notes(self) -> list[str]:
        """What a reader must know of how it was measured."""
        lag = max((run.lag for played in self.rounds for run in played.values()), default=0.0)
        lines = [
            f"load generator late by at most {lag * 1e3:.0f} ms; a run in which it was later "
            f"than {self.lag_most * 1e3:.0f} ms is refused and played again"
        ]
        lines += [f"{name}: {n} run(s) refused" for name, n in sorted(self.refused.items())]
        lines += [f"{name}: not measured: {why}" for name, why in self.unmeasured.items()]
        return lines


def play_rounds(
    contenders: Sequence[Contender],
    rounds: int,
    play: Callable[[Contender], Run],
    lag_most: float = LAG_MOST,
) -> Rounds:
    """Play all in every round, every other round in reversed order."""
    absent = {contender.name: why for contender in contenders if (why := missing(contender))}
    done = Rounds(unmeasured=absent, lag_most=lag_most)
    for nth in range(rounds):
        played: dict[str, Run] = {}
        for contender in contenders[:: -1 if nth % 2 else 1]:
            if contender.name in done.unmeasured:
                continue
            say(f"round {nth + 1} of {rounds}, {contender.name}")
            try:
                run = _on_time(contender, play, done)
            except LabError as error:
                done.unmeasured[contender.name] = str(error)
                continue
            if run is not None:
                played[contender.name] = run
        done.rounds.append(played)
    return done


def _on_time(contender: Contender, play: Callable[[Contender], Run], done: Rounds) -> Run | None:
    for _ in range(TRIES):
        run = play(contender)
        if run.lag <= done.lag_most:
            return run
        done.refused[contender.name] += 1
    return None
