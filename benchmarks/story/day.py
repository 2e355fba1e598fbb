"""The first act: cold start, day, night, morning ramp, burst."""

from __future__ import annotations

from collections.abc import Sequence

from poolguard.lab.story import Story

from ..contenders import LIMIT, Contender
from ..contest.rounds import Rounds, play_rounds
from ..contest.stage import CONNECT_DELAY, Stage
from ..table import Progress, Row, Table
from . import acts, judge
from .act import Act, of_best, ratios

__all__ = ["run"]

ROUNDS = 2
GOALS = {"of best defaults": 1 / 3, "of best tuned": 1.0, "of limit": 1.2}
NONE = ("failed", "needless", "created")
NOTES = (
    "slowest: counted from when the request was meant to start. of limit: ÷ that of the same load "
    "over connections that are always open, in the same round; calm: the same without the burst",
    "of best defaults, of best tuned: ÷ the fastest of the others so set, in the same round; "
    "nobody can have less than the limit has",
    "opened: connections that reached the server outside the burst while there was traffic. "
    "needless: those of them for which there were no more requests than open connections. created: "
    "poolguard's requests whose spans say that theirs was created, by the same two rules",
    "most: connections at once, counted at the server",
)


def run(on: Stage, contenders: Sequence[Contender], progress: Progress, quick: bool) -> Act:
    """Play it."""
    story = acts.QUICK_DAY if quick else acts.DAY
    conditions = acts.day_conditions()
    rounds = play_rounds(
        contenders,
        1 if quick else ROUNDS,
        lambda contender: on.play(contender, conditions, story),
        progress,
    )
    rows = [_row(c, contenders, rounds, story) for c in contenders if rounds.of(c.name)]
    title = (
        f"day: {story.seconds:g} s, a second stands for an hour; at most "
        f"{on.plan(conditions).budget} connections; a query takes {conditions.query * 1e3:.0f} ms, "
        f"a connect {CONNECT_DELAY * 1e3:.0f} ms longer than on this machine"
    )
    return Act(Table(title, rows, [*NOTES, *rounds.notes()]), story, rounds)


def _row(
    contender: Contender, contenders: Sequence[Contender], rounds: Rounds, story: Story
) -> Row:
    name = contender.name
    limit = f"async {LIMIT}" if contender.kind == "async" else LIMIT
    runs = rounds.of(name)
    figures: dict[str, Sequence[float]] = {
        "slowest, s": [judge.slowest(run) for run in runs],
        "of limit": ratios(rounds, name, limit),
        "calm": ratios(rounds, name, limit, judge.slowest_outside),
    }
    if contender.guarded or contender.setting == "limit":
        for setting in ("defaults", "tuned"):
            rivals = [c.name for c in contenders if c.setting == setting and not c.guarded]
            figures[f"of best {setting}"] = of_best(rounds, name, rivals)
    figures |= {
        "failed": [judge.failed(run) for run in runs],
        "opened": [len(judge.outside(run, story)) for run in runs],
        "needless": [judge.needless(run, story) for run in runs],
    }
    if contender.guarded:
        figures["created"] = [judge.created(run, story) for run in runs]
    figures["most"] = [run.peak for run in runs]
    figures = {name: values for name, values in figures.items() if values}
    goals: dict[str, float] = {}
    if contender.guarded and contender.setting == "defaults":
        goals = {**GOALS, **dict.fromkeys(NONE, 0.0)}
    return Row(name, figures, {name: goal for name, goal in goals.items() if name in figures})
