"""What the kernel says of a process, and what a fresh process measures and prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import clock_gettime
from typing import Any, NamedTuple

from poolguard.errors import LabError

_SCHEDULED = 2
"""CPUCLOCK_SCHED of the kernel: nanoseconds from its scheduler."""


class Taken(NamedTuple):
    """What one process takes now. Memory is in KiB."""

    pss: float
    """Resident, with each shared page divided by those who share it."""
    private: float
    """Resident, and no other process has it: what one process more would take."""
    threads: int
    descriptors: int


def taken(pid: int) -> Taken:
    """Of the process *pid*, which must be this user's."""
    process = Path("/proc", str(pid))
    _, *lines = (process / "smaps_rollup").read_text().splitlines()
    found = {name: float(size) for name, size, _ in map(str.split, lines)}
    return Taken(
        found["Pss:"],
        found["Private_Clean:"] + found["Private_Dirty:"],
        len([*(process / "task").iterdir()]),
        len([*(process / "fd").iterdir()]),
    )


def processor(pid: int) -> float:
    """Milliseconds that all threads of the process *pid* have run, those that have ended included.

    By the process' own clock, as clock_getcpuclockid(3) gives it: /proc counts in steps of 10 ms,
    too coarse for a worker that is idle.
    """
    return clock_gettime(~pid << 3 | _SCHEDULED) * 1e3


def measured(module: str, *arguments: object, environ: Mapping[str, str] | None = None) -> Any:
    """The JSON that a fresh process prints which runs *module*. Raises LabError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env=environ,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise LabError(f"{module} has failed: {done.stderr.strip() or done.returncode}")
    return json.loads(done.stdout)
