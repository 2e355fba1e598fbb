"""The same requests, counted in instructions: a busy machine changes nothing about those.

Callgrind runs the processes, since hardware counters, which ``perf`` reads, are hidden from most
virtual machines. It counts what the whole process executes in user space, its upkeep included, and
nothing of the kernel. Each figure is one turn, after one that has warmed everything up; they differ
by about a hundredth from run to run. An instruction is no time: the ratios show what has changed,
and the goals are those of the other parts.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ..table import Row, Table
from .frame import UNIT, WHO, Door, Stage, probes, states

__all__ = ["run"]

REQUESTS = 200
DOORS: tuple[Door, ...] = ("wsgi", "asgi")


def run(stage: Stage) -> Table:
    """Count."""
    title = "instructions: of a request with one acquire, in thousands"
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return Table(title, [], ["not counted: valgrind is not installed"])
    rows = []
    for door in DOORS:
        for state in states()[: 1 if stage.quick else None]:
            stage.say(f"{door}, {state}")
            of = _counted(stage, valgrind, door, state)
            rows.append(
                Row(
                    f"{door}, {state}",
                    {
                        "bare": [of["bare"]],
                        "pool adds": [of["pool"] - of["bare"]],
                        "all adds": [of["ours"] - of["bare"]],
                        "a span": [of["spanned"] - of["unspanned"]],
                        "of a span": [
                            (of["ours"] - of["bare"]) / (of["spanned"] - of["unspanned"])
                        ],
                    },
                )
            )
    return Table(title, rows)


def _counted(stage: Stage, valgrind: str, door: Door, state: str) -> dict[str, float]:
    """Thousands of instructions of a request of each, and of a span."""
    out = stage.folder / "callgrind.out"
    options = (f"--callgrind-out-file={out}.%p", "--dump-before=getsid")
    played: dict[str, tuple[int, int]] = {}
    turns: dict[int, int] = {}
    with probes(stage, door, state, under=(valgrind, "-q", "--tool=callgrind", *options)) as by:
        for who in (*WHO, *UNIT) * 2:
            probe = by[who]
            turns[probe.pid] = turns.get(probe.pid, 0) + 1
            played[who] = probe.pid, turns[probe.pid]
            probe.play(who, REQUESTS)
    # It begins a new file at each mark, and a turn stands between two of them.
    return {
        who: _total(Path(f"{out}.{pid}.{2 * turn}")) / REQUESTS / 1e3
        for who, (pid, turn) in played.items()
    }


def _total(file: Path) -> int:
    found = re.search(r"^summary: (\d+)$", file.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
