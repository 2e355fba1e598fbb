"""``skew``: one worker of four gets most of the load, over connections that are kept.

A pool of a fixed share serves what its share can, while the other workers' connections are idle;
poolguard's busy worker borrows from what the idle ones do not use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from poolguard.cli.report.summary import percentile
from poolguard.lab.result import Run, Sample
from poolguard.lab.story import Phase, Story

from .contenders import CONTENDERS, POOLGUARD, Contender
from .contest.conditions import Conditions
from .contest.pinned import Share, drive_pinned, phases
from .contest.rounds import Rounds, play_rounds
from .contest.show import show
from .contest.stage import Serving, Stage, stage
from .output.pictures import pictures
from .table import Progress, Row, Table

__all__ = ["QUICK", "field", "run"]

ROUNDS = 2
WORKERS = 4
BUSY = Share(rate=90.0, connections=40)
QUIET = Share(rate=4.0, connections=2)
SHARES = (BUSY, *(QUIET,) * (WORKERS - 1))
CONDITIONS = Conditions(query=0.2, workers=WORKERS, threads=40, budget=40)
STATIC = ", static"
QUICK = (POOLGUARD, "psycopg_pool", f"async {POOLGUARD}", "async psycopg_pool", "PgBouncer tuned")
SKEW = "skew"
SECONDS = 3.0
OF_STATIC, OVER = "p99 of static", "over budget"
GOALS = {OF_STATIC: 0.5, "failed": 0.0, OVER: 0.0}
ABSENT = {
    "node": "one event loop has one pool: Node has no workers here that could share unequally",
    "limit": "a worker's share of connections that are always open is a share too",
}
NOTES = (
    "answered: requests per second that had their answer within the time; p99: seconds from when "
    "the request was meant to start, of all workers' requests",
    f"{OF_STATIC}: ÷ the lowest p99 of those whose workers have fixed shares, in the same round. "
    f"Elastic: poolguard, PgBouncer; {STATIC.strip(', ')}: poolguard with ledger=static; a "
    "connection per request has no bound at all",
    f"most: connections at once, counted at the server; {OVER}: how many more than the budget",
)


def run(*, quick: bool = False) -> dict[str, object]:
    """Measure, and print the table; returns plain data, with pictures."""
    drawn: dict[str, str] = {}
    with stage() as on:
        measured = show(SKEW, {SKEW: partial(_table, on, drawn, quick=quick)})
    return measured | {"pictures": drawn}


def _table(on: Stage, drawn: dict[str, str], progress: Progress, *, quick: bool) -> Table:
    contenders, absent = field()
    if quick:
        contenders = [c for c in contenders if c.name.removesuffix(STATIC) in QUICK]
    story = _story(0.5 if quick else SECONDS)
    rounds = play_rounds(contenders, 1 if quick else ROUNDS, partial(_play, on, story), progress)
    drawn.update(pictures(SKEW, story, rounds.last(), POOLGUARD))
    rows = [_row(c, contenders, rounds, story) for c in contenders if rounds.of(c.name)]
    budget = on.plan(CONDITIONS).budget
    offered = sum(share.rate for share in SHARES)
    title = (
        f"{SKEW}: {BUSY.rate:g} requests/s to one of {WORKERS} workers, {QUIET.rate:g} to each "
        f"other, {offered:g} in all; a query takes {CONDITIONS.query * 1e3:.0f} ms; a budget of "
        f"{budget}, of which an equal share is {budget // WORKERS}"
    )
    return Table(title, rows, [*NOTES, *absent, *rounds.notes()])


def field() -> tuple[list[Contender], list[str]]:
    """Who is measured; and of the others why not."""
    contenders: list[Contender] = []
    absent = []
    for contender in CONTENDERS:
        why = ABSENT.get(contender.setting) or ABSENT.get(contender.kind)
        if why is not None:
            absent.append(f"{contender.name}: not measured: {why}")
            continue
        contenders.append(contender)
        if contender.guarded and contender.setting == "defaults":
            contenders.append(replace(contender, name=contender.name + STATIC))
    return contenders, absent


def _story(seconds: float) -> Story:
    """Its rates are those of all workers, for the pictures."""
    rate = sum(share.rate for share in SHARES)
    warm = Phase("warm", "warming up", min(1.0, seconds), rate, rate)
    return Story((warm, Phase(SKEW, "one worker busy", seconds, rate, rate)))


def _play(on: Stage, story: Story, contender: Contender) -> Run:
    conditions = CONDITIONS
    if contender.name.endswith(STATIC):
        conditions = replace(CONDITIONS, poolguard={"POOLGUARD_LEDGER": "static"})

    def load(serving: Serving) -> tuple[list[Sample], float, float]:
        return drive_pinned(serving.server.address, story.phases, SHARES)

    return on.play(contender, conditions, story, load=load)


def _row(
    contender: Contender, contenders: Sequence[Contender], rounds: Rounds, story: Story
) -> Row:
    runs = rounds.of(contender.name)
    figures: dict[str, Sequence[float]] = {
        "answered/s": [_answered(run, story) for run in runs],
        "p99, s": [_p99(run) for run in runs],
    }
    judged = contender.guarded and not _static(contender) and contender.setting == "defaults"
    if judged:
        rivals = [c.name for c in contenders if _static(c)]
        figures[OF_STATIC] = [
            _p99(played[contender.name]) / min(_p99(played[r]) for r in rivals if r in played)
            for played in rounds.rounds
            if contender.name in played and any(r in played for r in rivals)
        ]
    figures["failed"] = [sum(sample.failed for sample in run.samples) for run in runs]
    figures["most"] = [run.peak for run in runs]
    figures[OVER] = [max(run.peak - run.budget, 0) for run in runs]
    goals: Mapping[str, float] = GOALS if judged else {}
    return Row(contender.name, figures, {name: goals[name] for name in goals if figures[name]})


def _static(contender: Contender) -> bool:
    """Its workers have fixed shares."""
    if contender.guarded:
        return contender.name.endswith(STATIC)
    return contender.module != "per_request"


def _p99(run: Run) -> float:
    found = percentile(sorted(s.latency for s in phases(run.samples, SKEW)), 0.99)
    assert found is not None, "there is traffic in every run"
    return found


def _answered(run: Run, story: Story) -> float:
    """Per second, of those that came and were answered within the phase, and did not fail."""
    (_, _, _), (_, start, end) = story.bounds()
    done = [s.at + s.latency for s in run.samples if not s.failed]
    return sum(start <= at < end for at in done) / (end - start)
