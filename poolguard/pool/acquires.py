"""The acquires of a pool: what each was, counted and told.

A free connection is counted as it is taken, under the lock that the pool holds then anyway; here is
counted what went otherwise, so that the ordinary acquire costs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg_pool

from ..clock import now as clock
from ..listener import AcquireEnded, Listener, Outcome, Place, hears_acquires
from .outcome import OUTCOMES, judge
from .seat import Seat

__all__ = ["Acquires"]


class Acquires:
    """The acquires of one pool. Any thread may call in."""

    def __init__(self, listener: Listener) -> None:
        self.pool = ""
        self._heard = hears_acquires(listener)
        self.heard_immediate = hears_acquires(listener, immediate=True)
        """Each acquire is to be told to somebody."""
        self.noted = self._heard and not self.heard_immediate
        """Of those that find a connection free only the request is told."""
        self._listener = listener
        self._lock = threading.Lock()
        self._counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._taken_in_vain = 0
        """Free connections that were taken, and did not make an acquire one that just acquired."""

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self._lock = threading.Lock()

    def counts(self, taken_free: int) -> dict[Outcome, int]:
        """How many there were of each outcome; *taken_free* of them have found one free."""
        with self._lock:
            counts = dict(self._counts)
            counts["acquired"] += taken_free - self._taken_in_vain
        return {outcome: n for outcome, n in counts.items() if n}

    def ended(self, began: float, seat: Seat) -> None:
        """An acquire that began at *began* was given the connection of *seat*.

        Not called where there is nothing to count or tell: a free connection, and nobody listens to
        those.
        """
        outcome = judge(
            began=began, connected=seat.connected_at, was_free=seat.was_free or seat.vouched
        )
        if not seat.was_free or outcome != "acquired":
            with self._lock:  # an increment alone may lose one when threads switch within it
                self._counts[outcome] += 1
                self._taken_in_vain += seat.was_free
        if self._heard:
            self._listener.acquire_ended(
                AcquireEnded(
                    self.pool,
                    outcome,
                    began,
                    clock(),
                    seat.connected,
                    seat.connected and seat.connected.place,
                )
            )

    def refused(
        self, began: float, error: BaseException, place: Callable[[], Place | None]
    ) -> None:
        """An acquire that began at *began* ended without a connection, which would have led to
        *place*."""
        outcome: Outcome = "error"
        if isinstance(error, psycopg_pool.PoolTimeout):
            outcome = "timeout"
        elif isinstance(error, psycopg_pool.TooManyRequests):
            outcome = "rejected"
        with self._lock:
            self._counts[outcome] += 1
        if self._heard:
            self._listener.acquire_ended(
                AcquireEnded(self.pool, outcome, began, clock(), None, place())
            )

    def spoil(self, seat: Seat) -> None:
        """The connection of *seat* is not one that an acquire has just taken."""
        seat.vouched = False
        if seat.was_free:
            seat.was_free = False
            with self._lock:
                self._taken_in_vain += 1
