"""``reload``: new code under constant load: what fails, what waits, and how many connections.

*hup*: gunicorn replaces all workers at once, on SIGHUP. *rolling*: one after the other: a new one
is started (SIGTTIN), and the eldest is ended a moment later (SIGTTOU); on Node these are processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from poolguard.lab.result import Run
from poolguard.lab.story import Phase, Story

from .contenders import POOLGUARD, Contender, among
from .contest.conditions import Conditions
from .contest.rounds import Rounds, play_rounds
from .contest.show import show
from .contest.stage import Event, Serving, Stage, stage
from .output.pictures import pictures
from .story import judge
from .table import Progress, Row, Table

__all__ = ["PARTS", "QUICK", "field", "run", "signal_master"]

ROUNDS = 2
RATE = 40.0
CONDITIONS = Conditions(query=0.05, workers=2, threads=8, budget=60)
"""A budget of less than half of what the server has: who exceeds it, may."""
GIVE_UP = 5.0
QUICK = (POOLGUARD, "psycopg_pool", "psycopg_pool tuned", f"async {POOLGUARD}", "asyncpg", "knex")
PEERS = {"sync": "psycopg_pool", "async": "async psycopg_pool"}
LONGER = "longer, connects"
MOST, OVER = "most", "over budget"
GOALS = {"failed": 0.0, LONGER: 1.0, OVER: 0.0}
NOTES = (
    "slowest: seconds from when the request was meant to start, a client gives up after "
    f"{GIVE_UP:g}; {LONGER}: how much longer than with psycopg_pool at its defaults, in the same "
    "round",
    f"{MOST}: connections at once, counted at the server; {OVER}: how many more than the budget",
    "poolguard has all of its telemetry on, and its workers import and start that too",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One way to replace those who serve."""

    title: str
    story: Story
    events: Callable[[Contender], Sequence[Event]]
    absent: Mapping[str, str]
    """What kinds do not know it, and why."""


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns plain data, with pictures."""
    drawn: dict[str, str] = {}
    with stage() as on:
        tables = {part: partial(_table, on, part, drawn, quick=quick) for part in parts or PARTS}
        return show("reload", tables) | {"pictures": drawn}


def _table(
    on: Stage, name: str, drawn: dict[str, str], progress: Progress, *, quick: bool
) -> Table:
    part = PARTS[name]
    contenders, absent = field(part)
    if quick:
        contenders = [c for c in contenders if c.name in QUICK]
    connect = on.one_connect()

    def play(contender: Contender) -> Run:
        return on.play(
            contender, CONDITIONS, part.story, events=part.events(contender), give_up=GIVE_UP
        )

    rounds = play_rounds(contenders, 1 if quick else ROUNDS, play, progress)
    drawn.update(pictures(f"reload-{name}", part.story, rounds.last(), POOLGUARD))
    budget = on.plan(CONDITIONS).budget
    rows = [_row(c, rounds, connect) for c in contenders if rounds.of(c.name)]
    title = (
        f"{name}: {part.title} under {RATE:g} requests/s, {CONDITIONS.workers} workers with a "
        f"budget of {budget}; a connect takes {connect * 1e3:.0f} ms; of "
        f"{len(part.story.arrivals())} requests"
    )
    return Table(title, rows, [*NOTES, *absent, *rounds.notes()])


def field(part: Part) -> tuple[list[Contender], list[str]]:
    """Who is measured; and of the others why not."""

    def absent(contender: Contender) -> str | None:
        if contender.setting == "limit":
            return "whoever is restarted has no connections that are always open"
        return part.absent.get(contender.kind)

    return among(absent)


def _row(contender: Contender, rounds: Rounds, connect: float) -> Row:
    runs = rounds.of(contender.name)
    figures: dict[str, Sequence[float]] = {
        "failed": [judge.failed(run) for run in runs],
        "slowest, s": [judge.slowest(run) for run in runs],
    }
    peer = PEERS.get(contender.kind)
    if peer is not None and (pairs := rounds.pairs(contender.name, peer)):
        longer = [judge.slowest(ours) - judge.slowest(theirs) for ours, theirs in pairs]
        figures[LONGER] = [seconds / connect for seconds in longer]
    figures[MOST] = [run.peak for run in runs]
    figures[OVER] = [max(run.peak - run.budget, 0) for run in runs]
    goals: Mapping[str, float] = {}
    if contender.guarded:
        goals = {name: goal for name, goal in GOALS.items() if name in figures}
    return Row(contender.name, figures, goals)


def signal_master(number: signal.Signals, serving: Serving) -> None:
    """An event: gunicorn's master is sent this."""
    os.kill(serving.server.pid, number)


def _start(serving: Serving) -> None:
    serving.servers.append(serving.start())


def _end(serving: Serving) -> None:
    serving.servers.pop(0).stop()


def _story(name: str, title: str, seconds: float) -> Story:
    return Story((Phase("calm", "calm", CALM, RATE, RATE), Phase(name, title, seconds, RATE, RATE)))


def _hup(_: Contender) -> Sequence[Event]:
    return [Event(CALM, partial(signal_master, signal.SIGHUP))]


def _rolling(contender: Contender) -> Sequence[Event]:
    begin: Callable[[Serving], object] = partial(signal_master, signal.SIGTTIN)
    end: Callable[[Serving], object] = partial(signal_master, signal.SIGTTOU)
    if contender.kind == "node":
        begin, end = _start, _end
    moments = [CALM + nth * (BOOT + DRAIN) for nth in range(CONDITIONS.workers)]
    return [event for at in moments for event in (Event(at, begin), Event(at + BOOT, end))]


CALM = 0.5
BOOT, DRAIN = 1.5, 0.5
"""Seconds that whoever rolls gives the new one to boot, and the old one to drain."""

PARTS: Mapping[str, Part] = {
    "hup": Part(
        "SIGHUP", _story("hup", "SIGHUP", 2.5), _hup, {"node": "Node knows no reload by SIGHUP"}
    ),
    "rolling": Part(
        "one worker after the other is replaced",
        _story("rolling", "one after the other", CONDITIONS.workers * (BOOT + DRAIN) + 0.2),
        _rolling,
        {},
    ),
}
