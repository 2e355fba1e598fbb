"""Slots, the rights to one connection each, and the server's sessions for which they are held."""

from __future__ import annotations

from typing import NamedTuple

from .terms import Scope

__all__ = ["CONNECTING", "POOLED", "Backend", "Orphan", "Seat", "Slot"]


class Backend(NamedTuple):
    """What identifies a session at the server. A pid alone does not, since it is given out again.

    PostgreSQL manual, ``pg_stat_activity``: ``pid`` and ``backend_start``.
    """

    pid: int
    started: float
    """Its ``backend_start`` in seconds since the epoch, by the server's clock; 0 where unknown."""


CONNECTING = Backend(0, 0.0)
"""Stands for a session that is not known yet."""
POOLED = Backend(-1, 0.0)
"""Stands for a session with a pooler, which notices by itself that its client has died."""


class Seat(NamedTuple):
    """An advisory lock by which a session shows other hosts that a slot is occupied."""

    kind: int
    """The first of the lock's two numbers: that of the fleet."""
    slot: int


class Slot:
    """The right to hold one physical connection."""

    __slots__ = ("backend", "number", "predecessor")

    def __init__(self, number: int) -> None:
        self.number = number
        self.backend: Backend | None = None
        """The session for which it is held; None until there is one."""
        self.predecessor: Backend | None = None
        """A dead owner's session that may still exist: the slot was taken over to ask about it."""

    def __repr__(self) -> str:
        return f"<Slot {self.number}>"


class Orphan(NamedTuple):
    """A slot whose owner died. It stays taken until its backend is known to be gone."""

    number: int
    backend: Backend
    overdue: bool = False
    """The backend has had the time to notice that its client is gone, and may be ended."""
    scope: Scope = Scope()
