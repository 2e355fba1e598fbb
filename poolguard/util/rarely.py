"""Says rarely what happens often: once, when it changes, every so often, or at each doubling."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from .logs import logger

__all__ = ["Failures", "Once", "Paced", "WhileItLasts", "is_said"]


def is_said(times: int) -> bool:
    """Whether what has happened *times* times is to be logged now: at the 1st, 2nd, 4th, 8th …"""
    return not times & (times - 1)


class Failures:
    """Failures of code that is not ours, and that we go on without: logged as :func:`is_said` has
    it. Any thread may call in."""

    def __init__(self) -> None:
        self._times: dict[Hashable, int] = {}

    def log(self, where: Hashable, text: str, *args: object) -> None:
        """Log the exception that is being handled, with its traceback, or only count it.

        :param where: what has failed; each is counted for itself.
        """
        # Threads may lose a count to each other: then one is logged a little later.
        times = self._times[where] = self._times.get(where, 0) + 1
        if is_said(times):
            if times > 1:
                text, args = f"{text} (%d times so far)", (*args, times)
            logger.exception(text, *args)


class Once:
    """What is said once, as long as this object lives."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()

    def is_first(self, what: Hashable) -> bool:
        """Whether *what* is to be said now, since nobody has asked this of it before."""
        first = what not in self._said
        self._said.add(what)
        return first


class WhileItLasts:
    """What is said when it begins, and again when it is another thing; its end is not said."""

    def __init__(self) -> None:
        self._said: object = None

    def is_news(self, what: object) -> bool:
        """Whether *what* is to be said now. None: it has ended, and is said again the next time."""
        before, self._said = self._said, what
        return what is not None and what != before


class Paced:
    """What is said at most once in so many seconds, with how often it was left out."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._said_at: float | None = None
        self._unsaid = 0

    def left_out(self, now: float) -> int | None:
        """Where it is to be said now, how often it has not been since the last time; else None."""
        with self._lock:
            if self._said_at is not None and now - self._said_at < self._every:
                self._unsaid += 1
                return None
            self._said_at = now
            unsaid, self._unsaid = self._unsaid, 0
            return unsaid
