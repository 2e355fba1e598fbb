"""``burst``: many requests at once, on a cold pool and on a half-warm one, with slow connects.

Cold is a worker that has just begun to answer, with whatever its pool has by then. Half-warm: half
as many requests were served at once a moment before. What is shown is how long the slowest request
took beyond its query, in connects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from poolguard.lab.result import Run
from poolguard.lab.story import Phase, Story

from .contenders import CONTENDERS, LIMIT, POOLGUARD, Contender
from .contest.conditions import Conditions
from .contest.rounds import Rounds, play_rounds
from .contest.show import show
from .contest.stage import CONNECT_DELAY, Stage, stage
from .story import judge
from .table import Progress, Row, Table

__all__ = ["PARTS", "QUICK", "field", "run"]

ROUNDS = 2
QUERY = 0.1
COLD, WARM = "cold", "half-warm"
LAZY = ", floor 1"
"""poolguard at its defaults is never cold: with this it is."""
QUICK = (
    LIMIT,
    POOLGUARD,
    "psycopg_pool",
    f"async {LIMIT}",
    f"async {POOLGUARD}",
    "asyncpg",
    "knex",
)
OF_LIMIT, OF_BEST = "of limit", "of best defaults"
GOALS = {OF_LIMIT: 1.2, OF_BEST: 1.0}
LAZY_GOALS = {OF_BEST: 1.0}
NOTES = (
    "seconds from when the requests were meant to start until the slowest had its answer, less the "
    "query's, ÷ a connect's on the idle machine",
    f"{OF_LIMIT}: the slowest request ÷ that of as many over connections that are always open; "
    f"{OF_BEST}: ÷ the fastest of the others at defaults who failed none; both in the same round, "
    "and of all bursts the worst ratio",
    "cold: the worker has just begun to answer; half-warm: half as many requests were served at "
    "once a moment before",
    f"{LAZY.strip(', ')}: poolguard has one warm connection only, so that it is cold as the others",
)


@dataclass(frozen=True, slots=True)
class Part:
    """With which connects, and which bursts: how many at once on a cold pool."""

    delay: float
    firsts: Sequence[int]


PARTS: Mapping[str, Part] = {
    "20ms": Part(0.02, (25,)),
    "100ms": Part(CONNECT_DELAY, (1, 5, 25)),
    "500ms": Part(0.5, (25,)),
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns them as plain data."""
    contenders, absent = field()
    if quick:
        contenders = [c for c in contenders if c.name.removesuffix(LAZY) in QUICK]
    with stage() as on:
        tables: Mapping[str, Callable[[Progress], Table]] = {
            part: partial(_table, on, part, contenders, absent, quick=quick)
            for part in parts or PARTS
        }
        return show("burst", tables)


def field() -> tuple[list[Contender], list[str]]:
    """Who is measured; and of the others why not."""
    lazy = [c for c in CONTENDERS if c.guarded and c.setting == "defaults"]
    eager = [c for c in CONTENDERS if c.setting == "tuned" and not _grows(c)]
    contenders: list[Contender] = []
    for contender in CONTENDERS:
        if contender not in eager:
            contenders.append(contender)
        if contender in lazy:
            contenders.append(replace(contender, name=contender.name + LAZY))
    why = "all its connections are open before the first request, as the limit's are"
    return contenders, [f"{c.name}: not measured: {why}" for c in eager]


def _grows(contender: Contender) -> bool:
    """Well tuned it still opens what a burst asks for: it has no way to open before."""
    return contender.name in ("SQLAlchemy tuned", "PgBouncer tuned")


