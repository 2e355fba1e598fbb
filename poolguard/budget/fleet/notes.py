"""What one host of a fleet tells all others at once, by ``NOTIFY``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...settings import MOST_SLOTS
from ..sharing import Owed

__all__ = ["Note"]


class Note(NamedTuple):
    """One notification."""

    word: str
    """``hello``, ``bye``, ``freed`` or ``ask``."""
    sender: int
    """Its control session's pid."""
    orders: Mapping[int, Owed] = {}
    """What is asked of whom, by their control sessions."""

    @property
    def text(self) -> str:
        """As it is sent."""
        orders = ",".join(f"{pid}:{it.idle}/{it.returned}" for pid, it in self.orders.items())
        return f"{self.word} {self.sender} {orders}".rstrip()

    @classmethod
    def parsed(cls, text: str) -> Note | None:
        """The note that was sent as *text*; None where that is none: anybody may notify."""
        try:
            word, sender, *rest = text.split()
            orders: dict[int, Owed] = {}
            for each in rest[0].split(",") if rest else ():
                pid, wanted = each.split(":")
                idle, returned = wanted.split("/")
                orders[int(pid)] = Owed(
                    *(min(MOST_SLOTS, max(0, int(n))) for n in (idle, returned))
                )
            return cls(word, int(sender), orders)
        except ValueError:
            return None
