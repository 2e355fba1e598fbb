"""The request for which a connection is acquired, as far as a pool needs to know of it.

The doors make one for each request. A pool notes on it what was lent to it, so that what is never
returned is reported with the request that took it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["CURRENT", "Acquirer", "Checkout"]


class Checkout(Protocol):
    """One connection that is lent."""

    def unreturned(self) -> None:
        """Its acquirer has ended without returning it."""


class Acquirer:
    """One request. Several threads or tasks of it may acquire at once."""

    __slots__ = ("checkouts", "over", "retry_after")

    def __init__(self) -> None:
        self.checkouts: dict[Checkout, None] = {}
        """What it has at the moment, the oldest first."""
        self.retry_after = 0
        """Seconds after which to try again, as an acquire has timed out or was rejected; else 0."""
        self.over = False
        """It has ended; a task that it left behind may go on acquiring."""

    @property
    def label(self) -> str:
        """What to call it in a log: one line, without control characters."""
        raise NotImplementedError

    def acquired(self) -> None:
        """A connection was free for it, of which no listener is told."""

    def began(self, span: object) -> None:
        """A server span has begun within it, where spans are recorded."""

    def lasts(self, source: object) -> bool:  # noqa: ARG002
        """Whether what enters a door now, from *source*, is this very request once more."""
        return False

    def ended(self) -> None:
        """The request is over: what it still has is reported. Only the first call counts."""
        if not self.over:
            self.over = True
            self.report()

    def report(self) -> None:
        """Have what it still has reported."""
        for checkout in [*self.checkouts]:
            checkout.unreturned()


CURRENT: ContextVar[Acquirer | None] = ContextVar("poolguard_acquirer", default=None)
"""The request that this context serves."""