def _table(
    on: Stage,
    name: str,
    contenders: Sequence[Contender],
    absent: Sequence[str],
    progress: Progress,
    *,
    quick: bool,
) -> Table:
    part = PARTS[name]
    with _delayed(on, part.delay):
        connect = on.one_connect()
        played: dict[int, Rounds] = {}
        for first in part.firsts:

            def say(text: str, first: int = first) -> None:
                progress(f"{first} at once, {text}")

            play = partial(_play, on, _story(first, part.delay))
            played[first] = play_rounds(contenders, 1 if quick else ROUNDS, play, say)
    rows = [row for c in contenders if (row := _row(c, contenders, played, connect)).figures]
    title = (
        f"{name}: a connect takes {connect * 1e3:.0f} ms, a query {QUERY * 1e3:.0f} ms; how long "
        f"the slowest of so many requests at once took beyond its query, in connects"
    )
    notes = dict.fromkeys(note for rounds in played.values() for note in rounds.notes())
    return Table(title, rows, [*NOTES, *absent, *notes])


@contextmanager
def _delayed(on: Stage, delay: float) -> Iterator[None]:
    on.proxy.set(connect_delay=delay)
    try:
        yield
    finally:
        on.proxy.set(connect_delay=CONNECT_DELAY)


def _story(first: int, delay: float) -> Story:
    """A burst, then one of twice its size, when what the first began has long ended."""
    pause = 0.4 + QUERY + 2 * delay
    cold = Phase(COLD, "cold", 0.1, 0.0, 0.0, at_once=first)
    if first == 1:
        return Story((cold,))
    calm = Phase("calm", "calm", pause, 0.0, 0.0)
    return Story((cold, calm, Phase(WARM, "half-warm", 0.1, 0.0, 0.0, at_once=2 * first)))


def _play(on: Stage, story: Story, contender: Contender) -> Run:
    lazy = contender.name.endswith(LAZY)
    conditions = Conditions(query=QUERY, poolguard={"POOLGUARD_FLOOR": "1"} if lazy else {})
    return on.play(contender, conditions, story)


def _row(
    contender: Contender,
    contenders: Sequence[Contender],
    played: Mapping[int, Rounds],
    connect: float,
) -> Row:
    name = contender.name
    limit = f"async {LIMIT}" if contender.kind == "async" else LIMIT
    rivals = [c.name for c in contenders if c.setting == "defaults" and not c.guarded]
    figures: dict[str, Sequence[float]] = {}
    of_limit: list[Sequence[float]] = []
    of_best: list[Sequence[float]] = []
    failed: list[Sequence[float]] = []
    for phase in (COLD, WARM):
        for first, rounds in played.items():
            size = first if phase == COLD else 2 * first
            runs = rounds.of(name)
            if not runs or (first == 1 and phase == WARM):
                continue
            took = [max(judge.slowest(run, [phase]) - QUERY, 0.0) / connect for run in runs]
            figures[f"{phase} {size}"] = took
            failed.append([judge.failed(run, [phase]) for run in runs])
            of_limit.append(_in_limit(rounds, name, limit, phase))
            of_best.append(_of_best(rounds, name, rivals, phase))
    if failed:
        figures[OF_LIMIT] = _worst(of_limit)
        if contender.guarded:
            figures[OF_BEST] = _worst(of_best)
        figures["failed"] = [sum(of) for of in zip(*failed, strict=False)]
    figures = {column: values for column, values in figures.items() if values}
    goals: Mapping[str, float] = {}
    if contender.guarded:
        goals = {**(LAZY_GOALS if name.endswith(LAZY) else GOALS), "failed": 0.0}
    return Row(name, figures, {goal: most for goal, most in goals.items() if goal in figures})


def _in_limit(rounds: Rounds, name: str, limit: str, phase: str) -> list[float]:
    return [
        judge.slowest(ours, [phase]) / judge.slowest(theirs, [phase])
        for ours, theirs in rounds.pairs(name, limit)
    ]


def _of_best(rounds: Rounds, name: str, rivals: Sequence[str], phase: str) -> list[float]:
    found = []
    for played in rounds.rounds:
        theirs = [
            judge.slowest(played[rival], [phase])
            for rival in rivals
            if rival in played and not judge.failed(played[rival], [phase])
        ]
        if theirs and name in played:
            found.append(judge.slowest(played[name], [phase]) / min(theirs))
    return found


def _worst(of: Sequence[Sequence[float]]) -> list[float]:
    """Of each round the worst; a round that a burst is missing from does not count."""
    return [max(values) for values in zip(*of, strict=False)]
