"""What tests of real servers and processes wait with, and how they see who is alive."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from poolguard.lab.processes import processes

if TYPE_CHECKING:
    from poolguard.lab.pgbouncer import PgBouncer

StartPgBouncer: TypeAlias = "Callable[..., PgBouncer]"
"""Starts one in the pool mode that is given first; keywords are settings of its own."""


def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until ``condition()`` is true; fail when it is not after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        time.sleep(0.01)


def becomes(value: Callable[[], object], wanted: object, within: float = 10.0) -> None:
    """Wait until ``value()`` is what is *wanted*; fail with what it is after *within* seconds."""
    deadline = time.monotonic() + within
    while (seen := value()) != wanted:
        assert time.monotonic() < deadline, f"{seen!r} after {within:g} s, and not {wanted!r}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """A zombie is not alive, whoever ought to reap it."""
    row = processes().get(pid)
    return row is not None and not row.zombie


HOSTILE = "\x1b]0;t\x07\x1b[2J\x9b31m\u202e\x7f\r\n[2030-01-01] [CRITICAL] forged"
"""Escapes of a terminal, a turn of the writing's direction, and another line, within 63 bytes."""


def obeyed(text: str) -> list[str]:
    """The characters in *text* that a terminal would obey and not show, but for its line ends."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [char for char in text if unicodedata.category(char) in kinds and char not in "\n\t"]
