"""``reload``: new code under constant load: what fails, what waits, and how many connections.

*hup*: gunicorn replaces all workers at once, on SIGHUP. *rolling*: one after the other: a new one
is started (SIGTTIN), and the eldest is ended a moment later (SIGTTOU); on Node these are processes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import POOLGUARD, Contender
from .contest.frame import Contest, Played, contest, digest
from .contest.stage import Event, Serving, Stage, signal_master
from .table import Row

RATE = 40.0
CONDITIONS = Conditions(query=0.05, workers=2, threads=8, budget=60)
"""A budget of less than half of what the server has: who exceeds it, may."""
CALM = 0.5
BOOT, DRAIN = 1.5, 0.5
"""Seconds in which, one after the other, a new worker boots and an old one drains."""
GIVE_UP = 5.0
PEERS = {"sync": "psycopg_pool", "async": "async psycopg_pool"}
LONGER = "longer, connects"
MOST, OVER = "most", "over budget"
GOALS = {"failed": 0.0, LONGER: 1.0, OVER: 0.0}


@dataclass(frozen=True)
class Reload(Contest):
    """One way to replace those who serve."""

    name: str
    what: str
    stories: Sequence[Story]
    happening: Callable[[Contender], Sequence[Event]]
    not_on_node: str | None = None

    setting = CONDITIONS
    give_up = GIVE_UP
    quick = (
        *(POOLGUARD, "psycopg_pool", "psycopg_pool tuned", f"async {POOLGUARD}"),
        *("asyncpg", "knex"),
    )
    notes = (
        "slowest: seconds from when the request was meant to start, a client gives up after "
        f"{GIVE_UP:g}; {LONGER}: how much longer than with psycopg_pool at its defaults, in the "
        "same round",
        f"{MOST}: connections at once, counted at the server; {OVER}: how many more than the "
        "budget",
        "poolguard has all of its telemetry on, and its workers import and start that too",
    )

    def absent(self, contender: Contender) -> str | None:
        if contender.setting == "limit":
            return "what is restarted has no connections that are always open"
        return self.not_on_node if contender.kind == "node" else None

    def events(self, on: Stage, contender: Contender) -> Sequence[Event]:  # noqa: ARG002
        return self.happening(contender)

    def title(self, on: Stage, played: Played) -> str:
        [story] = played.stories
        return (
            f"{self.name}: {self.what} under {RATE:g} requests/s, {CONDITIONS.workers} workers "
            f"with a budget of {on.plan(CONDITIONS).budget}; a connect takes "
            f"{played.connect * 1e3:.0f} ms; of {len(story.arrivals())} requests"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        [rounds] = played.rounds
        runs = rounds.of(contender.name)
        figures: dict[str, Sequence[float]] = {
            "failed": [judge.failed(run) for run in runs],
            "slowest, s": [judge.slowest(run) for run in runs],
        }
        peer = PEERS.get(contender.kind)
        if peer is not None and (pairs := rounds.pairs(contender.name, peer)):
            longer = [judge.slowest(ours) - judge.slowest(theirs) for ours, theirs in pairs]
            figures[LONGER] = [seconds / played.connect for seconds in longer]
        figures[MOST] = [run.peak for run in runs]
        figures[OVER] = [max(run.peak - run.budget, 0) for run in runs]
        return Row(contender.name, figures, GOALS if contender.guarded else {})


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


PARTS: Mapping[str, Contest] = {
    "hup": Reload(
        "hup", "SIGHUP", [_story("hup", "SIGHUP", 2.5)], _hup, "Node knows no reload by SIGHUP"
    ),
    "rolling": Reload(
        "rolling",
        "one worker after the other is replaced",
        [_story("rolling", "one after the other", CONDITIONS.workers * (BOOT + DRAIN) + 0.2)],
        _rolling,
    ),
}
DIGEST = digest(
    {
        f"a reload (HUP) at {RATE:g} requests/s: slowest, s": ("hup", "slowest, s"),
        "2 workers replaced in turn: connections over the budget": ("rolling", OVER),
    }
)
run = partial(contest, "reload", PARTS)
