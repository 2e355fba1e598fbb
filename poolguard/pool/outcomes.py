"""What each acquire was: judged by the connection that it was given, counted, and told.

The core counts a free connection as it is taken. Only what went otherwise is counted here, so that
the ordinary acquire costs no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..util.rarely import Failures
from .events import AcquireEnded, Listener, Outcome, Place, hears_acquires

if TYPE_CHECKING:
    from .acquirer import Acquirer
    from .entry import Entry

__all__ = ["OUTCOMES", "Outcomes", "judge", "worst"]

OUTCOMES: tuple[Outcome, ...] = ("acquired", "waited", "created", "timeout", "rejected", "error")
"""From best to worst."""

_failures = Failures()
_RANK = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}


def judge(began: float, connected: float, was_free: bool) -> Outcome:
    """What an acquire that delivered a connection was.

    :param began: when it began, by the monotonic clock.
    :param connected: when the connect of that connection had ended well. It counts whether the
        connection is younger than the acquire, not what the acquire has caused: one that sets a
        connect off, and is served by a connection that comes back, has waited.
    :param was_free: the connection lay in the pool.
    """
    if connected >= began:
        return "created"
    return "acquired" if was_free else "waited"


def worst(a: Outcome, b: Outcome) -> Outcome:
    """The worse of two outcomes: what a request with several acquires is tagged with."""
    return a if _RANK[a] >= _RANK[b] else b


class Outcomes:
    """The outcomes of one pool's acquires. Any thread may call in."""

    def __init__(self, listener: Listener) -> None:
        self.pool = ""
        self._heard = hears_acquires(listener)
        self.heard_immediate = hears_acquires(listener, immediate=True)
        """A listener is told of each acquire."""
        self.noted = self._heard and not self.heard_immediate
        """Of an acquire that finds a connection free, only its request is told."""
        self._listener = listener
        self._mutex = threading.Lock()
        self._counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self._mutex = threading.Lock()

    @property
    def created(self) -> int:
        """Acquires that were given a connection which was made while they waited."""
        return self._counts["created"]

    def counts(self, taken_free: int) -> dict[Outcome, int]:
        """How many there were of each outcome, *taken_free* having found one free."""
        with self._mutex:
            counts = dict(self._counts)
        counts["acquired"] += taken_free
        return {outcome: n for outcome, n in counts.items() if n}

    def ended(self, began: float, now: float, entry: Entry, *, was_free: bool, taken: int) -> None:
        """An acquire that began at *began* was given the connection of *entry*, which lay in the
        pool or *was_free* otherwise.

        *taken* free ones, which the pool has counted, were taken by it; the last may be this one.
        """
        outcome = judge(began, entry.connected_at, was_free)
        if taken != 1 or outcome != "acquired":
            with self._mutex:  # an increment alone may lose one when threads switch within it
                self._counts[outcome] += 1
                self._counts["acquired"] -= taken
        if self._heard:
            place = entry.connected and entry.connected.place
            self._listener.acquire_ended(
                AcquireEnded(self.pool, outcome, began, now, entry.connected, place)
            )

    def note(self, acquirer: Acquirer) -> None:
        """A request has found a connection free."""
        try:
            acquirer.acquired()
        except Exception:  # noqa: BLE001 - logged; the connection must not be lost for it
            text = "a request could not be told of its acquire; the pool goes on"
            _failures.log(text, text)

    def refused(
        self,
        outcome: Outcome,
        began: float,
        now: float,
        place: Callable[[], Place | None],
        taken: int = 0,
    ) -> None:
        """An acquire got no connection, which would have led to *place*; else as :meth:`ended`."""
        with self._mutex:
            self._counts[outcome] += 1
            self._counts["acquired"] -= taken
        if self._heard:
            self._listener.acquire_ended(
                AcquireEnded(self.pool, outcome, began, now, None, place())
            )
