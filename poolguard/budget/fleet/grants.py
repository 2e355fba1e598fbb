"""The slots of the fleet as a host's processes take them: only those that the host was granted."""

from __future__ import annotations

import re

from ..host.locktable import LockTable
from ..host.sharedfile import SharedFile
from .file import FleetFile

__all__ = ["GrantedSlots"]


class GrantedSlots(LockTable):
    """A table of all slots of the fleet. A place can be taken while its slot is granted.

    :param fleet: says which ones are.
    """

    def __init__(self, file: SharedFile, offset: int, n: int, fleet: FleetFile) -> None:
        super().__init__(file, offset, n)
        self._fleet = fleet

    @property
    def size(self) -> int:
        """How many places there are."""
        return self._n

    def take_this(self, place: int) -> bool:
        # The keeper withholds a slot with its lock held: so what is granted now stays so.
        if not super().take_this(place):
            return False
        if self._fleet.tags(place, place + 1) == self._fleet.tag():
            return True
        self.free(place)
        return False

    def _search(self, first: int, end: int) -> int | None:
        tag, marks, at = self._fleet.tag(), self._read(first, end), -1
        tags = self._fleet.tags(first, end)
        while (at := tags.find(tag, at + 1)) >= 0:
            if not marks[at] and self.take_this(first + at):
                return first + at
        return None

    # -- the keeper's --------------------------------------------------------------------------

    def grant(self, place: int) -> None:
        """Have a process of this host take it from now on."""
        self._fleet.write_tag(place, self._fleet.tag())

    def withhold(self, place: int) -> bool:
        """Have no process take it any more; False where one has it now."""
        if not super().take_this(place):
            return False
        self._fleet.write_tag(place, b"\0")
        self.free(place)
        return True

    def granted(self) -> set[int]:
        """The slots that are granted, taken or free."""
        tag, tags = re.escape(self._fleet.tag()), self._fleet.tags(0, self._n)
        return {found.start() for found in re.finditer(tag, tags)}

    def stock(self) -> int:
        """How many there are: those that are granted, and those that are taken all the same, since
        what granted them was lost."""
        tags, tag = self._fleet.tags(0, self._n), self._fleet.tag()
        lost = sum(tags[place : place + 1] != tag for place in self.taken(0, self._n))
        return tags.count(tag) + lost
