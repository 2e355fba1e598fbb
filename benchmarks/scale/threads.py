"""What a request's borrowing costs with 1 to 64 threads: plain psycopg_pool beside poolguard."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from poolguard.errors import LabError

from ..crew import Stage
from ..table import Row, Table, ratios

__all__ = ["run"]

THREADS = (1, 8, 64)
SHARERS = 4
"""Threads to a connection where they contend."""
ROUNDS = 15
BORROWINGS = 6400
"""Of all threads together in a turn."""
GOALS = {(8, 2): 0.8}
"""Of both ratios, by the numbers of threads and connections."""


def run(stage: Stage) -> Table:
    """Measure in a fresh process for each number of threads: what it imports is all it has."""
    rows = []
    for threads in THREADS:
        rows += _rows(stage, threads, threads)
        if threads > 1:
            rows += _rows(stage, threads, threads // SHARERS)
    return Table(
        "threads: one `with connection()`, all threads together, in µs",
        rows,
        [
            "they contend: four threads to a connection, and each lets the others go on while it "
            "holds one; otherwise each finds one free, and gives it back at once",
            f"a turn has {BORROWINGS} borrowings; the ratios are those of neighbouring turns",
        ],
    )


def _rows(stage: Stage, threads: int, size: int) -> list[Row]:
    stage.say(f"{threads} threads, {size} connections")
    rounds, borrowings = (1, 128) if stage.quick else (ROUNDS, BORROWINGS)
    plain, ours = _measured(stage, threads, size, rounds, borrowings)
    name = f"{threads} thread(s), {size} connection(s)"
    compared = {
        "ratio": ratios(ours["wall"], plain["wall"]),
        "processor ratio": ratios(ours["processor"], plain["processor"]),
    }
    goal = GOALS.get((threads, size))
    return [
        Row(f"{name}: psycopg_pool", _figures(plain)),
        Row(
            f"{name}: poolguard",
            {**_figures(ours), **compared},
            {} if goal is None else dict.fromkeys(compared, goal),
        ),
    ]


def _figures(measured: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    return {"µs": measured["wall"], "processor, µs": measured["processor"]}


def _measured(stage: Stage, *numbers: int) -> Sequence[dict[str, list[float]]]:
    folder = stage.janitor.folder()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.apps.borrowing", stage.dsn, folder, *map(str, numbers)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise LabError(f"the process that was to borrow has ended: {done.stderr.strip()}")
    measured: Any = json.loads(done.stdout)
    return [measured["plain"], measured["ours"]]
