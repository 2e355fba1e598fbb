"""Where a host's slots come from, where it shares a budget with other hosts."""

from __future__ import annotations

from typing import Protocol

from ..sharing import Owed
from .locktable import LockTable
from .sharedfile import SharedFile

__all__ = ["Supply"]


class Supply(Protocol):
    """The slots that a host was granted, of those of a fleet."""

    @property
    def asks(self) -> bool:
        """Whoever grants them asks the server about the sessions of dead owners: no process need
        have a connection for that."""

    def slots(self, file: SharedFile, offset: int, n: int, /) -> LockTable:
        """The table in which processes take them."""

    def stock(self) -> int:
        """How many there are at this host now, taken or free."""

    def guaranteed(self) -> int:
        """How many this host can have at any time, whatever other hosts need."""

    def owed(self) -> Owed:
        """How many connections this host is to give up for others."""
