"""Who has the connections of a pool: those held for too long, never returned, or piled up.

A pool that runs empty is mostly one whose connections do not come back. What is noted here says who
took them. Nothing here blocks, and the pool's lock may be held.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

import psycopg_pool

from ..borrower import Borrower
from ..clock import now as clock
from ..listener import Leak, LeakKind, Returned
from ..logs import logger
from ..rarely import is_said
from .seat import Seat

__all__ = ["Hold", "Holds", "log_leak"]


DEEPEST = 40
"""Frames of a stack that are kept."""

_OURS = tuple(
    os.path.join(os.path.dirname(os.path.abspath(file)), "")
    for file in (__file__, psycopg_pool.__file__)
)


class Hold:
    """One connection in somebody's hands."""

    __slots__ = ("_holds", "borrower", "since", "stack", "told")

    def __init__(
        self, holds: Holds, since: float, borrower: Borrower | None, stack: tuple[str, ...]
    ) -> None:
        self._holds = holds
        self.since = since
        self.borrower = borrower
        self.stack = stack
        self.told = False
        """It has been reported as held for too long."""

    def __repr__(self) -> str:
        by = "nobody known" if self.borrower is None else self.borrower.label
        return f"<Hold of {self._holds.pool!r} by {by}>"

    def unreturned(self) -> None:
        self._holds.unreturned(self)

    def of(self, holds: Holds) -> bool:
        """Whether it is a connection of that pool."""
        return self._holds is holds


class Holds:
    """The connections of one pool that are lent, as far as they are watched.

    :param leak_after: seconds after which one is reported; 0: none is.
    :param note: takes what is to be told, also while a lock is held.
    :param tell: tells what was noted.
    :param returned: told of each connection that comes back; None: nobody wants to know.
    """

    def __init__(
        self,
        leak_after: float,
        note: Callable[[Leak], None],
        tell: Callable[[], None],
        returned: Callable[[Returned], None] | None = None,
    ) -> None:
        self.pool = ""
        self.all = leak_after > 0 or returned is not None
        """Each connection that is lent is to be noted, not only those lent to a known request."""
        self.leak_after = leak_after
        self._note = note
        self._tell = tell
        self._returned = returned
        self._lock = threading.Lock()
        self._watched: dict[Hold, None] = {}
        """Those that may be held for too long, the oldest first."""
        self._counts: dict[LeakKind, int] = {}

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[LeakKind, int]:
        """How often what was noticed."""
        with self._lock:
            return dict(self._counts)

    # -- a connection's way --------------------------------------------------------------------

    def asked(self, borrower: Borrower) -> None:
        """A request acquires; it may have a connection of this pool already."""
        for loan in [*borrower.loans]:
            if isinstance(loan, Hold) and loan.of(self):
                times = self._count("nested")
                stack = here() if is_said(times) else ()
                self._report("nested", loan, clock(), stack, times)
                self._tell()
                return

    def lent(self, seat: Seat, borrower: Borrower | None) -> None:
        """The seat's connection has been given to *borrower*, or to somebody of whom nothing is
        known."""
        if borrower is not None and borrower.over:
            borrower = None
        hold = seat.hold = Hold(self, clock(), borrower, here() if self.leak_after else ())
        if borrower is not None:
            borrower.loans[hold] = None
        if self.leak_after:
            with self._lock:
                self._watched[hold] = None

    def returned(self, seat: Seat) -> None:
        """The seat's connection comes back."""
        hold = self._drop(seat)
        if hold is None:
            return
        if self._returned is not None:
            self._returned(Returned(self.pool, hold.since, clock()))
        if hold.told:
            self._report("returned", hold, clock(), hold.stack)
            self._tell()

    def collected(self, seat: Seat) -> None:
        """The seat's connection will never come back: nobody refers to it any more."""
        hold = self._drop(seat) or Hold(self, seat.connected_at, None, ())
        self._report("collected", hold, clock(), hold.stack)

    def unreturned(self, hold: Hold) -> None:
        """The request that has it has ended."""
        self._report("unreturned", hold, clock(), hold.stack)
        self._tell()

    def overdue(self, now: float) -> float | None:
        """Report those that are held for too long; returns when to look again."""
        if not self.leak_after:
            return None
        with self._lock:
            waiting = [hold for hold in self._watched if not hold.told]
        for hold in waiting:
            if hold.since + self.leak_after > now:
                return hold.since + self.leak_after
            hold.told = True
            self._report("overdue", hold, now, hold.stack)
        # None that is lent from now on will be due before.
        return now + self.leak_after

    def _drop(self, seat: Seat) -> Hold | None:
        hold, seat.hold = seat.hold, None
        if hold is not None:
            if hold.borrower is not None:
                hold.borrower.loans.pop(hold, None)
            if self.leak_after:
                with self._lock:
                    self._watched.pop(hold, None)
        return hold

    def _report(
        self,
        kind: LeakKind,
        hold: Hold,
        now: float,
        stack: tuple[str, ...],
        times: int | None = None,
    ) -> None:
        by = None if hold.borrower is None else hold.borrower.label
        times = times or self._count(kind)
        self._note(Leak(self.pool, kind, now - hold.since, by, stack, times))

    def _count(self, kind: LeakKind) -> int:
        with self._lock:
            times = self._counts[kind] = self._counts.get(kind, 0) + 1
        return times


# -- words -------------------------------------------------------------------------------------

_SAID: dict[LeakKind, str] = {
    "overdue": "{by} has held a connection of pool {pool!r} for {held:.1f} s, which is longer than "
    "leak_after allows",
    "returned": "{by} has returned the connection of pool {pool!r} that was held for too long, "
    "after {held:.1f} s",
    "unreturned": "{by} has ended without returning a connection of pool {pool!r}, which was taken "
    "{held:.1f} s ago. Use it in a with block, or return it in a finally",
    "nested": "{by} acquires a connection of pool {pool!r} while it holds one since {held:.1f} s. "
    "As many such requests at once as the pool has connections wait for each other until they time "
    "out: acquire once in a request, and pass the connection on",
    "collected": "{by} has never returned a connection of pool {pool!r}: nothing "
    "refers to it any more, and another may be opened in its place. Use it in a with block, or "
    "return it in a finally",
}


def log_leak(leak: Leak) -> None:
    """Say it; what may happen with every request is said at the 1st, 2nd, 4th, 8th … time."""
    often = leak.kind in ("nested", "unreturned", "collected")
    if often and not is_said(leak.times):
        return
    text = _SAID[leak.kind].format(by=leak.borrower or "somebody", pool=leak.pool, held=leak.held)
    if often and leak.times > 1:
        text += f" (the {leak.times}th time)" if leak.times > 2 else " (the 2nd time)"
    if leak.stack:
        text += ". It was taken here:" if leak.kind != "nested" else ". It acquires here:"
        text += "".join(f"\n  {place}" for place in leak.stack)
    elif leak.kind in ("unreturned", "collected"):
        text += ". Set leak_after to be told where it was taken"
    logger.warning("poolguard: %s", text)


def here() -> tuple[str, ...]:
    """Where the code stands that is using a pool, the innermost call first."""
    places: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(places) < DEEPEST:
        code = frame.f_code
        if not code.co_filename.startswith(_OURS) and code.co_filename != contextlib.__file__:
            places.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(places)
