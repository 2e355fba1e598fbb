"""How long an acquire pauses between connections that the ``check`` callback refuses."""

from __future__ import annotations

import random
from time import monotonic

from psycopg_pool import PoolTimeout

from ..clock import now as clock

__all__ = ["Pause"]


class Pause:
    """One acquire's pauses. They grow as psycopg_pool's do, from none after the first: what refuses
    new connections is hardly going to change soon.

    :param deadline: when the acquire's time is over, by psycopg_pool's own clock.
    """

    def __init__(self, deadline: float) -> None:
        self.since = clock()
        """When the acquire began to ask the callback."""
        self._deadline = deadline
        self._seconds: float | None = None
        self.needed = False
        """A connection was refused."""

    def next(self, *, at_once: bool) -> float:
        """Seconds to pause now; raises ``PoolTimeout`` when the acquire's time is over."""
        self.needed = True
        left = self._deadline - monotonic()
        if left <= 0:
            raise PoolTimeout
        if at_once:
            return 0.0
        if self._seconds is None:
            self._seconds = 0.0
        else:
            self._seconds = 2 * self._seconds or random.uniform(0.9, 1.1)
        return min(self._seconds, left)
