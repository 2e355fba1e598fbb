"""One pool's leases from its ledger: what it leases, lacks and owes, and what it asks for others.

It decides nothing about connections; the keeper draws on it when it looks at the pool. Nothing here
blocks, and the pool's lock may be held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from ..budget.ledger import Ledger
from ..budget.sharing import Owed
from ..budget.slots import Backend, Orphan, Slot
from ..budget.static import StaticLedger
from .entry import Entry

__all__ = ["Leases"]

ASK_EVERY = 0.1
"""Seconds between two questions about slots of the dead."""
ASK_CALMLY = 1.0
"""The same while nobody here needs one."""
TEND_EVERY = 0.5
"""Seconds between two looks at a ledger that is shared: of the dead nobody tells."""


class Leases:
    """The slots of one pool. Times by the monotonic clock.

    :param ledger: who grants them; by default there is no bound.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self.ledger: Ledger = ledger or StaticLedger()
        self.returned_owed = 0
        """So many connections are to be closed as they come back."""
        self._hungry = False
        """A lease fell short, and more is wanted since: a queue leases step by step, and what one
        step finds does not say that there is enough for the next."""
        self._starved = False
        """The last lease fell short, and nothing has been heard since."""
        self._leased_at = 0.0
        self._asked_at = 0.0
        self._tend_at = 0.0
        self._bereaved = False
        """Slots were taken at the last look that nobody who lives holds."""
        self._stood = 0
        """How many connections all had when the server had no room for one more."""
        self._yielding = 0
        self._leaving = False
        self._unsubscribe: Callable[[], None] | None = None

    def opened(self, ring: Callable[[], None]) -> None:
        """Have *ring* called, from any thread, when a slot may have become free."""

        def changed() -> None:
            self._starved = False
            ring()

        self._unsubscribe = self.ledger.on_change(changed)

    def close(self) -> None:
        """The last connection has ended."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.ledger.close()

    # -- needing -------------------------------------------------------------------------------

    def lease(self, n: int, now: float) -> list[Slot]:
        """Take up to *n* slots."""
        # A slot may become free while this one is told that there is none: what the ledger's ring
        # takes back must have been set before.
        self._starved = True
        self._leased_at = now
        slots = self.ledger.lease(n)
        if len(slots) < n:
            self._hungry = True
        else:
            self._starved = False
        return slots

    def starved_until(self, now: float) -> float | None:
        """Set while it is in vain to ask for a slot: until then, unless the ledger rings before.

        For ever, where the ledger tells of every change.
        """
        if not self._starved:
            return None
        if self.ledger.recheck is None:
            return math.inf
        again = self._leased_at + self.ledger.recheck
        return again if now < again else None

    def need(self, n: int) -> None:
        """So many connections more are wanted, after what was leased now."""
        if n <= 0:
            self._hungry = self._starved = False
        self.ledger.siblings.report_starving(max(0, n) if self._hungry else 0)

    def refused(self) -> None:
        """The server has no room for a connection whose slot was free: that is as if it were not,
        and siblings may help."""
        self._hungry = True
        self._stood = self.ledger.usage.established

    @property
    def has_room(self) -> bool:
        """Some that stood when the server had no room for one more are gone."""
        return self.ledger.usage.established < self._stood

    def sure_of(self, floor: int) -> int:
        """How much of a floor this pool is sure of now: no more is kept warm."""
        return self.ledger.siblings.guaranteed(floor) if floor else 0

    def fails(self, lasts: bool) -> None:
        """Whether connecting fails: nobody keeps a floor for whoever cannot connect."""
        self.ledger.siblings.report_failing(lasts)

    @property
    def starved(self) -> bool:
        """For errors: a slot is what is missing."""
        return self._hungry

    # -- owing ---------------------------------------------------------------------------------

    def owed(self) -> Owed:
        """What is to be given up for the siblings, less what is on its way already."""
        owed = self.ledger.siblings.owed()
        return Owed(max(0, owed.idle - self._yielding), max(0, owed.returned - self._yielding))

    def yields(self) -> None:
        """A connection is being closed for the siblings' sake."""
        self._yielding += 1

    def leave(self) -> None:
        """This process will end: its floor may go to others."""
        if not self._leaving:
            self._leaving = True
            self.ledger.siblings.drain()

    # -- entries -------------------------------------------------------------------------------

    def record_backend(self, entry: Entry, backend: Backend) -> None:
        """Say which session the entry's slot is held for."""
        if entry.slot is not None:
            self.ledger.record_backend(entry.slot, backend)

    def vacate(self, entry: Entry, *, certainly: bool = True) -> None:
        """Give the entry's slot back. Where it is not certain that the server has ended its side,
        the slot is left to be asked about, as a dead owner's."""
        slot, entry.slot = entry.slot, None
        if entry.reason == "yielded":
            self._yielding = max(0, self._yielding - 1)
        if slot is None:
            return
        if certainly:
            self.ledger.release(slot)
        else:
            self.ledger.abandon(slot)

    # -- asking --------------------------------------------------------------------------------

    def tend(self, now: float, say: Callable[[int, str], None]) -> float | None:
        """Look after the ledger, if it is time; when it is again, None for never. *say* takes what
        is to be logged."""
        if self.ledger.recheck is None:
            return None
        if now >= self._tend_at:
            self._tend_at = now + TEND_EVERY
            self._bereaved = self.ledger.maintain(say)
        return self._tend_at

    @property
    def asks(self) -> bool:
        """There are slots of the dead, or they matter if there are."""
        return self._bereaved or self._in_need

    @property
    def _in_need(self) -> bool:
        return self._hungry or self.ledger.orphans.has_taken_over

    def orphans(self, now: float, *, fresh: bool = False) -> list[Orphan]:
        """The slots that a connection is to ask the server about now; mostly there are none.

        A *fresh* one may be the first that can ask at all: it does not wait for its turn.
        """
        if not self.asks:
            return []
        pause = ASK_EVERY if self._in_need else ASK_CALMLY
        if now - self._asked_at < pause and not fresh:
            return []
        self._asked_at = now
        return self.ledger.orphans.claim()

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        """These were asked about, and of these the backends are gone."""
        if orphans:
            self.ledger.orphans.resolve(orphans, gone)
