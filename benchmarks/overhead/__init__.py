"""``overhead``: what poolguard costs a request: beside a bare psycopg_pool, in parts of a span.

At each door, in each state of tracing, a fresh process; in it all contenders take turns of a few
milliseconds. What counts is the processor's time, for nothing waits here: all else that passes is
others' work. The figure of a round is the median of its turns, a difference or a ratio is one of
the same round, and the table shows the median of the rounds, the lowest and the highest.
"""

from __future__ import annotations

import os
from functools import partial

from ..crew import Stage, measure
from ..processes import measured
from ..table import Row, Table, ratios, say
from .tracing import STATES

ROUNDS = 15
TURNS = 11
"""Turns of each contender in a round, one after the other: the round's figure is their median."""


def _measure(door: str, stage: Stage) -> Table:
    """Play all states at one door, one after the other, and compare within each round."""
    rows = []
    span: list[float] = []
    for name, state in STATES.items():
        say(name)
        us = _played(stage, door, name)
        if state.sdk:  # otherwise the unit is that of the state before
            span = _more(us, "spanned", "unspanned")
        ours = _more(us, "ours", "bare")
        figures = {
            "bare, µs": us["bare"],
            "poolguard adds, µs": ours,
            "a span, µs": span,
            "of a span": ratios(ours, span),
        }
        rows.append(Row(name, figures, {} if state.goal is None else {"of a span": state.goal}))
    title = f"{door}: what poolguard adds to a request with one acquire of a bare psycopg_pool"
    note = (
        f"medians of {ROUNDS} rounds; a span: one recording child span, started, given six "
        "attributes and ended, or without an SDK that of the state before"
    )
    return Table(title, rows, [note])


def _played(stage: Stage, door: str, state: str) -> dict[str, list[float]]:
    """What a request cost each contender in each round, in µs, in a fresh process.

    The benchmark's own process imports this and that; what is measured must not find it imported.
    """
    own = ("POOLGUARD_", "OTEL_", "PG")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environ["DATABASE_URL"] = stage.database.role
    environ["POOLGUARD_RUNTIME_DIR"] = str(stage.database.janitor.folder() / "run")
    numbers = (1, 1) if stage.quick else (ROUNDS, TURNS)
    us: dict[str, list[float]] = measured(
        f"{__name__}.probe", door, state, *numbers, environ=environ
    )
    return us


def _more(us: dict[str, list[float]], one: str, other: str) -> list[float]:
    """How much more one costs than another, round by round."""
    return [more - less for more, less in zip(us[one], us[other], strict=True)]


PARTS = {door: partial(_measure, door) for door in ("wsgi", "asgi")}
run = partial(measure, "overhead", PARTS)
