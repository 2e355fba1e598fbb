"""One pool's leases from its ledger: the slots that it holds, lacks and owes.

Nothing here decides about connections, or blocks, and the pool's lock may be held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from ..budget.ledger import TEND_EVERY, Ledger
from ..budget.sharing import Owed
from ..budget.slots import Backend, Orphan, Slot
from ..budget.static import StaticLedger
from .entry import Entry

__all__ = ["Leases"]

ASK_EVERY = 0.1
"""Seconds between two questions about the slots of processes that have died."""
ASK_CALMLY = 1.0
"""The same while this pool needs none."""


class Leases:
    """The slots of one pool. Times by the monotonic clock.

    :param ledger: grants them; by default there is no bound.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self.ledger: Ledger = ledger or StaticLedger()
        self.returned_owed = 0
        """So many connections are to be closed as they come back."""
        self.starved = False
        """A lease fell short, and more is wanted since: a queue leases step by step, and what one
        step finds does not say that there is enough for the next."""
        self._in_vain = False
        """The last lease fell short, and the ledger has not rung since."""
        self._leased_at = 0.0
        self._asked_at = 0.0
        self._tend_at = 0.0
        self._tend_pause = TEND_EVERY
        self._has_orphans = False
        """Slots were taken at the last look that no living process holds."""
        self._stood = 0
        """How many connections stood, in all processes, when the server had no room for another."""
        self._yielding = 0
        self._leaving = False
        self._unsubscribe: Callable[[], None] | None = None

    def opened(self, ring: Callable[[], None]) -> None:
        """Have *ring* called, from any thread, when a slot may have become free."""

        def changed() -> None:
            self._in_vain = False
            ring()

        self._unsubscribe = self.ledger.on_change(changed)

    def close(self) -> None:
        """The last connection has ended."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.ledger.close()

    def lease(self, n: int, now: float) -> list[Slot]:
        """Take up to *n* slots."""
        # A slot may become free while this one is told that there is none: what the ledger's ring
        # takes back must have been set before.
        self._in_vain = True
        self._leased_at = now
        slots = self.ledger.lease(n)
        if len(slots) < n:
            self.starved = True
        else:
            self._in_vain = False
        return slots

    def starved_until(self, now: float) -> float | None:
        """Set while it is in vain to ask for a slot: until then, unless the ledger rings before.

        For ever, where the ledger tells of every change.
        """
        if not self._in_vain:
            return None
        if self.ledger.recheck is None:
            return math.inf
        again = self._leased_at + self.ledger.recheck
        return again if now < again else None

    def need(self, n: int) -> None:
        """So many connections more are wanted, after what was leased now."""
        if n <= 0:
            self.starved = self._in_vain = False
        self.ledger.siblings.report_starving(max(0, n) if self.starved else 0)

    def refused(self) -> None:
        """The server has no room for a connection: as if its slot had not been free."""
        self.starved = True
        self._stood = self.ledger.usage.established

    @property
    def has_room(self) -> bool:
        """Some of those that stood when the server had no room for another are gone."""
        return self.ledger.usage.established < self._stood

    def sure_of(self, floor: int) -> int:
        """How much of a floor this pool is sure of now: no more is kept warm."""
        return self.ledger.siblings.guaranteed(floor) if floor else 0

    def owed(self) -> Owed:
        """What is to be given up for the siblings, less what is being closed already."""
        owed = self.ledger.siblings.owed()
        return Owed(max(0, owed.idle - self._yielding), max(0, owed.returned - self._yielding))

    def beyond(self, entries: Iterable[Entry]) -> list[Entry]:
        """Of these *entries* those whose slots are to be given back: the budget has shrunk."""
        end = self.ledger.end
        if end is None:
            return []
        return [each for each in entries if each.slot is not None and each.slot.number >= end]

    def yields(self) -> None:
        """A connection is being closed for the siblings' sake."""
        self._yielding += 1

    def leave(self) -> None:
        """This process will end: its floor may go to others."""
        if not self._leaving:
            self._leaving = True
            self.ledger.siblings.drain()

    def record_backend(self, entry: Entry, backend: Backend) -> None:
        """Say which session the entry's slot is held for."""
        if entry.slot is not None:
            self.ledger.record_backend(entry.slot, backend)

    def vacate(self, entry: Entry, *, certainly: bool = True) -> None:
        """Give the entry's slot back; unless the server has *certainly* ended its side, the slot is
        left to be asked about, like that of a process that has died. Where the network has ended
        the connection, it has been silent for long, or says that it knows of none."""
        slot, entry.slot = entry.slot, None
        if entry.reason == "yielded":
            self._yielding = max(0, self._yielding - 1)
        if slot is None:
            return
        if certainly and not entry.broken:
            self.ledger.release(slot)
        else:
            self.ledger.abandon(slot, overdue=entry.broken)

    def tend(
        self, now: float, say: Callable[[int, str], None], *, at_rest: bool = False
    ) -> float | None:
        """Look after the ledger if that is due, and *say* what is to be logged; when again.

        :param at_rest: the pool is asked for nothing.
        """
        if self.ledger.recheck is None:
            return None

        def longest() -> float:
            is_calm = at_rest and not self.asks
            return self.ledger.siblings.left_alone if is_calm else TEND_EVERY

        self._tend_at = min(self._tend_at, now + longest())
        if now >= self._tend_at:
            self._has_orphans = self.ledger.maintain(say)
            self._tend_pause = min(2 * self._tend_pause, longest())
            self._tend_at = now + self._tend_pause
        return self._tend_at

    @property
    def asks(self) -> bool:
        """There are slots of processes that have died, or they would matter if there were."""
        return self._has_orphans or self._in_need

    @property
    def _in_need(self) -> bool:
        return self.starved or self.ledger.orphans.has_taken_over

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
        """The *orphans* were asked about, and the backends of those in *gone* are gone."""
        if orphans:
            self.ledger.orphans.resolve(orphans, gone)
