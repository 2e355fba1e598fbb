"""The second act: PostgreSQL restarts, then a firewall drops every connection without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from poolguard.lab.result import Run

from ..contenders import POOLGUARD, Contender
from ..contest.rounds import play_rounds
from ..contest.stage import Stage
from ..table import Progress, Row, Table
from . import acts, judge
from .act import Act

__all__ = ["run"]

ROUNDS = 2
REAL_TIME = f"{POOLGUARD} in real time"
EVENTS = (acts.RESTART, acts.DROP)
NOTES = (
    "each happens while no request is under way: what fails, fails by what the pool does; slowest: "
    f"seconds, a client gives up after {acts.GIVE_UP:g}",
    "well after: seconds from the event until requests fared as before: none failed, none took "
    "twice the time",
    "in fast motion these are a few requests an hour, and each verifies its connection, which was "
    "idle for 30 s; in real time none does",
    "who has not yet recovered from the restart fails requests of the drop for that",
    "drop: nobody is told, the server neither: the sessions that it still has count against its "
    "max_connections, and against poolguard's budget",
)


def run(on: Stage, contenders: Sequence[Contender], progress: Progress, quick: bool) -> Act:
    """Play it, without the limit, which is one of the day's load only."""
    contenders = [
        *(c for c in contenders if c.setting != "limit"),
        *(_in_real_time(c) for c in contenders if c.name == POOLGUARD),
    ]

    def play(contender: Contender) -> Run:
        return on.play(
            contender,
            acts.outage_conditions(real_time=contender.name == REAL_TIME),
            acts.OUTAGE,
            events=acts.events(on),
            give_up=acts.GIVE_UP,
        )

    rounds = play_rounds(contenders, 1 if quick else ROUNDS, play, progress)
    rows = [_row(c, rounds.of(c.name)) for c in contenders if rounds.of(c.name)]
    requests = len(acts.OUTAGE.arrivals())
    title = (
        f"outage: a restart, then a silent drop of all connections, under {acts.LIGHT:g} "
        f"requests/s; of {requests} requests"
    )
    return Act(Table(title, rows, [*NOTES, *rounds.notes()]), acts.OUTAGE, rounds)


def _in_real_time(contender: Contender) -> Contender:
    return replace(contender, name=REAL_TIME)


def _row(contender: Contender, runs: Sequence[Run]) -> Row:
    figures: dict[str, Sequence[float]] = {}
    for event in EVENTS:
        at = acts.moment(event)
        figures |= {
            f"{event}: failed": [judge.failed(run, [event]) for run in runs],
            f"{event}: slowest": [judge.slowest(run, [event]) for run in runs],
            f"{event}: well after": [judge.recovery(run, event, at, acts.CALM) for run in runs],
        }
    judged = contender.guarded and contender.setting == "defaults"
    goals = {f"{event}: failed": 0.0 for event in EVENTS} if judged else {}
    return Row(contender.name, figures, goals)
