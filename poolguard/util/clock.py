"""The clock by which everything ages: it never goes back, and runs on while the machine sleeps.

:func:`time.monotonic` stands still while a laptop or a virtual machine is suspended (on Linux, see
``clock_gettime(2)``), but connections grow old in that time too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ["LONGEST_WAIT", "now", "waitable"]

LONGEST_WAIT = 1e9
"""Seconds: some 30 years."""

now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Seconds since a moment that is the same for all processes of this machine."""


def waitable(seconds: float) -> float:
    """*seconds*, but no more than 30 years: a thread cannot wait for an endless time."""
    return min(seconds, LONGEST_WAIT)
