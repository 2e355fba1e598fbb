"""Records what one process of a guard is asked for, and says what it will likely need by that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .expected import Expected, decide, decide_again, local_offset
from .ring import KEPT_ROWS, Ring
from .telling import MINUTE, Seen, Telling

__all__ = ["Recorder"]

UNBOUNDED = 1 << 16
"""More than any pool may have, which bounds by itself what is said here."""


class Recorder:
    """One process' part in the history of its guard.

    :param ring: the file, which it closes in the end.
    :param wall: the clock by which traffic comes and goes, in seconds since 1970.
    """

    def __init__(self, ring: Ring, wall: Callable[[], float] = time.time) -> None:
        self.expected = Expected(0, "floor")
        """What is expected to be needed, beyond the floor or not."""
        self._ring = ring
        self._wall = wall
        self._telling = Telling()
        self._decided = self._decide_at = 0
        """The minute in which that was decided, and from which on it is to be decided again."""
        # Reentrant: what a signal's handler closes may be in use below it.
        self._mutex = threading.RLock()
        """Held while the file is used: a pool that ends may be looked at meanwhile."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<Recorder {self._ring.guard!r} {self.expected}>"

    def record(self, seconds: float, seen: Seen, floor: int) -> int:
        """Record what was *seen* in the last *seconds*; how many connections to keep warm now."""
        with self._mutex:
            if self._closed:
                return 0
            now = self._wall()
            rows, over = self._telling.note(now - seconds, now, seen)
            for row in rows:
                while over and over[0] <= row.minute - KEPT_ROWS:
                    self._ring.settle(over.pop(0))  # of this one nothing is left afterwards
                self._ring.tell(row)
            for minute in over:
                self._ring.settle(minute)
            if now // MINUTE >= self._decide_at:
                self._decide(int(now // MINUTE), floor, seen.lent)
            return self.expected.level

    @contextmanager
    def using(self) -> Iterator[Ring | None]:
        """The ring for a block in which nothing is waited for; None once it is closed."""
        with self._mutex:
            yield None if self._closed else self._ring

    def decide_anew(self) -> None:
        """More is known of the past: decide when something is recorded next."""
        self._decide_at = 0

    def close(self) -> None:
        """Record no more."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._ring.close()

    def _decide(self, minute: int, floor: int, lent: int) -> None:
        self.expected = decide(
            minute,
            self._ring,
            floor=floor,
            most=UNBOUNDED,
            level=self.expected.level,
            decided=self._decided,
            offset=local_offset,
        )
        self._decided, self._decide_at = minute, decide_again(minute, lent)
