"""``ramp``: a load that grows by and by: from one request at once to fifty within ten seconds.

What is asked is whether requests had to wait for a connection that was opened when they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import Contender
from .contest.frame import Contest, Played, contest, digest
from .contest.stage import Stage
from .table import Row

QUERY = 0.25
GROWN = 200.0
"""Requests per second at the end: fifty at once."""
GROWING = Story(
    (
        Phase("calm", "calm", 1.0, 4.0, 4.0),
        Phase("ramp", "the load grows", 10.0, 4.0, GROWN),
        Phase("busy", "busy", 2.0, GROWN, GROWN),
    )
)
SLOWED = "slowed"
GOALS = {"failed": 0.0, SLOWED: 0.0}
ABSENT = {
    "limit": "it has none to open: its connections are always open",
    "tuned": "what is asked is what one has without tuning",
}


class Ramp(Contest):
    """The load grows from 1 to 50 requests at once in 10 s."""

    story = GROWING
    setting = Conditions(query=QUERY)
    notes = (
        "slowest: counted from when the request was meant to start. "
        f"{SLOWED}: requests that took half a connect longer than their query, or more",
        "opened: connections that reached the server during the traffic; most: at once",
    )

    def absent(self, contender: Contender) -> str | None:
        return ABSENT.get(contender.setting)

    def title(self, on: Stage, played: Played) -> str:
        return (
            "load: it grows from 1 to 50 requests at once in 10 s; at most "
            f"{on.plan(self.setting).budget} connections; a query takes {QUERY * 1e3:.0f} ms, a "
            f"connect {played.connect * 1e3:.0f} ms; of {len(GROWING.arrivals())} requests"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        runs = played.rounds.of(contender.name)
        slow = QUERY + played.connect / 2
        figures: dict[str, Sequence[float]] = {
            "failed": [judge.failed(run) for run in runs],
            "slowest, s": [judge.slowest(run) for run in runs],
            SLOWED: [sum(sample.latency > slow for sample in run.samples) for run in runs],
            "opened": [sum(0 <= at < GROWING.seconds for at in run.opened) for run in runs],
            "most": [run.peak for run in runs],
        }
        return Row(contender.name, figures, GOALS if contender.guarded else {})


PARTS: Mapping[str, Contest] = {"load": Ramp()}
_REQUESTS = len(GROWING.arrivals())
DIGEST = digest(
    {f"a load that grows to 50 at once in 10 s: slowed of {_REQUESTS:,}": ("load", SLOWED)}
)
run = partial(contest, "ramp", PARTS)
