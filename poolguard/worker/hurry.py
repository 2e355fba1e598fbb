"""Gives the thread that opens the pool its turns while the application is imported."""

from __future__ import annotations

import sys

__all__ = ["hurry", "hurry_no_more"]

BOOT_INTERVAL = 0.0002
"""Seconds after which, during the boot, a thread gives the interpreter's lock to one that waits."""

_usual: float | None = None
"""The switch interval before the boot; None where it was left as it is."""


def hurry() -> None:
    """Let the opening thread have its turns while the main one imports the application.

    It waits for files and for the network, and after each has to ask an importing thread for the
    interpreter's lock, which takes a switch interval: of 5 ms, by default. A connect then began
    after half a second of import.
    """
    global _usual  # noqa: PLW0603
    _usual = sys.getswitchinterval()
    sys.setswitchinterval(BOOT_INTERVAL)


def hurry_no_more() -> None:
    """The boot is over: take turns as usual, unless the application has chosen an interval."""
    if _usual is not None and abs(sys.getswitchinterval() - BOOT_INTERVAL) < 1e-6:
        sys.setswitchinterval(_usual)
