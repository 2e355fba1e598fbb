"""An acquire that waits for a connection."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["Waiter"]


class Waiter:
    """An acquire that waits for a connection. Each kind of pool wakes it in its own way."""

    __slots__ = (
        *("_pause", "_woken", "began", "conn", "counted", "error", "free", "queued_at"),
        *("taken", "until"),
    )

    def __init__(self, began: float, until: float) -> None:
        self.began = began
        self.until = until
        """When its time is over."""
        self.queued_at = 0.0
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
        """Seconds to pause *now*, as the ``check`` callback has refused a connection.

        They grow as psycopg_pool's do, from none after the first: what refuses new connections is
        hardly going to change soon.
        """
        if at_once:
            return 0.0
        if self._pause is None:
            self._pause = 0.0
        else:
            self._pause = 2 * self._pause or random.uniform(0.9, 1.1)
        return max(0.0, min(self._pause, self.until - now))
