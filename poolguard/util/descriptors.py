"""Room in a process' table of open files, made before requests need it.

The table has 64 places at first, and doubles when they are used up. In a process of several threads
Linux waits for a grace period of RCU each time (``expand_fdtable()`` in ``fs/file.c``), and with it
the thread that was accepting a request, or connecting: in an event loop, all of them.
``python -m benchmarks burst`` had 6 to 19 ms of that at the 64th descriptor.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from contextlib import suppress

__all__ = ["make_room"]

PLACES = 1024
"""So many take 8 KiB of the kernel's memory."""


def make_room() -> None:
    """Have the table of this process grow now to what a worker may need, if its limit allows that.

    It never shrinks; a child that is forked has one of its own, as large as its open files need.
    """
    if sys.platform != "linux":
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = (PLACES if soft == resource.RLIM_INFINITY else min(PLACES, soft)) - 1
    with suppress(OSError):  # no descriptor is left, which others will say
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(lowest, fcntl.F_DUPFD_CLOEXEC, last))
        finally:
            os.close(lowest)
