"""``reload``: new code under load: what fails, what waits, and how many connections there are.

*hup*: gunicorn replaces both workers at once, on SIGHUP, while each has a dozen requests under way.
*rolling*: one after the other: a new one is started (SIGTTIN), and the eldest is ended a moment
later (SIGTTOU); on Node these are processes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import Conditions
from .contest.contenders import Contender
from .contest.frame import Contest, Played, contest, digest
from .contest.stage import Event, Serving, Stage, signal_master
from .table import Row

WORKERS = 2
RATE = 40.0
"""Requests per second while workers are replaced one after the other."""
BUSY = 100.0
"""The same on SIGHUP: 25 at once."""
CALM = 0.5
BOOT, DRAIN = 1.5, 0.5
"""Seconds in which, one after the other, a new worker boots and an old one drains."""
OVER = "over budget"
GOALS = {"failed": 0.0, OVER: 0.0}


@dataclass(frozen=True)
class Reload(Contest):
    """One way to replace those who serve."""

    name: str
    what: str
    story: Story
    """In its first phase the pools open what they need: it does not count."""
    setting: Conditions
    happening: Callable[[Contender], Sequence[Event]]
    absences: Mapping[str, str]
    """Why those of a kind, or so set, are not measured."""

    give_up = 5.0
    notes = (
        "slowest: seconds from when the request was meant to start, a client gives up after "
        f"{give_up:g}",
        f"most: connections at once, counted at the server; {OVER}: how many more than the budget",
        "poolguard has all of its telemetry on, and its workers import and start that too",
    )

    def absent(self, contender: Contender) -> str | None:
        return self.absences.get(contender.kind) or self.absences.get(contender.setting)

    def events(self, on: Stage, contender: Contender) -> Sequence[Event]:  # noqa: ARG002
        return self.happening(contender)

    def title(self, on: Stage, played: Played) -> str:
        return (
            f"{self.name}: {self.what}, {WORKERS} workers with a budget of "
            f"{on.plan(self.setting).budget}; a query takes {self.setting.query * 1e3:.0f} ms, a "
            f"connect {played.connect * 1e3:.0f} ms; of {len(self.story.arrivals())} requests"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        runs = played.rounds.of(contender.name)
        phases = [phase.name for phase in self.story.phases[1:]]
        figures: dict[str, Sequence[float]] = {
            "failed": [judge.failed(run) for run in runs],
            "slowest, s": [judge.slowest(run, phases) for run in runs],
            "most": [run.peak for run in runs],
            OVER: [max(run.peak - run.budget, 0) for run in runs],
        }
        return Row(contender.name, figures, GOALS if contender.guarded else {})


def _start(serving: Serving) -> None:
    serving.servers.append(serving.start())


def _end(serving: Serving) -> None:
    serving.servers.pop(0).stop()


def _hup(_: Contender) -> Sequence[Event]:
    return [Event(4.0, partial(signal_master, signal.SIGHUP))]


def _rolling(contender: Contender) -> Sequence[Event]:
    begin: Callable[[Serving], object] = partial(signal_master, signal.SIGTTIN)
    end: Callable[[Serving], object] = partial(signal_master, signal.SIGTTOU)
    if contender.kind == "node":
        begin, end = _start, _end
    moments = [CALM + nth * (BOOT + DRAIN) for nth in range(WORKERS)]
    return [event for at in moments for event in (Event(at, begin), Event(at + BOOT, end))]


_LIMIT = {"limit": "what is restarted has no connections that are always open"}
PARTS: Mapping[str, Contest] = {
    "hup": Reload(
        "hup",
        "SIGHUP with 25 requests at once",
        Story(
            (
                Phase("ramp", "the load grows", 3.0, 4.0, BUSY),
                Phase("busy", "busy", 1.0, BUSY, BUSY),
                Phase("hup", "SIGHUP", 3.0, BUSY, BUSY),
            )
        ),
        Conditions(query=0.25, workers=WORKERS),
        _hup,
        {
            **_LIMIT,
            "node": "Node knows no reload by SIGHUP",
            "tuned": "what is asked is what one has without tuning",
        },
    ),
    "rolling": Reload(
        "rolling",
        f"one worker after the other is replaced under {RATE:g} requests/s",
        Story(
            (
                Phase("calm", "calm", CALM, RATE, RATE),
                Phase("rolling", "rolling", WORKERS * (BOOT + DRAIN) + 0.2, RATE, RATE),
            )
        ),
        # A budget of less than half of what the server has: who exceeds it, may.
        Conditions(query=0.05, workers=WORKERS, threads=8, budget=60),
        _rolling,
        _LIMIT,
    ),
}
DIGEST = digest(
    {
        "a reload (HUP) amid 25 at once: slowest, s": ("hup", "slowest, s"),
        "2 workers replaced in turn: connections over the budget": ("rolling", OVER),
    }
)
run = partial(contest, "reload", PARTS)
