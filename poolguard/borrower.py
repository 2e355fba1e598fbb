"""Who acquires: the request that a context serves, as far as a pool needs to know of it.

The doors make one for each request; a pool notes on it what was lent to it, so that what is never
returned can be told with the request that took it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["CURRENT", "Borrower", "Loan"]


class Loan(Protocol):
    """One connection that is lent."""

    def unreturned(self) -> None:
        """Its borrower has ended without returning it."""


class Borrower:
    """One request. Several threads or tasks of it may borrow at once."""

    __slots__ = ("loans", "over", "retry_after")

    def __init__(self) -> None:
        self.loans: dict[Loan, None] = {}
        """What it has at the moment, the oldest first."""
        self.retry_after = 0
        """Seconds after which it is worth trying again, once an acquire has timed out or was
        rejected; 0 where none has."""
        self.over = False
        """It has ended; a task that it left behind may go on borrowing."""

    @property
    def label(self) -> str:
        """What to call it in a log: one line, in which nothing is left to be obeyed."""
        raise NotImplementedError

    def acquired(self) -> None:
        """A connection was free for it, and nobody else is told."""

    def lasts(self, source: object) -> bool:  # noqa: ARG002
        """Whether what enters now, from *source*, is this very request, further in."""
        return False

    def ended(self) -> None:
        """The request is over: what it still has is reported. Only the first call counts."""
        if not self.over:
            self.over = True
            self.report()

    def report(self) -> None:
        """Have what it still has reported."""
        for loan in [*self.loans]:
            loan.unreturned()


CURRENT: ContextVar[Borrower | None] = ContextVar("poolguard_borrower", default=None)
"""The request that this context serves."""
