"""The system's process table: which processes there are, which come from which, and their end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple, TypeAlias

__all__ = ["Identity", "Process", "descendants", "kill", "processes"]

Identity: TypeAlias = tuple[int, str]
"""The pid and the start of a process: no later process has both."""


class Process(NamedTuple):
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    zombie: bool
    started: str

    @property
    def identity(self) -> Identity:
        return self.pid, self.started


def processes() -> dict[int, Process]:
    """All processes that can be seen, by pid: from /proc, else from ``ps``."""
    if os.path.exists("/proc/self/stat"):
        return {row.pid: row for row in map(_from_proc, os.listdir("/proc")) if row is not None}
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,lstart="],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    rows = (line.split(maxsplit=4) for line in listing.stdout.splitlines())
    return {
        int(pid): Process(int(pid), int(parent), int(group), state.startswith("Z"), started)
        for pid, parent, group, state, started in rows
    }


def _from_proc(name: str) -> Process | None:
    if not name.isdecimal():
        return None
    try:
        stat = Path("/proc", name, "stat").read_text(errors="replace")
    except OSError:
        return None
    # The program's name stands in parentheses and may hold blanks and parentheses itself.
    state, parent, group, *rest = stat.rpartition(")")[2].split()
    return Process(int(name), int(parent), int(group), state in "ZX", rest[16])


def descendants(roots: Iterable[int], table: Mapping[int, Process]) -> set[int]:
    """The pids of these processes' children, their children's and so on, without the roots."""
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    known = set(roots)
    found: set[int] = set()
    queue = list(known)
    while queue:
        new = [pid for pid in children.get(queue.pop(), ()) if pid not in known]
        known.update(new)
        found.update(new)
        queue += new
    return found


def kill(victims: Collection[Identity], table: Mapping[int, Process]) -> bool:
    """Send SIGKILL to those of *victims* that still run; returns whether there were any."""
    left = [row for row in table.values() if not row.zombie and row.identity in victims]
    for row in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(row.pid, SIGKILL)
    return bool(left)
