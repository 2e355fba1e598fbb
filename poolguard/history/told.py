"""What the processes of a host know in common of their talk with the table, in the ring's file.

The kernel lock says whose turn it is, and ends with its process. The figures are the host's: where
they are damaged, minutes are told again, or a few creations are not counted.
"""

from __future__ import annotations

import fcntl
import struct
from typing import NamedTuple

from ..budget.host.sharedfile import SharedFile

__all__ = ["SIZE", "State", "Told"]

_STATE = struct.Struct("=7I")
SIZE = _STATE.size + 1


class State(NamedTuple):
    """Minutes, but for the last two; 0 where there was none yet."""

    counted: int = 0
    """What was created up to here was told, or may have been: it is told once. What other hosts
    say is recorded up to here; the minutes after it are this host's alone."""
    told: int = 0
    """The table has taken what this host was asked for up to here."""
    next: int = 0
    """Nothing is told before."""
    known: int = 0
    """What decisions look at until here was read."""
    said: int = 0
    """When it was last said that it fails, ..."""
    said_of: int = 0
    """... and why, as a checksum of what was said."""
    late: int = 0
    """So many seconds after the full minute a turn of this host begins: hosts that were started
    together are not to write together."""


class Told:
    """The state, *at* a place of the ring's *file*."""

    def __init__(self, file: SharedFile, at: int) -> None:
        self._file = file
        self._at = at

    def __repr__(self) -> str:
        return f"<Told {self.read()}>"

    def read(self) -> State:
        return State(*_STATE.unpack(self._file.read(self._at, _STATE.size)))

    def write(self, state: State) -> None:
        self._file.write(self._at, _STATE.pack(*state))

    def begin(self) -> bool:
        """Take the turn; False where another process of the host has it."""
        return self._file.lock(fcntl.F_WRLCK, self._at + _STATE.size)

    def end(self) -> None:
        """The turn is over."""
        self._file.lock(fcntl.F_UNLCK, self._at + _STATE.size)
