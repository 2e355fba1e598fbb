"""The leaks of a pool: connections held for too long, never returned, or taken one upon another.

A pool that runs empty is mostly one whose connections do not come back. What is noted here says
which request took them, and where. Nothing here blocks, and the pool's lock may be held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import cast

from ..util.clock import now as clock
from ..util.logs import logger
from ..util.rarely import is_said
from .acquirer import Acquirer
from .entry import Entry
from .events import Leak, LeakKind, Returned
from .owners import Taker, by_thread

__all__ = ["Checkout", "Leaks", "log_leak"]

DEEPEST = 40
"""Frames of a stack that are kept."""

_OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


class Checkout:
    """One connection that is lent."""

    __slots__ = ("_leaks", "acquirer", "since", "stack", "taker", "told")

    def __init__(
        self,
        leaks: Leaks,
        since: float,
        acquirer: Acquirer | None,
        stack: tuple[str, ...],
        taker: Taker = None,
    ) -> None:
        self._leaks = leaks
        self.since = since
        self.acquirer = acquirer
        self.stack = stack
        """Where it was taken."""
        self.taker = taker
        self.told = False
        """It has been reported as held for too long."""

    def __repr__(self) -> str:
        by = "nobody known" if self.acquirer is None else self.acquirer.label
        return f"<Checkout of {self._leaks.pool!r} by {by}>"

    def unreturned(self) -> None:
        self._leaks.unreturned(self)

    def waits_with(self, leaks: Leaks, asker: Taker) -> bool:
        """Whether it is a connection of that pool that stays lent until *asker* is served.

        What another task or thread of the same request has, that one returns in its own time. But
        one that has ended without returning it has left it to the request.
        """
        if self._leaks is not leaks:
            return False
        taker = None if self.taker is None else self.taker()
        if taker is None or (isinstance(taker, asyncio.Task) and taker.done()):
            return True
        return asker is not None and asker() is taker


class Leaks:
    """The connections of one pool that are lent, as far as they are watched.

    :param leak_after: seconds after which one is reported; 0: none is.
    :param note: takes what is to be told, also while a lock is held.
    :param tell: tells what was noted.
    :param returned: told of each connection that comes back; None: there is no need.
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
        self.taker: Callable[[], Taker] = by_thread
        """Says which thread or task acquires at the moment."""
        self._lock = threading.Lock()
        self._watched: dict[Checkout, None] = {}
        """Those that may be held for too long, the oldest first."""
        self._counts: dict[LeakKind, int] = {}

    def disown(self) -> None:
        """In a forked child: a lock that was held at the fork is held for ever."""
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[LeakKind, int]:
        """How often each kind was noticed."""
        with self._lock:
            return dict(self._counts)

    def asked(self, acquirer: Acquirer) -> None:
        """A request acquires: report it where the same thread or task has a connection already."""
        asker = self.taker()
        for checkout in [*acquirer.checkouts]:
            if isinstance(checkout, Checkout) and checkout.waits_with(self, asker):
                times = self._count("nested")
                stack = here() if is_said(times) else ()
                self._report("nested", checkout, clock(), stack, times)
                self._tell()
                return

    def lent(self, entry: Entry, acquirer: Acquirer | None) -> None:
        """The entry's connection has been lent, to *acquirer* if that is known."""
        if acquirer is not None and acquirer.over:
            acquirer = None
        taker = None if acquirer is None else self.taker()
        stack = here() if self.leak_after else ()
        checkout = entry.checkout = Checkout(self, entry.lent_at, acquirer, stack, taker)
        if acquirer is not None:
            acquirer.checkouts[checkout] = None
        if self.leak_after:
            with self._lock:
                self._watched[checkout] = None

    def returned(self, entry: Entry) -> None:
        """The entry's connection comes back."""
        checkout = self._drop(entry)
        if checkout is None:
            return
        if self._returned is not None:
            self._returned(Returned(self.pool, checkout.since, clock()))
        if checkout.told:
            self._report("returned", checkout, clock(), checkout.stack)
            self._tell()

    def unowned(
        self, lent: Iterable[Entry], now: float, patience: float
    ) -> tuple[list[Entry], bool]:
        """Report which of the *lent* ones will not be returned, and whether others may follow soon.

        Nothing refers to such a connection any more; or its owner has ended, *patience* seconds ago
        at least, and no request has it.
        """
        found: list[Entry] = []
        others_end = False
        for entry in lent:
            if entry.conn is None:
                self._lost("collected", entry)
                found.append(entry)
                continue
            others_end |= entry.ended
            if entry.owner is None or entry.owner() is not None or self._has_acquirer(entry):
                entry.unowned_at = None
            elif entry.unowned_at is None or entry.unowned_at < entry.lent_at:
                entry.unowned_at = now
            elif now >= entry.unowned_at + patience:
                self._lost("abandoned", entry)
                found.append(entry)
        return found, others_end

    def _has_acquirer(self, entry: Entry) -> bool:
        """Whether a request that has not ended has the entry's connection."""
        checkout = cast("Checkout | None", entry.checkout)
        return checkout is not None and not (checkout.acquirer is None or checkout.acquirer.over)

    def unreturned(self, checkout: Checkout) -> None:
        """The request that has it has ended."""
        self._report("unreturned", checkout, clock(), checkout.stack)
        self._tell()

    def overdue(self, now: float) -> float | None:
        """Report those that are held for too long; returns when to look again."""
        if not self.leak_after:
            return None
        with self._lock:
            waiting = [checkout for checkout in self._watched if not checkout.told]
        for checkout in waiting:
            if checkout.since + self.leak_after > now:
                return checkout.since + self.leak_after
            checkout.told = True
            self._report("overdue", checkout, now, checkout.stack)
        # None that is lent from now on is due before that.
        return now + self.leak_after

    def _lost(self, kind: LeakKind, entry: Entry) -> None:
        checkout = self._drop(entry) or Checkout(self, entry.lent_at, None, ())
        self._report(kind, checkout, clock(), checkout.stack)

    def _drop(self, entry: Entry) -> Checkout | None:
        checkout, entry.checkout = cast("Checkout | None", entry.checkout), None
        if checkout is not None:
            if checkout.acquirer is not None:
                checkout.acquirer.checkouts.pop(checkout, None)
            if self.leak_after:
                with self._lock:
                    self._watched.pop(checkout, None)
        return checkout

    def _report(
        self,
        kind: LeakKind,
        checkout: Checkout,
        now: float,
        stack: tuple[str, ...],
        times: int | None = None,
    ) -> None:
        by = None if checkout.acquirer is None else checkout.acquirer.label
        times = times or self._count(kind)
        self._note(Leak(self.pool, kind, now - checkout.since, by, stack, times))

    def _count(self, kind: LeakKind) -> int:
        with self._lock:
            times = self._counts[kind] = self._counts.get(kind, 0) + 1
        return times


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
    "abandoned": "a thread has ended without returning the connection of pool {pool!r} that {by} "
    "took {held:.1f} s ago: it is closed, and another may be opened in its place. Use it in a with "
    "block, or return it in a finally",
}


def log_leak(leak: Leak) -> None:
    """Log it; what may happen with every request is logged the 1st, 2nd, 4th, 8th … time."""
    often = leak.kind in ("nested", "unreturned", "collected", "abandoned")
    if often and not is_said(leak.times):
        return
    text = _SAID[leak.kind].format(by=leak.acquirer or "somebody", pool=leak.pool, held=leak.held)
    if often and leak.times > 1:
        text += f" (the {leak.times}th time)" if leak.times > 2 else " (the 2nd time)"
    if leak.stack:
        text += ". It was taken here:" if leak.kind != "nested" else ". It acquires here:"
        text += "".join(f"\n  {place}" for place in leak.stack)
    elif leak.kind in ("unreturned", "collected", "abandoned"):
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
