"""What both doors share: the states of tracing, the processes that play them, rounds and rows."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from poolguard.errors import LabError

from ..table import Row, Table, ratios

__all__ = ["STATES", "WHO", "Door", "Probe", "Stage", "State", "measure", "probes", "states"]

Door = Literal["wsgi", "asgi"]

ROUNDS = 15
TURNS = 11
"""Turns of each contender in a round, one after the other: the round's figure is their median."""
REQUESTS = 50
"""Requests of a turn, a few milliseconds: short, so that what else the machine does hits few."""
SAMPLED_GOAL = 0.3
OTHER_GOAL = 0.1

WHO = ("bare", "pool", "ours")
"""psycopg_pool's own pool; the guard's, without the middleware; the guard's, with it."""
UNIT = ("unspanned", "spanned")
"""psycopg_pool's own, below a server span that records; the same with a child span around it: the
difference is the unit. It is taken of whole requests, as what it is compared with: a loop that does
nothing but spans has them in the processor's caches, and makes them look cheaper."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
"""Of the client: the flag that says whether it is sampled comes after it."""


class State(NamedTuple):
    """What a process has of OpenTelemetry, and what is there when a request enters."""

    goal: float | None
    """At most this part of a recording child span."""
    has: Literal["nothing", "api", "sdk"] = "sdk"
    sampler: Literal["always_on", "always_off", "parent"] = "always_on"
    server_span: bool = True
    """An instrumentation has begun its server span further out."""
    traceparent: str | None = None
    """The request's header."""
    metrics: bool = False


STATES: Mapping[str, State] = {
    "no SDK": State(OTHER_GOAL, has="nothing", server_span=False),
    "API, no SDK": State(OTHER_GOAL, has="api", server_span=False),
    "sampler off": State(OTHER_GOAL, sampler="always_off"),
    "client unsampled": State(OTHER_GOAL, sampler="parent", traceparent=f"{TRACEPARENT}00"),
    "sampled": State(SAMPLED_GOAL),
    "metrics on": State(SAMPLED_GOAL, metrics=True),
    "own span, unsampled": State(
        None, sampler="parent", server_span=False, traceparent=f"{TRACEPARENT}00"
    ),
    "own span": State(None, sampler="parent", server_span=False, traceparent=f"{TRACEPARENT}01"),
}
"""Where an own span replaces an instrumentation's there is no goal: that one is not free either."""


def states() -> list[str]:
    """Those that this version of poolguard has anything for."""
    has_metrics = find_spec("poolguard.telemetry.metrics") is not None
    return [name for name, state in STATES.items() if has_metrics or not state.metrics]


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

    def __init__(
        self, stage: Stage, door: Door, state: str, *, under: Sequence[str] = (), nth: int = 0
    ) -> None:
        """*under* goes before the command: a program that runs it and counts."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("POOLGUARD_", "OTEL_", "PG"))
        }
        self._name = f"{door}, {state}"
        folder = stage.folder / f"{door}-{[*STATES].index(state)}-{nth}"
        self._process = subprocess.Popen(
            [*under, sys.executable, "-m", f"{__package__}.probe", door, state],
            cwd=Path(__file__).parents[2],
            env={**environ, "DATABASE_URL": stage.dsn, "POOLGUARD_RUNTIME_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def play(self, who: str, requests: int) -> Turn:
        """One turn. Raises :exc:`~poolguard.errors.LabError` where the process has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            print(who, requests, file=stdin, flush=True)
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise LabError(
                f"the process that was to play {who} ({self._name}) has ended: see above"
            )
        return Turn(*json.loads(answer))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()  # which it takes as the end
            self._process.wait(30)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()


@contextmanager
def probes(
    stage: Stage, door: Door, state: str, *, under: Sequence[str] = ()
) -> Iterator[Mapping[str, Probe]]:
    """Who plays what. A span cannot be begun where there is no SDK: another process does it."""
    with ExitStack() as stack:
        here = stack.enter_context(Probe(stage, door, state, under=under))
        there = here
        if STATES[state].has != "sdk":
            there = stack.enter_context(Probe(stage, door, "sampled", under=under, nth=1))
        yield {**dict.fromkeys(WHO, here), **dict.fromkeys(UNIT, there)}


def measure(stage: Stage, door: Door) -> Table:
    """Play all states at one door, one after the other, and compare within each round."""
    rows, collected = [], []
    for name in states():
        rounds = _rounds(stage, door, name)
        us = {who: [each[who].us for each in rounds] for who in (*WHO, *UNIT)}
        unspanned, spanned = (us[who] for who in UNIT)
        span = [w - wo for w, wo in zip(spanned, unspanned, strict=True)]
        pool, ours = (
            [each - bare for each, bare in zip(us[who], us["bare"], strict=True)]
            for who in ("pool", "ours")
        )
        figures = {
            "bare, µs": us["bare"],
            "pool adds": pool,
            "all adds, µs": ours,
            "a span, µs": span,
            "of a span": ratios(ours, span),
        }
        goal = STATES[name].goal
        rows.append(Row(name, figures, {} if goal is None else {"of a span": goal}))
        collected += [[each[who].gc for each in rounds] for who in WHO]
    title = f"{door}: what poolguard adds to a request with one acquire of a bare psycopg_pool"
    of_gc = [statistics.median(each) for each in collected]
    notes = [
        f"medians of {ROUNDS} rounds; a span: one recording child span, started, given six "
        "attributes and ended; pool adds: the same application without the middleware",
        f"of these the garbage collector took at most {max(of_gc):.2f} µs of any request",
    ]
    if "metrics on" not in states():
        notes.append("metrics on: not measured, this version has none")
    return Table(title, rows, notes)


def _rounds(stage: Stage, door: Door, state: str) -> list[Mapping[str, Turn]]:
    rounds, turns = (1, 1) if stage.quick else (ROUNDS, TURNS)
    played: list[Mapping[str, Turn]] = []
    with probes(stage, door, state) as by:
        for who, probe in by.items():
            probe.play(who, REQUESTS)  # the first is slower: caches, and code not yet specialised
        for nth in range(rounds):
            stage.say(f"{state}, round {nth + 1} of {rounds}")
            took: dict[str, list[Turn]] = {who: [] for who in by}
            for turn in range(turns):
                for who in list(by)[:: -1 if turn % 2 else 1]:
                    took[who].append(by[who].play(who, REQUESTS))
            played.append({who: _median(of) for who, of in took.items()})
    return played


def _median(turns: Sequence[Turn]) -> Turn:
    us, gc = zip(*turns, strict=True)
    return Turn(statistics.median(us), statistics.mean(gc))
