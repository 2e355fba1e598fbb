"""The clock by which everything ages: it never goes back, and runs on while the machine sleeps.

:func:`time.monotonic` stands still while a laptop or a virtual machine is suspended (on Linux,
``clock_gettime(2)``); its connections grow old all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ["LONGEST_WAIT", "now", "waitable"]

LONGEST_WAIT = 1e9

now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Seconds since a moment that is the same for all processes of this machine."""


def waitable(seconds: float) -> float:
    """*seconds*, at most 30 years: a thread cannot wait for a time that is endless."""
    return min(seconds, LONGEST_WAIT)
