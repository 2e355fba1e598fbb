"""What a transition of the core begins from, and what it leaves to do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, TypeAlias

from ..budget.slots import Orphan
from .events import CloseReason
from .evidence import Asked
from .waiter import Waiter

__all__ = ["Ask", "Close", "Condition", "Fate", "Misplaced", "Reset"]

Condition = Literal["clean", "open", "unfit", "closed", "lost"]
"""How a connection comes back: fit to be lent; to be reset first; in the midst of something that no
reset ends; closed on this side; lost, since the server or the way to it has ended it."""


class Misplaced(Exception):
    """An entry is not in the state from which a transition begins.

    The connection has been returned twice, or by code to which it is not lent.
    """


class Close(NamedTuple):
    """Close the connection: its entry is ``closing`` already."""

    reason: CloseReason | None
    """None: the server has ended it."""
    worn: bool = False
    """It is only old, or of before a drain."""


class Reset(NamedTuple):
    """Bring the session back to where it began, or close it: its entry is ``lent`` still."""


class Ask(NamedTuple):
    """Ask the server, over the connection, about these: its entry is ``checking``."""

    orphans: Collection[Orphan] = ()
    question: tuple[Asked, ...] = ()


Fate: TypeAlias = "Waiter | Close | Reset | Ask | None"
"""What becomes of a connection that comes in: it is lent to a waiter, to be woken; None: idle."""
