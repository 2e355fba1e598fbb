"""``overhead``: what poolguard costs a request: beside a bare psycopg_pool, in parts of a span.

At each door, in each state of tracing, a fresh process; in it all contenders take turns of a few
milliseconds. What counts is the processor's time, for nothing waits here: all else that passes is
others' work. The figure of a round is the median of its turns, a difference or a ratio is one of
the same round, and the table shows the median of the rounds, the lowest and the highest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from poolguard.errors import LabError
from poolguard.lab.postgres import PrivatePostgres

from ..table import Row, Table, ratios, show, turns
from .tracing import STATES

WHO = ("bare", "pool", "ours")
"""psycopg_pool's own pool; the guard's, without the middleware; the guard's, with it."""
UNIT = ("unspanned", "spanned")
"""psycopg_pool's own, below a server span that records; the same with a child span around it: the
difference is the unit. It is taken of whole requests, as what it is compared with: a loop that does
nothing but spans has them in the processor's caches, and makes them look cheaper."""
ROUNDS = 15
TURNS = 11
"""Turns of each contender in a round, one after the other: the round's figure is their median."""
REQUESTS = 50
"""Requests of a turn, a few milliseconds: short, so that what else the machine does hits few."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, a folder for what is published, and how long all is played."""

    dsn: str
    folder: Path
    quick: bool
    say: Callable[[str], None]


class Turn(NamedTuple):
    """What a turn has cost a request, in microseconds; *gc* of them went to the collector."""

    us: float
    gc: float


class Probe:
    """A fresh process in one state that plays a turn of whoever it is told, and says what it cost.

    The benchmark's own process imports this and that; what is measured must not find it imported.
    """

    def __init__(self, stage: Stage, door: str, state: str, nth: int = 0) -> None:
        own = ("POOLGUARD_", "OTEL_", "PG")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        folder = stage.folder / f"{door}-{[*STATES].index(state)}-{nth}"
        self._name = f"{door}, {state}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.probe", door, state],
            cwd=Path(__file__).parents[2],
            env={**environ, "DATABASE_URL": stage.dsn, "POOLGUARD_RUNTIME_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self, who: str, requests: int = REQUESTS) -> Turn:
        """One turn. Raises :exc:`~poolguard.errors.LabError` where the process has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        answer = ""
        with suppress(BrokenPipeError):
            print(who, requests, file=stdin, flush=True)
            answer = stdout.readline()
        if not answer:
            raise LabError(f"the process that was to play {who} ({self._name}) has ended")
        return Turn(*json.loads(answer))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._process.communicate(timeout=30)  # it takes the end of its input as the end
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.communicate()


@contextmanager
def _probes(stage: Stage, door: str, state: str) -> Iterator[Mapping[str, Probe]]:
    """Who plays what. A span cannot be begun where there is no SDK: another process does it."""
    with ExitStack() as stack:
        here = there = stack.enter_context(Probe(stage, door, state))
        if STATES[state].has != "sdk":
            there = stack.enter_context(Probe(stage, door, "sampled", nth=1))
        yield {**dict.fromkeys(WHO, here), **dict.fromkeys(UNIT, there)}


def _measure(door: str, stage: Stage) -> Table:
    """Play all states at one door, one after the other, and compare within each round."""
    rows, collected = [], []
    for name, state in STATES.items():
        rounds = _rounds(stage, door, name)
        us = {who: [each[who].us for each in rounds] for who in (*WHO, *UNIT)}
        span, pool, ours = (
            [more - less for more, less in zip(us[one], us[other], strict=True)]
            for one, other in (("spanned", "unspanned"), ("pool", "bare"), ("ours", "bare"))
        )
        figures = {
            "bare, µs": us["bare"],
            "pool adds": pool,
            "all adds, µs": ours,
            "a span, µs": span,
            "of a span": ratios(ours, span),
        }
        rows.append(Row(name, figures, {} if state.goal is None else {"of a span": state.goal}))
        collected += [statistics.median(each[who].gc for each in rounds) for who in WHO]
    title = f"{door}: what poolguard adds to a request with one acquire of a bare psycopg_pool"
    notes = [
        f"medians of {ROUNDS} rounds; a span: one recording child span, started, given six "
        "attributes and ended; pool adds: the same application without the middleware",
        f"of these the garbage collector took at most {max(collected):.2f} µs of any request",
    ]
    return Table(title, rows, notes)


def _rounds(stage: Stage, door: str, state: str) -> list[Mapping[str, Turn]]:
    rounds, times = (1, 1) if stage.quick else (ROUNDS, TURNS)
    played: list[Mapping[str, Turn]] = []
    with _probes(stage, door, state) as by:
        acts = {who: partial(probe.play, who) for who, probe in by.items()}
        turns(1, acts, stage.say)  # the first is slower: caches, and code not yet specialised
        for nth in range(rounds):
            stage.say(f"{state}, round {nth + 1} of {rounds}")
            took = turns(times, acts, lambda _: None)
            played.append({who: _median(of) for who, of in took.items()})
    return played


def _median(of: Sequence[Turn]) -> Turn:
    return Turn(statistics.median(each.us for each in of), statistics.mean(each.gc for each in of))


PARTS = {door: partial(_measure, door) for door in ("wsgi", "asgi")}


def run(*parts: str, quick: bool = False) -> dict[str, Table]:
    """Measure *parts*, or all, and print a table of each."""
    with tempfile.TemporaryDirectory() as folder, PrivatePostgres() as server:
        stage = partial(Stage, server.create_role("bench"), Path(folder), quick)
        return show("overhead", PARTS, parts, stage)
