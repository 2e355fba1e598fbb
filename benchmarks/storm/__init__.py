"""``storm``: clients that are interrupted anywhere, sessions that end, a pool that is resized.

Nothing is measured. A pool has four times as many clients as connections; after each gust it is
looked at, and nothing of it may be lost. There is a storm each for threads (and signals in the main
thread), greenlets, asyncio and uvloop, each in a fresh process, since gevent must patch it before
psycopg is imported.

*lost* are connections of a pool at rest that nobody can have, *double* those that two had at once,
*dirty* those that were lent closed, in a transaction or in pipeline mode. *stuck* are clients that
never end. *unsettled* is how often the pool's own figures, at rest, did not agree with each other
or with the server's.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..table import Row, Table, say, show

SEED = 1
QUICK = 0.5
"""Seconds of a storm that only shows that it works."""
GOALS = {"stuck": 0.0, "lost": 0.0, "double": 0.0, "dirty": 0.0, "unsettled": 0.0}
COUNTED = ("acquires", "interrupted", "terminated", "errors", "pools", "looks")

_PLAY = "from benchmarks.storm.flavours import main; main({!r})"
_PATCH = "from gevent.monkey import patch_all; patch_all(); "


PARTS: Mapping[str, str] = {"threads": "", "gevent": "gevent", "asyncio": "", "uvloop": "uvloop"}
"""The flavours, and the package that each needs."""


def run(
    *parts: str, quick: bool = False, minutes: float = 1.0, seed: int = SEED
) -> dict[str, Table]:
    """Storm for *minutes* in each flavour and print one table; a goal that is missed is a loss.

    *seed* chooses the pools and what each client does. *quick* storms for half a second.
    """
    # It imports psycopg, which a flavour's process may not have done before it is patched.
    from ..server import database

    with database("storm", settings={"max_connections": "200"}) as there:
        seconds = QUICK if quick else 60 * minutes
        measure = partial(_storm, parts or (*PARTS,), seconds, seed)
        return show("storm", {"storm": measure}, (), there.near)


def _storm(parts: Sequence[str], seconds: float, seed: int, conninfo: str) -> Table:
    rows: list[Row] = []
    notes: list[str] = []
    for part in parts:
        needs = PARTS[part]
        if needs and find_spec(needs) is None:
            notes.append(f"{part}: not played: {needs} is not installed")
            continue
        say(f"{part}, {seconds:.0f} s")
        row, said = _play(part, [conninfo, str(seconds), str(seed)], within=seconds + 150)
        rows.append(row)
        notes += said
    title = f"storm: {seconds:g} s each, seed {seed}, Python {sys.version.split()[0]}"
    return Table(title, rows, notes)


def _play(part: str, arguments: Sequence[str], within: float) -> tuple[Row, list[str]]:
    """One flavour in a process of its own: its row, and what there is to say of it."""
    code = (_PATCH if part == "gevent" else "") + _PLAY.format(part)
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    lines = said.splitlines()  # each tells of the storm until then
    told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    counts, errors = told.get("counts", {}), told.get("errors", {})
    figures = {name: [float(counts.get(name, 0))] for name in (*COUNTED, *GOALS)}
    kinds = sorted(errors.items(), key=lambda of: -of[1])
    notes = [", ".join(f"{kind} {n}" for kind, n in kinds), *told.get("notes", ())]
    if process.returncode:
        figures["stuck"] = [math.inf]
        notes.insert(0, f"its process did not live to tell the end: status {process.returncode}")
    return Row(part, figures, GOALS), [f"{part}: {note}" for note in notes if note]
