"""What a worker's first requests would pay for otherwise, done while it waits for connections."""

from __future__ import annotations

import gc

from ..telemetry.request import prepare

__all__ = ["is_due", "prewarm"]

_done = False


def is_due() -> bool:
    """It has not been done."""
    return not _done


def prewarm() -> None:
    """Import what a request's span needs, and go through the garbage: once in a process.

    The first full collection visits all that was imported, 20 to 30 ms in a small application. It
    is due once a quarter of what lives has come since the last one (docs.python.org/3/library/gc:
    ``set_threshold``), which after a boot is soon: of 25 first requests at once it took a fifth of
    the time, beside connects of 24 ms. Where collection is turned off, nothing is collected.
    """
    global _done  # noqa: PLW0603
    if _done:
        return
    _done = True
    prepare()
    if gc.isenabled():
        gc.collect()
