"""What one ``poolguard status`` costs whoever asks, by how many workers there are."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

from poolguard.errors import LabError
from poolguard.worker.publish import published

from ..crew import Crew, Running, Stage
from ..table import Row, Table

__all__ = ["run"]

ROUNDS = 15
WORKERS = (1, 4, 16)
NOTHING = ("-c", "import poolguard")


def run(stage: Stage) -> Table:
    """Measure the whole command, and what of it is reading the workers' files."""
    rounds = 1 if stage.quick else ROUNDS
    rows = [Row("an empty command", _command([NOTHING] * rounds))]
    for workers in WORKERS:
        stage.say(f"{workers} workers")
        with stage.running(Crew("poolguard", workers=workers)) as running:
            status = ("-m", "poolguard", "status", "--runtime-dir", str(running.runtime_dir))
            figures = _command([status] * rounds)
            figures["reading, ms"] = [_reading(running) for _ in range(rounds)]
        rows.append(Row(f"{workers} worker(s)", figures))
    notes = ["an empty command: the interpreter, and the import of poolguard alone"]
    return Table("status: one `poolguard status`", rows, notes)


def _command(commands: list[tuple[str, ...]]) -> dict[str, list[float]]:
    wall, processor = [], []
    for command in commands:
        before = os.times()
        began = perf_counter()
        done = subprocess.run(
            [sys.executable, *command], check=False, capture_output=True, text=True, timeout=30
        )
        wall.append((perf_counter() - began) * 1e3)
        after = os.times()
        if done.returncode != 0:
            raise LabError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        used = after.children_user + after.children_system
        used -= before.children_user + before.children_system
        processor.append(used * 1e3)
    return {"command, ms": wall, "processor, ms": processor}


def _reading(running: Running) -> float:
    began = perf_counter()
    found = published(running.runtime_dir)
    took = perf_counter() - began
    if {status["pid"] for status in found} != set(running.pids):
        raise LabError(f"{len(found)} of {len(running.pids)} workers have published a status")
    return took * 1e3
