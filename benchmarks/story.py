"""``story``: a service's day in fast motion, and what happens to it: in three acts.

*day*: cold start, day, night, morning ramp, burst. *outage*: PostgreSQL restarts under a light
load, and a firewall then drops every connection without a word. *realtime*: the same, though not in
fast motion. The goals are those of poolguard at its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from poolguard.lab import story as demo
from poolguard.lab.story import Phase, Story

from .contest import judge
from .contest.conditions import HOUR, Conditions
from .contest.contenders import Contender
from .contest.frame import Contest, Played, contest, digest, limit_of
from .contest.stage import Event, Stage
from .table import Row

FAST = 1.0
"""Seconds that stand for an hour."""
GOALS = {"of best defaults": 1 / 3, "of best tuned": 1.0, "of limit": 1.2, "failed": 0.0}

LIGHT = 4.0
"""Requests per second of the outage: one after the other, with pauses in between."""
RESTART, DROP = "restart", "drop"
OUTAGE = Story(
    (
        Phase("calm", "calm", 0.9, LIGHT, LIGHT),
        Phase(RESTART, "restart", 1.8, LIGHT, LIGHT),
        Phase(DROP, "silent drop", 2.2, LIGHT, LIGHT),
    )
)
"""An outage that everybody is told of, and one that nobody is."""
GIVE_UP = 2.0


def _day(*seconds: float) -> Story:
    """The demo's, with phases of other lengths: cold start, day, night, ramp, morning, burst."""
    phases = zip(demo.FULL.phases, seconds, strict=True)
    return Story(tuple(replace(phase, seconds=length) for phase, length in phases))


DAY = _day(1.5, 0.4, 2.2, 0.5, 0.8, 1.4)
"""Shorter than the demo's, since so many play it."""


class Day(Contest):
    """Cold start, day, night, morning ramp, burst."""

    story = DAY
    setting = Conditions(query=0.25, hour=FAST)
    notes = (
        "slowest: counted from when the request was meant to start. of limit: ÷ that of the same "
        "load over connections that are always open, in the same round; calm: the same without the "
        "burst",
        "of best defaults, of best tuned: ÷ the fastest of the others so set, in the same round; "
        "nobody can have less than the limit has",
        "opened: connections that reached the server outside the burst while there was traffic; "
        "most: connections at once, counted at the server",
    )

    def title(self, on: Stage, played: Played) -> str:
        return (
            f"day: {DAY.seconds:g} s, a second stands for an hour; at most "
            f"{on.plan(self.setting).budget} connections; a query takes "
            f"{self.setting.query * 1e3:.0f} ms, a connect {played.connect * 1e3:.0f} ms"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        rounds, name, limit = played.rounds, contender.name, limit_of(contender)
        runs = rounds.of(name)
        figures: dict[str, Sequence[float]] = {
            "slowest, s": [judge.slowest(run) for run in runs],
            "of limit": judge.relative(rounds, name, limit),
            "calm": judge.relative(rounds, name, limit, judge.slowest_outside),
        }
        if contender.guarded or contender.setting == "limit":
            for setting in ("defaults", "tuned"):
                rivals = played.named(setting)
                figures[f"of best {setting}"] = judge.of_best(rounds, name, rivals)
        figures |= {
            "failed": [judge.failed(run) for run in runs],
            "opened": [judge.outside(run, DAY) for run in runs],
            "most": [run.peak for run in runs],
        }
        figures = {name: values for name, values in figures.items() if values}
        return Row(name, figures, GOALS if contender.judged else {})


@dataclass(frozen=True)
class Outage(Contest):
    """PostgreSQL restarts, then a firewall drops every connection without a word."""

    name: str
    setting: Conditions

    story = OUTAGE
    give_up = GIVE_UP
    notes = (
        "each happens while no request is under way: what fails, fails by what the pool does; "
        f"slowest: seconds, a client gives up after {GIVE_UP:g}",
        "in fast motion these are a few requests an hour, and each verifies its connection, which "
        "was idle for 30 s; in real time none does, and those fail that come before poolguard has "
        "noticed that the first one gets no answer",
        "what has not yet recovered from the restart fails requests of the drop for that",
        "drop: nobody is told, the server neither: the sessions that it still has count against "
        "its max_connections, and against poolguard's budget",
    )

    def absent(self, contender: Contender) -> str | None:
        return "it is one of the day's load only" if contender.setting == "limit" else None

    def events(self, on: Stage, contender: Contender) -> Sequence[Event]:  # noqa: ARG002
        return [
            Event(_moment(RESTART), lambda _: on.database.server.restart()),
            Event(_moment(DROP), lambda _: on.database.proxy.silence_all()),
        ]

    def title(self, on: Stage, played: Played) -> str:  # noqa: ARG002
        return (
            f"{self.name}: a restart, then a silent drop of all connections, under {LIGHT:g} "
            f"requests/s; of {len(OUTAGE.arrivals())} requests"
        )

    def row(self, contender: Contender, played: Played) -> Row:
        runs = played.rounds.of(contender.name)
        figures: dict[str, Sequence[float]] = {}
        for event in (RESTART, DROP):
            figures |= {
                f"{event}: failed": [judge.failed(run, [event]) for run in runs],
                f"{event}: slowest": [judge.slowest(run, [event]) for run in runs],
            }
        judged = contender.judged
        goals = {f"{event}: failed": 0.0 for event in (RESTART, DROP)} if judged else {}
        return Row(contender.name, figures, goals)


def _moment(phase: str) -> float:
    """When it happens: near the phase's beginning, between two requests.

    The one has its answer, though it may have connected first, and the other is not there before a
    server that stops has ended all of its sessions.
    """
    start, _ = judge.bounds(OUTAGE, phase)
    return min(due.at for due in OUTAGE.arrivals() if due.at > start + 0.5 / LIGHT) - 0.12


# Queries so short that none is under way when something happens. In fast motion the traffic is 4
# requests an hour: poolguard's verification before use, due after 30 idle seconds, is due for each
# of them. In real time all has its real default, and nothing is verified before its use.
_ALWAYS = {"POOLGUARD_CHECK_AFTER_IDLE": str(30 * FAST / HOUR)}
PARTS: Mapping[str, Contest] = {
    "day": Day(),
    "outage": Outage("outage", Conditions(query=0.01, hour=FAST, poolguard=_ALWAYS)),
    "realtime": Outage("realtime", Conditions(query=0.01)),
}
_DUE = [arrival.phase for arrival in OUTAGE.arrivals()]
DIGEST = digest(
    {
        "a day in fast motion: slowest, ÷ limit": ("day", "of limit"),
        "the same without its burst": ("day", "calm"),
        f"PostgreSQL restarts: failed of {_DUE.count(RESTART)}": ("outage", f"{RESTART}: failed"),
        f"silent drop: failed of {_DUE.count(DROP)}": ("outage", f"{DROP}: failed"),
    }
)
run = partial(contest, "story", PARTS)
