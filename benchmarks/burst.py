"""``burst``: many requests at once on a cold worker, with slow connects.

Cold is a worker that has just begun to answer, with whatever its pool has by then. What is shown is
how long the slowest request took beyond its query, in connects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import Contender
from .contest.frame import Contest, Played, contest, digest, limit_of
from .contest.stage import Stage
from .server import CONNECT_DELAY
from .table import Row

QUERY = 0.1
AT_ONCE = 25
CONNECTS, OF_LIMIT, OF_BEST = "connects", "of limit", "of best defaults"
GOALS = {OF_LIMIT: 1.2, OF_BEST: 1.0, "failed": 0.0}
GROWING = ("SQLAlchemy tuned", "PgBouncer tuned")
"""Well tuned these still open what a burst asks for: they have no way to open before."""


class Burst(Contest):
    """With which connects."""

    story = Story((Phase("burst", "burst", 0.1, 0.0, 0.0, at_once=AT_ONCE),))
    setting = Conditions(query=QUERY)
    notes = (
        f"{CONNECTS}: from when the requests were meant to start until the slowest had its answer, "
        "less the query's time, ÷ a connect's on the idle machine",
        f"{OF_LIMIT}: the slowest request ÷ that of as many over connections that are always open; "
        f"{OF_BEST}: ÷ the fastest of the others at defaults that failed none; both in the same "
        "round",
    )

    def __init__(self, connect_delay: float) -> None:
        self.connect_delay = connect_delay

    def absent(self, contender: Contender) -> str | None:
        if contender.setting == "tuned" and contender.name not in GROWING:
            return "all its connections are open before the first request, as the limit's are"
        return None

    def title(self, on: Stage, played: Played) -> str:  # noqa: ARG002
        return (
            f"{self.connect_delay * 1e3:.0f}ms: {AT_ONCE} requests at once on a cold worker; a "
            f"connect takes {played.connect * 1e3:.0f} ms, a query {QUERY * 1e3:.0f} ms"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        rounds, name = played.rounds, contender.name
        runs = rounds.of(name)
        figures: dict[str, Sequence[float]] = {
            CONNECTS: [max(judge.slowest(run) - QUERY, 0.0) / played.connect for run in runs],
            OF_LIMIT: judge.relative(rounds, name, limit_of(contender)),
        }
        if contender.guarded:
            figures[OF_BEST] = judge.of_best(rounds, name, played.named("defaults"))
        figures["failed"] = [judge.failed(run) for run in runs]
        figures = {figure: values for figure, values in figures.items() if values}
        return Row(name, figures, GOALS if contender.guarded else {})


PARTS: Mapping[str, Contest] = {"20ms": Burst(0.02), "100ms": Burst(CONNECT_DELAY)}
DIGEST = digest({f"{AT_ONCE} at once on a cold worker, in connects": ("100ms", CONNECTS)})
run = partial(contest, "burst", PARTS)
