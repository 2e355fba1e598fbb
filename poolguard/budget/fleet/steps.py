"""What a host of a fleet may do next, one step at a time, and by what figures it decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from ..sharing import Owed

__all__ = ["Ask", "Calm", "Claim", "Figures", "Give", "Look", "Peek", "Prove", "Step"]


class Figures(NamedTuple):
    """What the host's own processes have and need, in slots; the control session's left out."""

    budget: int
    """The fleet's, by this host's settings; 0 while no process knows it."""
    workers: int
    """Processes that live and will not end."""
    floors: int
    granted: int
    used: int
    free: int
    """Granted, and used by none."""
    need: int
    """What its processes starve for, beyond what is free."""
    draining: bool = False
    """All of its processes will end."""
    beyond: int = 0
    """Free slots whose numbers are beyond the budget, which has shrunk."""


class Give(NamedTuple):
    """Give back *n* free slots."""

    n: int


class Claim(NamedTuple):
    """Claim up to *n* slots with numbers below *end*."""

    n: int
    end: int
    urgent: bool
    """This host is below its fair share: those that are not leave the slots alone meanwhile."""
    moves: bool = False
    """The first one is for the control session itself, which leaves its own."""
    sure: int = 0
    """So many are claimed even if fewer than *left* remain."""
    left: int = 0
    """So many that are free are left to hosts that are about to come."""


class Prove(NamedTuple):
    """See whether these slots, which have rested, are this host's alone, and unoccupied."""

    slots: tuple[int, ...]


class Calm(NamedTuple):
    """Nothing is urgent any more."""


class Ask(NamedTuple):
    """Ask other hosts, by their control sessions, for so many slots."""

    orders: Mapping[int, Owed]


class Peek(NamedTuple):
    """See whether another host needs what is its by right, and how many hosts there are. That is
    one row, however large the fleet is."""

    end: int
    """The numbers of hosts are counted that are below it."""


class Look(NamedTuple):
    """Write this host's line on the board, and read the others'."""


Step: TypeAlias = Give | Claim | Prove | Calm | Ask | Peek | Look
