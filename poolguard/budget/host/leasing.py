"""How one process leases slots and gives them back, within what siblings and limits leave it."""

from __future__ import annotations

import math
from time import monotonic

from ..ledger import RECHECK
from ..quotas import room
from ..sharing import owed_their_share
from ..slots import Backend, Slot
from .access import Access
from .agreement import Agreement
from .file import MOST_SLOTS
from .held import HeldSlots
from .orphans import OVERDUE, HostOrphans
from .view import View

__all__ = ["PATIENCE", "Leasing"]

PATIENCE = 0.5
"""Seconds after which a process does not wait for others any more: for one that has a slot, and
still does not know what the server grants; and for those whose turn it is, where there are fewer
connections than processes."""


class Leasing:
    """The leasing of a host's slots by one process."""

    def __init__(
        self,
        access: Access,
        view: View,
        held: HeldSlots,
        agreement: Agreement,
        orphans: HostOrphans,
    ) -> None:
        self._access = access
        self._lock = access.lock
        self._file = access.file
        self._table = access.file.slots
        self._members = access.members
        self._view = view
        self._held = held
        self._agreement = agreement
        self._orphans = orphans
        self._waits_since = math.inf
        """Since when slots are free that are left to others, whose turn it is."""
        self._sought_at = 0.0
        """When an orphan was last looked for that could be taken over."""

    def lease(self, n: int) -> list[Slot]:
        """Implements :meth:`.Ledger.lease`."""
        held = self._held
        with self._lock:
            self._access.insist_open()
            if self._members.changed:
                self._view.look(within=0)
            n = min(n, self._agreement.allows(holds=len(held) > 0))
            leased = self._take(n)
            if len(leased) < n and self._view.look():  # some may have died
                leased += self._take(n - len(leased))
            supply, now = self._access.supply, monotonic()
            asks_itself = supply is None or not supply.asks
            if not held and asks_itself and now - self._sought_at >= RECHECK:
                self._sought_at = now
                leased += self._orphans.take_over()
                self._members.tell(held=len(held))
            return leased

    def record_backend(self, slot: Slot, backend: Backend) -> None:
        """Implements :meth:`.Ledger.record_backend`."""
        with self._lock:
            slot.backend = backend
            if not self._access.closed:
                self._held.record_backend(slot)

    def release(self, slot: Slot) -> None:
        """Implements :meth:`.Ledger.release`."""
        with self._lock:
            if self._access.closed or slot.number not in self._held:
                return
            if slot.predecessor is not None:
                self._abandon(slot, since=monotonic())
                return
            self._held.free(slot)
            self._members.tell(held=len(self._held))
            self._members.ring(self._members.starving())
        self._access.callbacks.call()

    def abandon(self, slot: Slot, *, overdue: bool = False) -> None:
        """Implements :meth:`.Ledger.abandon`."""
        with self._lock:
            if not self._access.closed and slot.number in self._held:
                self._abandon(slot, since=monotonic() - OVERDUE * overdue)

    # -- with the lock held --------------------------------------------------------------------

    def _abandon(self, slot: Slot, since: float) -> None:
        if slot.predecessor is not None:
            self._orphans.give_back(slot)
        else:
            self._held.abandon(slot, since)
        self._members.tell(held=len(self._held))

    def _take(self, n: int) -> list[Slot]:
        """Up to *n* slots that were free, and to which no other process has a right."""
        held = self._held
        if self._members.me.terms is None:
            n = min(n, 1 - len(held))
        before = self._table.count()
        n = min(n, self._room(before))
        if n <= 0:
            return []
        taken = held.take(n, self._end() if self._access.supply is None else MOST_SLOTS)
        self._members.tell(held=len(held))
        after = self._table.count()
        if after != before + len(taken) or len(self._view.constraints) > 1:
            # Others have taken some at the same moment, and may have found the same room. At least
            # one of those that are too late for it sees that here. The role and the database of a
            # slot are written a moment after it is taken.
            too_many = max(0, -self._room(after))
            for slot in taken[:too_many]:
                held.free(slot)
            taken = taken[too_many:]
            self._members.tell(held=len(held))
        return taken

    def _room(self, in_use: int) -> int:
        """How many slots more this process may take while *in_use* are taken; below 0, how many it
        has too many."""
        view = self._view
        moves = view.is_scarce or any(view.owed_to_hosts())
        constraints = view.constraints_now() if moves else view.constraints
        if not constraints:
            return self._end() - in_use
        starving = view.starving_siblings()
        held_by = self._file.all_held(self._members.end)
        held, least = len(self._held), MOST_SLOTS
        for each in constraints:
            taken = in_use if each.scope is None else view.count_taken(each.scope)
            urgent = owed_their_share(each.others, starving) if starving else 0
            if not each.mine.guaranteed and self._waits_in_vain(each.limit > taken and urgent > 0):
                urgent = 0
            free = room(each, held, taken=taken, held_by=held_by, urgent=urgent)
            least = min(least, free)
        return least

    def _waits_in_vain(self, for_others: bool) -> bool:
        """Whether the processes whose turn it is leave free slots alone for too long. They may
        hang."""
        now = monotonic()
        self._waits_since = min(self._waits_since, now) if for_others else math.inf
        return now - self._waits_since > PATIENCE

    def _end(self) -> int:
        """Slots are taken whose numbers are below this one."""
        if self._view.quotas:
            return self._view.quotas[0].limit
        # No process knows any terms. As many may ask the server as there are workers. One that
        # hangs, or cannot ask, does not count.
        now = monotonic()
        late = sum(
            now - self._file.slot(number).since > PATIENCE
            for number in self._table.taken(0, MOST_SLOTS)
        )
        return self._agreement.workers + late
