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
    """Logs failures of code that is not ours, after which poolguard goes on.

    Each is logged as often as :func:`is_said` says. Any thread may call in.
    """

    def __init__(self) -> None:
        self._times: dict[Hashable, int] = {}

    def log(self, where: Hashable, text: str, *args: object) -> None:
        """Log the exception that is being handled, with its traceback, or only count it.

        :param where: what has failed; each such thing has a count of its own.
        """
        # Two threads may count as one; then a failure is logged a little later.
        times = self._times[where] = self._times.get(where, 0) + 1
        if is_said(times):
            if times > 1:
                text, args = f"{text} (%d times so far)", (*args, times)
            logger.exception(text, *args)


class Once:
    """Tells what has not been said yet, so that it is said once in this object's life."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()

    def is_first(self, what: Hashable) -> bool:
        """Whether *what* is to be said now, since this was not asked of it before."""
        first = what not in self._said
        self._said.add(what)
        return first


class WhileItLasts:
    """Tells when a lasting state is to be said: when it begins, and when it changes to another.

    Its end is not said.
    """

    def __init__(self) -> None:
        self._said: object = None

    def is_news(self, what: object) -> bool:
        """Whether *what* is to be said now. None says that it has ended: the next is news again."""
        before, self._said = self._said, what
        return what is not None and what != before


class Paced:
    """Tells when something is to be said that is said at most once in *every* seconds."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._said_at: float | None = None
        self._unsaid = 0

    def left_out(self, now: float) -> int | None:
        """How often it was not said since the last time, if it is to be said now; else None."""
        with self._lock:
            if self._said_at is not None and now - self._said_at < self._every:
                self._unsaid += 1
                return None
            self._said_at = now
            unsaid, self._unsaid = self._unsaid, 0
            return unsaid
