"""The slots that one process holds: in its memory, as locks, and as records in the file."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from ..slots import CONNECTING, Backend, Orphan, Slot
from ..terms import Scope
from .access import Access
from .file import SlotRecord

__all__ = ["HeldSlots"]


class HeldSlots:
    """The held slots, by their numbers. Not thread-safe: the ledger's lock must be held.

    Nothing is decided here, and no sibling is told.
    """

    def __init__(self, access: Access) -> None:
        self._file = access.file
        self._table = access.file.slots
        self._scope: Scope = access.scope
        self._slots: dict[int, Slot] = {}
        self._hint = 0
        """Where the next search begins: a slot just freed is likely free still."""

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, number: int) -> bool:
        return number in self._slots

    def __iter__(self) -> Iterator[Slot]:
        """The slots; also while another thread takes or frees some."""
        return iter([*self._slots.values()])

    def get(self, number: int) -> Slot | None:
        """The slot of this number; None where this process does not hold it."""
        return self._slots.get(number)

    def take(self, n: int, end: int) -> list[Slot]:
        """Take up to *n* free slots with numbers below *end*."""
        taken: list[Slot] = []
        for _ in range(n):
            number = self._table.take(0, end, self._hint)
            if number is None:
                break
            self._hint = number
            slot = self._slots[number] = Slot(number)
            self._record(number, CONNECTING)
            taken.append(slot)
        return taken

    def take_over(self, orphan: Orphan) -> Slot:
        """Hold an orphan that this process has claimed, for a connection of its own."""
        slot = self._slots[orphan.number] = Slot(orphan.number)
        slot.predecessor = orphan.backend
        return slot

    def record_backend(self, slot: Slot) -> None:
        """Record the session that the slot is held for; a predecessor's stays recorded."""
        if slot.number in self._slots and slot.predecessor is None:
            record = self._file.slot(slot.number)
            self._file.write_slot(slot.number, record._replace(backend=slot.backend or CONNECTING))

    def succeed(self, slot: Slot) -> None:
        """The predecessor's session is gone: the slot is like any other from now on."""
        slot.predecessor = None
        self._record(slot.number, slot.backend or CONNECTING)

    def free(self, slot: Slot) -> None:
        """Give the slot back as a free one."""
        del self._slots[slot.number]
        self._table.free(slot.number)
        self._hint = slot.number

    def abandon(self, slot: Slot, since: float) -> None:
        """Give the slot back as an orphan. The server is to be asked about its session, or about
        that of its predecessor.

        :param since: when its session has ended here, by the monotonic clock.
        """
        del self._slots[slot.number]
        if slot.predecessor is None:
            self._record(slot.number, slot.backend or CONNECTING, since)
        self._table.abandon(slot.number)

    def restore(self) -> None:
        """Write all records again, should the file be damaged."""
        for number, slot in self._slots.items():
            if slot.predecessor is None:
                self._file.restore_slot(number, slot.backend or CONNECTING, self._scope)

    def _record(self, number: int, backend: Backend, dead_since: float = 0.0) -> None:
        record = SlotRecord(backend, self._scope, monotonic(), dead_since)
        self._file.write_slot(number, record)
