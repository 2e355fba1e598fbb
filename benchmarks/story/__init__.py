"""``story``: a service's day in fast motion, and what happens to it: every contender, in two acts.

*day*: cold start, day, night, morning ramp, burst. *outage*: PostgreSQL restarts under a light
load, and a firewall then drops every connection without a word. The goals are those of poolguard at
its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from poolguard.cli.report.summary import summarise

from ..contenders import CONTENDERS, POOLGUARD, Contender
from ..contest.stage import Stage, stage
from ..output.pictures import pictures
from ..table import Progress
from . import day, outage
from .act import Act

__all__ = ["PARTS", "QUICK", "run"]

QUICK = ("limit", POOLGUARD, "psycopg_pool", "async poolguard", "asyncpg", "knex", "PgBouncer")

PARTS: Mapping[str, Callable[[Stage, Sequence[Contender], Progress, bool], Act]] = {
    "day": day.run,
    "outage": outage.run,
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Play *parts*, or both acts, and print a table of each; returns plain data, with pictures.

    *quick* shows that it works, with one round of some contenders.
    """
    contenders = [c for c in CONTENDERS if not quick or c.name in QUICK]
    progress = Progress()
    tables: dict[str, object] = {}
    runs: dict[str, object] = {}
    drawn: dict[str, str] = {}
    missed: list[str] = []
    with stage() as on:
        for part in parts or PARTS:
            progress.part = f"story.{part}"
            act = PARTS[part](on, contenders, progress, quick)
            progress.clear()
            print(f"\n{act.table}", flush=True)
            tables[part] = act.table.as_json()
            runs[part] = [
                {name: asdict(summarise(run)) for name, run in played.items()}
                for played in act.rounds.rounds
            ]
            drawn |= pictures(f"story-{part}", act.story, act.rounds.last(), POOLGUARD)
            missed += [f"{part} ({row.who})" for row in act.table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"parts": tables, "runs": runs, "pictures": drawn}
