"""What tests of real servers and processes wait with, and how they see who is alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from poolguard.lab.janitor import processes


def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until ``condition()`` is true; fail when it is not after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """A zombie is not alive, whoever ought to reap it."""
    row = processes().get(pid)
    return row is not None and not row.zombie
