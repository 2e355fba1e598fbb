"""What the kernel says of a process: memory, threads, descriptors, and processor time."""

from __future__ import annotations

from pathlib import Path
from time import clock_gettime
from typing import NamedTuple

_SCHEDULED = 2
"""CPUCLOCK_SCHED of the kernel: nanoseconds from its scheduler."""


class Taken(NamedTuple):
    """What one process takes now. Memory is in KiB."""

    rss: float
    """Resident, pages shared with other processes included."""
    pss: float
    """The same with each shared page divided by those who share it."""
    private: float
    """Pages that nobody shares: what one worker more would cost."""
    threads: int
    descriptors: int


def taken(pid: int) -> Taken:
    """Of the process *pid*, which must be this user's."""
    process = Path("/proc", str(pid))
    lines = (line.split() for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    kib = {words[0].rstrip(":"): float(words[1]) for words in lines}
    return Taken(
        kib["Rss"],
        kib["Pss"],
        kib["Private_Clean"] + kib["Private_Dirty"],
        len([*(process / "task").iterdir()]),
        len([*(process / "fd").iterdir()]),
    )


def processor(pid: int) -> float:
    """Milliseconds that all threads of the process *pid* have run, those that have ended included.

    By the process' own clock, as clock_getcpuclockid(3) gives it: /proc counts in steps of 10 ms,
    too coarse for a worker that is idle.
    """
    return clock_gettime(~pid << 3 | _SCHEDULED) * 1e3
