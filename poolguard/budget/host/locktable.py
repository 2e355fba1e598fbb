"""Places in a file that processes take and leave, and that the kernel frees when a process dies.

Each place has a byte that says whether it is taken, so that a free place is found by searching the
bytes instead of trying one lock after the other. The lock on that byte is the truth. A byte that
says taken, by any value but 0, while its lock is free was left by a process that died, or was
damaged.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator

from .sharedfile import SharedFile

__all__ = ["LockTable"]

_FREE, _TAKEN = b"\0", b"\1"
_NOT_FREE = re.compile(rb"[^\0]")
_NONSENSE = re.compile(rb"[^\0\1]")


class LockTable:
    """*n* places, whose bytes are those of *file* from *offset* on.

    No place is beyond the last one, whatever bounds a method is given.

    Not thread-safe: the locks belong to the process, so its threads need a lock of their own.
    """

    def __init__(self, file: SharedFile, offset: int, n: int) -> None:
        self._file = file
        self._offset = offset
        self._n = n
        self._mine: set[int] = set()

    def __contains__(self, place: int) -> bool:
        """Whether this process holds it."""
        return place in self._mine

    def is_taken(self, place: int) -> bool:
        """Whether its byte says that any process has taken it."""
        return self._read(place, place + 1) != _FREE

    def taken(self, first: int, end: int) -> Iterator[int]:
        """The places whose bytes say taken, by processes that live or died."""
        marks = self._read(first, end)
        last = marks.rfind(_TAKEN) + 1  # the many free ones are not looked at one by one
        if marks.count(_FREE, last) != len(marks) - last:
            last = len(marks)  # some beyond are damaged
        for found in _NOT_FREE.finditer(marks, 0, last):
            yield first + found.start()

    def count(self) -> int:
        """How many places are taken, except for damaged bytes beyond the last taken one."""
        marks = self._read(0, self._n)
        end = marks.rfind(_TAKEN) + 1  # so that the many free ones are not looked at one by one
        return end - marks.count(_FREE, 0, end)

    def take(self, first: int, end: int, start: int) -> int | None:
        """Take a free place from *first* to before *end*, searching from *start* on; or None."""
        end = min(end, self._n)
        if not first <= start < end:
            start = first
        return (
            self._search(start, end) if start == first else self._search_around(first, end, start)
        )

    def _search_around(self, first: int, end: int, start: int) -> int | None:
        found = self._search(start, end)
        return self._search(first, start) if found is None else found

    def _search(self, first: int, end: int) -> int | None:
        marks, at = self._read(first, end), 0
        while (at := marks.find(_FREE, at)) >= 0:
            if self.take_this(first + at):
                return first + at
            at += 1
        return None

    def take_this(self, place: int) -> bool:
        """Take this very place; False where it is not free."""
        if place in self._mine or self.is_taken(place) or not self._lock(place):
            return False
        if self.is_taken(place):  # a process took it in between, and died
            self._unlock(place)
            return False
        self._write(place, _TAKEN)
        self._mine.add(place)
        return True

    def free(self, place: int) -> None:
        """Leave a place that this process holds."""
        self._write(place, _FREE)
        self._mine.discard(place)
        self._unlock(place)

    def inherit(self, first: int, end: int) -> Iterator[int]:
        """Take each place whose owner has died. :meth:`abandon` leaves it as it was."""
        for at in self.taken(first, end):
            if at not in self._mine and self._lock(at):
                if self.is_taken(at):
                    self._mine.add(at)
                    yield at
                else:
                    self._unlock(at)

    def abandon(self, place: int) -> None:
        """Leave a place that this process holds as if the process had died: it stays taken."""
        self._mine.discard(place)
        self._unlock(place)

    def restore(self) -> None:
        """Repair the bytes, should they be damaged.

        What this process holds says taken again. Nonsense is cleared where no process holds the
        place.
        """
        for place in self._mine:
            if self._read(place, place + 1) != _TAKEN:
                self._write(place, _TAKEN)
        marks = self._read(0, self._n)
        if not marks.translate(None, _FREE + _TAKEN):
            return
        for found in _NONSENSE.finditer(marks):
            place = found.start()
            if place not in self._mine and self._lock(place):
                self._write(place, _FREE)
                self._unlock(place)

    def _read(self, first: int, end: int) -> bytes:
        return self._file.read(self._offset + first, max(0, min(end, self._n) - first))

    def _write(self, place: int, mark: bytes) -> None:
        self._file.write(self._offset + place, mark)

    def _lock(self, place: int) -> bool:
        return self._file.lock(fcntl.F_WRLCK, self._offset + place)

    def _unlock(self, place: int) -> None:
        self._file.lock(fcntl.F_UNLCK, self._offset + place)
