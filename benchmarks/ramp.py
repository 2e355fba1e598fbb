"""``ramp``: a load that grows by and by, and a reload in the midst of many requests.

*load*: from one request at once to fifty within ten seconds. *reload*: gunicorn replaces both
workers, on SIGHUP, while each has a dozen requests under way. What is asked is whether requests had
to wait for a connection that was opened when they came.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import POOLGUARD, Contender
from .contest.frame import Contest, Played, contest, digest
from .contest.stage import Event, Stage, signal_master
from .table import Row

QUERY = 0.25
GROWN = 200.0
"""Requests per second at the end: fifty at once."""
HALF = GROWN / 2
SLOWED, CREATED, WAITED = "slowed", "created", "waited"
ABSENT = {
    "limit": "it has none to open: its connections are always open",
    "tuned": "what is asked is what one has without tuning",
}


@dataclass(frozen=True)
class Ramp(Contest):
    """What happens."""

    name: str
    what: str
    stories: Sequence[Story]
    setting: Conditions
    reload_at: float | None = None

    quick = (POOLGUARD, "psycopg_pool", f"async {POOLGUARD}", "asyncpg", "knex")
    notes = (
        "slowest: counted from when the request was meant to start. "
        f"{SLOWED}: requests that took half a connect longer than their query, or more",
        "opened: connections that reached the server during the traffic; most: at once",
        f"{CREATED}, {WAITED}: poolguard's requests whose spans say so",
    )

    def absent(self, contender: Contender) -> str | None:
        if contender.kind == "node" and self.reload_at is not None:
            return "Node knows no reload by SIGHUP"
        return ABSENT.get(contender.setting)

    def events(self, on: Stage, contender: Contender) -> Sequence[Event]:  # noqa: ARG002
        if self.reload_at is None:
            return ()
        return [Event(self.reload_at, partial(signal_master, signal.SIGHUP))]

    def title(self, on: Stage, played: Played) -> str:
        [story] = played.stories
        return (
            f"{self.name}: {self.what}; at most {on.plan(self.setting).budget} connections; a "
            f"query takes {QUERY * 1e3:.0f} ms, a connect {played.connect * 1e3:.0f} ms; of "
            f"{len(story.arrivals())} requests"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        [rounds], [story] = played.rounds, played.stories
        runs = rounds.of(contender.name)
        phases = [phase.name for phase in story.phases]
        if self.reload_at is not None:
            phases.remove("ramp")
        slow = QUERY + played.connect / 2
        figures: dict[str, Sequence[float]] = {
            "failed": [judge.failed(run) for run in runs],
            "slowest, s": [judge.slowest(run, phases) for run in runs],
            SLOWED: [
                sum(s.latency > slow for s in run.samples if s.phase in phases) for run in runs
            ],
        }
        goals = {}
        if contender.guarded:
            figures |= {how: [judge.said(run, how) for run in runs] for how in (CREATED, WAITED)}
            goals = {"failed": 0.0, CREATED: 0.0, WAITED: 0.0}
        figures["opened"] = [sum(0 <= at < story.seconds for at in run.opened) for run in runs]
        figures["most"] = [run.peak for run in runs]
        return Row(contender.name, figures, goals)


PARTS: Mapping[str, Ramp] = {
    "load": Ramp(
        "load",
        "the load grows from 1 to 50 requests at once in 10 s",
        [
            Story(
                (
                    Phase("calm", "calm", 1.0, 4.0, 4.0),
                    Phase("ramp", "the load grows", 10.0, 4.0, GROWN),
                    Phase("busy", "busy", 2.0, GROWN, GROWN),
                )
            )
        ],
        setting=Conditions(query=QUERY),
    ),
    "reload": Ramp(
        "reload",
        "SIGHUP with 25 requests at once on two workers",
        [
            Story(
                (
                    Phase("ramp", "the load grows", 3.0, 4.0, HALF),
                    Phase("busy", "busy", 1.0, HALF, HALF),
                    Phase("hup", "SIGHUP", 3.0, HALF, HALF),
                )
            )
        ],
        setting=Conditions(query=QUERY, workers=2),
        reload_at=4.0,
    ),
}
REQUESTS = len(PARTS["load"].stories[0].arrivals())
DIGEST = digest(
    {
        f"a load that grows to 50 at once in 10 s: slowed of {REQUESTS:,}": ("load", SLOWED),
        "a reload (HUP) amid 25 at once: slowest, s": ("reload", "slowest, s"),
    }
)
run = partial(contest, "ramp", PARTS)
