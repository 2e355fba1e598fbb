"""The slots of dead owners: which there are, and how they become free.

Nothing in the file needs repair after a death, since every claim is a lock that the kernel frees.
But the server goes on with what a killed client had asked it. So a dead owner's slot stays taken
until the server was asked, and says that the backend is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from time import monotonic

from ..slots import POOLED, Orphan, Slot
from .access import Access
from .file import MOST_SLOTS
from .held import HeldSlots

__all__ = ["OVERDUE", "HostOrphans"]

CONNECTING_GRACE = 2.0
"""Seconds that a slot stays taken whose owner died while it connected, before it knew its backend.

The kernel closes the socket at once. A backend that has no query to run ends when it next reads
from it."""
OVERDUE = 3.0
"""Seconds after which the backend of a dead owner ought to have noticed: three times the
``client_connection_check_interval`` that connections are given.

It is ended where it has not. Where no process has a connection left to do so, one slot of the dead
is taken over for it."""


class HostOrphans:
    """The orphans of a host's ledger, and those that this process is asking about."""

    def __init__(self, access: Access, held: HeldSlots) -> None:
        self._access = access
        self._file = access.file
        self._table = access.file.slots
        self._asker = access.file.asker
        """Whose one place allows one process at a time to take over a slot."""
        self._members = access.members
        self._held = held
        self._asking: set[int] = set()

    def claim(self) -> list[Orphan]:
        """Implements :meth:`.Orphans.claim`."""
        with self._access.lock:
            if self._access.closed:
                return []
            taken_over = [
                Orphan(slot.number, slot.predecessor, overdue=True)
                for slot in self._held
                if slot.predecessor is not None and slot.backend is not None
            ]
            return [*taken_over, *self._inherited()]

    def resolve(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        """Implements :meth:`.Orphans.resolve`."""
        with self._access.lock:
            if self._access.closed:
                return
            known = frozenset(gone)  # they may be thousands, in a file that was damaged
            for orphan in orphans:
                self._resolve(orphan, gone=orphan in known)
            if gone:
                self._members.ring(self._members.starving())
        if gone:
            self._access.callbacks.call()

    @property
    def has_taken_over(self) -> bool:
        """Implements :attr:`.Orphans.has_taken_over`."""
        return any(slot.predecessor is not None for slot in self._held)

    # -- with the lock held --------------------------------------------------------------------

    def sweep(self) -> bool:
        """Free the orphans about which the server need not be asked; whether others are left."""
        if not self._are_left():
            return False
        for orphan in [*self._inherited()]:
            self._leave(orphan)
        return self._are_left()

    def take_over(self) -> list[Slot]:
        """Hold one orphan: for a process that has no connection to ask with, and finds no slot.

        Its backend has had the time to notice that its client is gone. If it has not, there is one
        connection too many until it has. It is never more than one, since one process at a time may
        do this.
        """
        for _ in self._asker.inherit(0, 1):
            self._asker.free(0)
        if not self._asker.take_this(0):
            return []
        chosen: Orphan | None = None
        for orphan in [*self._inherited()]:
            if chosen is None and orphan.overdue:
                self._asking.discard(orphan.number)
                chosen = orphan
            else:
                self._leave(orphan)
        if chosen is None:
            self._asker.free(0)
            return []
        return [self._held.take_over(chosen)]

    def give_back(self, slot: Slot) -> None:
        """Give back a slot that was taken over, and whose first backend may still be there."""
        self._held.abandon(slot, monotonic())
        self._asker.free(0)

    def _are_left(self) -> bool:
        """Whether more slots are taken than the living hold."""
        living = sum(member.held for member in self._members.siblings())
        return self._table.count() > len(self._held) + len(self._asking) + living

    def _inherited(self) -> Iterator[Orphan]:
        """Claim each dead owner's slot whose backend is to be asked about; free what needs no
        question."""
        now = monotonic()
        for number in [*self._table.inherit(0, MOST_SLOTS)]:
            record = self._file.slot(number)
            backend = record.backend
            if not 0 < record.dead_since <= now:  # later than now: the machine was started anew
                record = record._replace(dead_since=now)
                self._file.write_slot(number, record)
            dead_for = now - record.dead_since
            if backend.pid == POOLED.pid or (backend.pid == 0 and dead_for > CONNECTING_GRACE):
                self._table.free(number)
            elif backend.pid == 0:
                self._table.abandon(number)
            else:
                self._asking.add(number)
                yield Orphan(number, backend, dead_for > OVERDUE, record.scope)

    def _leave(self, orphan: Orphan) -> None:
        """Leave a claimed orphan to be claimed again."""
        self._asking.discard(orphan.number)
        self._table.abandon(orphan.number)

    def _resolve(self, orphan: Orphan, *, gone: bool) -> None:
        slot = self._held.get(orphan.number)
        if slot is not None:
            if gone and slot.predecessor == orphan.backend:
                self._held.succeed(slot)
                self._asker.free(0)
        elif orphan.number in self._asking:
            if gone:
                self._asking.discard(orphan.number)
                self._table.free(orphan.number)
            else:
                self._leave(orphan)
