"""``burst``: many requests at once, on a cold pool and on a half-warm one, with slow connects.

Cold is a worker that has just begun to answer, with whatever its pool has by then. Half-warm: half
as many requests were served at once a moment before. What is shown is how long the slowest request
took beyond its query, in connects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import LIMIT, POOLGUARD, Contender
from .contest.frame import Contest, Played, contest, digest, limit_of
from .contest.stage import Stage
from .server import CONNECT_DELAY
from .table import Row

QUERY = 0.1
COLD, WARM = "cold", "half-warm"
OF_LIMIT, OF_BEST = "of limit", "of best defaults"
GROWING = ("SQLAlchemy tuned", "PgBouncer tuned")
"""Well tuned these still open what a burst asks for: they have no way to open before."""


class Burst(Contest):
    """With which connects, and how many at once on a cold pool."""

    setting = Conditions(query=QUERY)
    variant = ", floor 1"
    quick = (
        *(LIMIT, POOLGUARD, "psycopg_pool"),
        *(f"async {LIMIT}", f"async {POOLGUARD}", "asyncpg", "knex"),
    )
    notes = (
        "seconds from when the requests were meant to start until the slowest had its answer, less "
        "the query's, ÷ a connect's on the idle machine",
        f"{OF_LIMIT}: the slowest request ÷ that of as many over connections that are always open; "
        f"{OF_BEST}: ÷ the fastest of the others at defaults that failed none; both in the same "
        "round, and of all bursts the worst ratio",
        "cold: the worker has just begun to answer; half-warm: half as many requests were served "
        "at once a moment before",
        "floor 1: poolguard has one warm connection only, so that it is as cold as the others",
    )

    def __init__(self, connect_delay: float, *firsts: int) -> None:
        self.connect_delay = connect_delay
        self.firsts = firsts
        calm = Phase("calm", "calm", 0.4 + QUERY + 2 * connect_delay, 0.0, 0.0)
        # After each one of twice its size, when what the first began has long ended.
        self.stories = [
            Story(
                (Phase(COLD, "cold", 0.1, 0.0, 0.0, at_once=first),)
                + (calm, Phase(WARM, "half-warm", 0.1, 0.0, 0.0, at_once=2 * first)) * (first > 1)
            )
            for first in firsts
        ]

    def absent(self, contender: Contender) -> str | None:
        if contender.setting == "tuned" and contender.name not in GROWING:
            return "all its connections are open before the first request, as the limit's are"
        return None

    def varies(self, contender: Contender) -> bool:
        return contender.guarded

    def conditions(self, contender: Contender) -> Conditions:
        lazy = contender.name.endswith(self.variant)
        return replace(self.setting, poolguard={"POOLGUARD_FLOOR": "1"} if lazy else {})

    def title(self, on: Stage, played: Played) -> str:  # noqa: ARG002
        return (
            f"{self.connect_delay * 1e3:.0f}ms: a connect takes {played.connect * 1e3:.0f} ms, a "
            f"query {QUERY * 1e3:.0f} ms; how long the slowest of so many requests at once took "
            "beyond its query, in connects"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        name = contender.name
        limit, rivals = limit_of(contender), played.named("defaults")
        figures: dict[str, Sequence[float]] = {}
        of_limit, of_best, failed = [], [], []
        for phase, times in ((COLD, 1), (WARM, 2)):
            for first, rounds in zip(self.firsts, played.rounds, strict=True):
                runs = rounds.of(name)
                if not runs or (first == 1 and phase == WARM):
                    continue
                figures[f"{phase} {times * first}"] = [
                    max(judge.slowest(run, [phase]) - QUERY, 0.0) / played.connect for run in runs
                ]
                failed.append([judge.failed(run, [phase]) for run in runs])
                pairs = rounds.pairs(name, limit)
                slowest = [[judge.slowest(run, [phase]) for run in pair] for pair in pairs]
                of_limit.append([ours / theirs for ours, theirs in slowest])
                of_best.append(judge.of_best(rounds, name, rivals, [phase]))
        figures[OF_LIMIT] = _worst(of_limit)
        if contender.guarded:
            figures[OF_BEST] = _worst(of_best)
        figures["failed"] = [sum(values) for values in zip(*failed, strict=False)]
        goals: Mapping[str, float] = {}
        if contender.guarded:
            lazy = name.endswith(self.variant)
            goals = {OF_BEST: 1.0, "failed": 0.0} | ({} if lazy else {OF_LIMIT: 1.2})
        figures = {figure: values for figure, values in figures.items() if values}
        return Row(name, figures, goals)


def _worst(of: Sequence[Sequence[float]]) -> list[float]:
    """Of each round the worst; a round that a burst is missing from does not count."""
    return [max(values) for values in zip(*of, strict=False)]


PARTS: Mapping[str, Contest] = {
    "20ms": Burst(0.02, 25),
    "100ms": Burst(CONNECT_DELAY, 1, 5, 25),
    "500ms": Burst(0.5, 25),
}
DIGEST = digest({"25 at once on a cold worker, in connects": ("100ms", f"{COLD} 25")})
run = partial(contest, "burst", PARTS)
