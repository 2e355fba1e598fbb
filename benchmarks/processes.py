"""What the kernel says of a process: memory, threads, descriptors, and processor time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Taken", "processor", "taken"]


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


def processor(pid: int) -> dict[int, float]:
    """Milliseconds that each thread of the process *pid* has run, by its number in the kernel.

    In nanoseconds at the source, where the usual counters tick every 10 ms: too coarse for a
    worker that is idle.
    """
    tasks = Path("/proc", str(pid), "task").iterdir()
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e6 for task in tasks
    }
