"""What an acquire and a return can come to, and who waits for a connection."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Literal, NamedTuple, TypeAlias

from ..budget.slots import Orphan
from .events import CloseReason

__all__ = ["Ask", "Close", "Condition", "Counts", "Fate", "Misplaced", "Reset", "Waiter"]

Condition = Literal["clean", "open", "unfit", "closed", "lost"]
"""How a connection comes back: fit to be lent; to be reset first; not to be had out of what it is
in; closed on this side; lost, since the server or the way to it has ended it."""


class Misplaced(Exception):
    """An entry is not where a transition begins. The connection has been returned twice, or by one
    who does not have it."""


class Waiter:
    """An acquire that has found no connection at once. Each shell has its own way to wake one.

    :param began: when it began.
    :param until: when its time is over.
    """

    __slots__ = (
        "_pause",
        "_woken",
        "began",
        "conn",
        "counted",
        "error",
        "free",
        "queued_at",
        "taken",
        "until",
    )

    def __init__(self, began: float, until: float) -> None:
        self.began = began
        self.until = until
        self.queued_at = began
        self.conn: Any = None
        """The connection that it was given, lent to it already."""
        self.error: Exception | None = None
        """Why it will be given none."""
        self.free = False
        """What it was given lay in the pool, if only to be checked, and none was refused before."""
        self.counted = 0
        """How often it has been counted as a request."""
        self.taken = 0
        """Free connections that it has taken."""
        self._pause: float | None = None
        self._woken: Any = None

    def __repr__(self) -> str:
        state = "refused" if self.error else "served" if self.conn is not None else "waiting"
        return f"<{type(self).__name__} {state}>"

    def wake(self) -> None:
        """Let it see that it was served, or refused. Waking twice does no harm."""
        raise NotImplementedError

    def pause(self, now: float, *, at_once: bool) -> float:
        """Seconds to pause *now*, as the ``check`` callback has refused a connection. They grow as
        psycopg_pool's do, from none after the first: what refuses new connections is hardly going
        to change soon."""
        if at_once:
            return 0.0
        if self._pause is None:
            self._pause = 0.0
        else:
            self._pause = 2 * self._pause or random.uniform(0.9, 1.1)
        return max(0.0, min(self._pause, self.until - now))


class Close(NamedTuple):
    """Close the connection: its entry is ``closing`` already."""

    reason: CloseReason | None
    """None: the server has ended it."""
    worn: bool = False
    """It is only old, or of before a drain."""


class Reset(NamedTuple):
    """Bring the session back to where it began, or judge it: its entry is ``lent`` still."""


class Ask(NamedTuple):
    """Ask the server, over the connection, about these: its entry is ``checking``."""

    orphans: Collection[Orphan]


Fate: TypeAlias = "Waiter | Close | Reset | Ask | None"
"""What becomes of a connection that comes in. A waiter: it is lent to that one, to be woken. None:
it is idle."""


class Counts(NamedTuple):
    """How many connections are where, at one moment."""

    idle: int = 0
    lent: int = 0
    """Those that somebody has, or that are being made fit for others again."""
    checking: int = 0
    opening: int = 0
    waiting: int = 0
    min_size: int = 0
    max_size: int = 0

    @property
    def size(self) -> int:
        """All of the pool: not those that are being closed."""
        return self.idle + self.lent + self.checking + self.opening
