"""When a pool's server is to be asked again what it grants.

The guard's callback that asks stands on the pool itself: what refers to it refers to the pool.
"""

from __future__ import annotations

import math

__all__ = ["Inquiry"]

EVERY = 1.0
"""Seconds between two questions, at least."""
VOICELESS = 2.0
"""Seconds for which the server may not be asked what it is to be, for want of a connection."""


class Inquiry:
    """The time of one pool's next question. Times by the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.wanted = False
        """There is a guard that asks."""
        self.at = math.inf
        """When the server is to be asked."""
        self._asked_at = -math.inf

    def by(self, at: float) -> None:
        """Have the server asked then, if not before."""
        self.at = min(self.at, at)

    def soon(self, now: float) -> None:
        """Have the server asked soon, but not again and again."""
        if self.wanted:
            self.by(max(now, self._asked_at + EVERY))

    def answered(self, now: float, again: float | None) -> None:
        """It was asked, and is to be asked *again* after so many seconds; None: given a reason."""
        self._asked_at, self.at = now, math.inf if again is None else now + again

    def is_voiceless(self, now: float) -> bool:
        """Whether there was none to ask with for so long that what is known is too old to go by."""
        return now >= self.at + VOICELESS

    def next_look(self, now: float) -> float | None:
        """When the server is to be asked, or is found to have become voiceless."""
        return next((at for at in (self.at, self.at + VOICELESS) if now < at < math.inf), None)
