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

from poolguard.lab.result import Run
from poolguard.lab.story import Phase, Story

from .contenders import POOLGUARD, Contender, Setting, among
from .contenders.apps.terms import HOUR
from .contest.conditions import Conditions
from .contest.rounds import Rounds, play_rounds
from .contest.show import show
from .contest.stage import Event, Stage, stage
from .output.pictures import pictures
from .reload import signal_master
from .story import judge
from .table import Progress, Row, Table

__all__ = ["PARTS", "QUICK", "field", "run"]

ROUNDS = 2
QUERY = 0.25
GROWN = 200.0
"""Requests per second at the end: fifty at once."""
HALF = GROWN / 2
QUICK = (POOLGUARD, "psycopg_pool", f"async {POOLGUARD}", "asyncpg", "knex")
SLOWED, CREATED, WAITED = "slowed", "created", "waited"
GOALS = {"failed": 0.0, CREATED: 0.0, WAITED: 0.0}
NOTES = (
    "slowest: counted from when the request was meant to start. "
    f"{SLOWED}: requests that took half a connect longer than their query, or more",
    "opened: connections that reached the server during the traffic; most: at once",
    f"{CREATED}, {WAITED}: poolguard's requests whose spans say so",
)
ABSENT: Mapping[Setting, str] = {
    "limit": "it has none to open: its connections are always open",
    "tuned": "what is asked is what one has without tuning",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What happens."""

    title: str
    story: Story
    workers: int
    reload_at: float | None = None


PARTS: Mapping[str, Part] = {
    "load": Part(
        "the load grows from 1 to 50 requests at once in 10 s",
        Story(
            (
                Phase("calm", "calm", 1.0, 4.0, 4.0),
                Phase("ramp", "the load grows", 10.0, 4.0, GROWN),
                Phase("busy", "busy", 2.0, GROWN, GROWN),
            )
        ),
        workers=1,
    ),
    "reload": Part(
        "SIGHUP with 25 requests at once on two workers",
        Story(
            (
                Phase("ramp", "the load grows", 3.0, 4.0, HALF),
                Phase("busy", "busy", 1.0, HALF, HALF),
                Phase("hup", "SIGHUP", 3.0, HALF, HALF),
            )
        ),
        workers=2,
        reload_at=4.0,
    ),
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns plain data, with pictures."""
    drawn: dict[str, str] = {}
    with stage() as on:
        tables = {part: partial(_table, on, part, drawn, quick=quick) for part in parts or PARTS}
        return show("ramp", tables) | {"pictures": drawn}


def field(part: Part) -> tuple[list[Contender], list[str]]:
    """Who is measured; and of the others why not."""

    def absent(contender: Contender) -> str | None:
        if contender.kind == "node" and part.reload_at is not None:
            return "Node knows no reload by SIGHUP"
        return ABSENT.get(contender.setting)

    return among(absent)


def _table(
    on: Stage, name: str, drawn: dict[str, str], progress: Progress, *, quick: bool
) -> Table:
    part = PARTS[name]
    contenders, absent = field(part)
    if quick:
        contenders = [c for c in contenders if c.name in QUICK]
    conditions = Conditions(query=QUERY, workers=part.workers, hour=HOUR)
    connect = on.one_connect()
    reload = partial(signal_master, signal.SIGHUP)
    events = [] if part.reload_at is None else [Event(part.reload_at, reload)]
    rounds = play_rounds(
        contenders,
        1 if quick else ROUNDS,
        lambda contender: on.play(contender, conditions, part.story, events=events),
        progress,
    )
    drawn.update(pictures(f"ramp-{name}", part.story, rounds.last(), POOLGUARD))
    rows = [_row(c, rounds, connect, part) for c in contenders if rounds.of(c.name)]
    title = (
        f"{name}: {part.title}; at most {on.plan(conditions).budget} connections; a query takes "
        f"{QUERY * 1e3:.0f} ms, a connect {connect * 1e3:.0f} ms; of "
        f"{len(part.story.arrivals())} requests"
    )
    return Table(title, rows, [*NOTES, *absent, *rounds.notes()])


def _row(contender: Contender, rounds: Rounds, connect: float, part: Part) -> Row:
    runs = rounds.of(contender.name)
    phases = [phase.name for phase in part.story.phases]
    if part.reload_at is not None:
        phases.remove("ramp")
    slow = QUERY + connect / 2
    figures: dict[str, Sequence[float]] = {
        "failed": [judge.failed(run) for run in runs],
        "slowest, s": [judge.slowest(run, phases) for run in runs],
        SLOWED: [sum(s.latency > slow for s in run.samples if s.phase in phases) for run in runs],
    }
    if contender.guarded:
        figures |= {said: [_said(run, said) for run in runs] for said in (CREATED, WAITED)}
    figures["opened"] = [sum(0 <= at < part.story.seconds for at in run.opened) for run in runs]
    figures["most"] = [run.peak for run in runs]
    return Row(contender.name, figures, GOALS if contender.guarded else {})


def _said(run: Run, outcome: str) -> int:
    """How many requests' spans say that their acquires came to this."""
    return sum(
        span.kind == "SERVER" and span.attributes.get("poolguard.request.outcome") == outcome
        for span in run.spans
    )
