"""Places in a file that processes take and leave, and that the kernel takes back when one dies.

A byte a place says whether it is taken, so that a free one is found by searching the bytes instead
of trying one lock after the other; a lock on that byte is the truth. A byte that says taken, by any
value but 0, while its lock is free was left by a process that died, or by whoever damaged the file.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator

from .sharedfile import SUPPORTED, SharedFile

__all__ = ["SUPPORTED", "Marks"]

_FREE, _TAKEN = b"\0", b"\1"
_MARKED = re.compile(rb"[^\0]")
_NO_MARK = re.compile(rb"[^\0\1]")


class Marks:
    """*n* places, whose bytes are those of *file* from *offset* on.

    Not thread-safe: a process' threads share its locks, so who calls holds a lock of his own.
    """

    def __init__(self, file: SharedFile, offset: int, n: int) -> None:
        self._file = file
        self._offset = offset
        self._n = n
        self._mine: set[int] = set()

    def __contains__(self, place: int) -> bool:
        """Whether this process holds it."""
        return place in self._mine

    def is_marked(self, place: int) -> bool:
        """Whether its byte says taken, by whomsoever."""
        return self._read(place, place + 1) != _FREE

    def count(self) -> int:
        """How many are marked as taken, but for what somebody may have written beyond the last."""
        marks = self._read(0, self._n)
        end = marks.rfind(_TAKEN) + 1  # so that the many free ones are not looked at one by one
        return end - marks.count(_FREE, 0, end)

    def take(self, first: int, end: int, start: int) -> int | None:
        """Take a free place from *first* to before *end*, searching from *start* on; or None.

        There are none beyond the last one, whatever *end* says; the same is true of the others.
        """
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
        """Take this very place, if it is free."""
        if place in self._mine or self.is_marked(place) or not self._lock(place):
            return False
        if self.is_marked(place):  # somebody took it in between, and died
            self._unlock(place)
            return False
        self._write(place, _TAKEN)
        self._mine.add(place)
        return True

    def free(self, place: int) -> None:
        """Leave a place of ours."""
        self._write(place, _FREE)
        self._mine.discard(place)
        self._unlock(place)

    def inherit(self, first: int, end: int) -> Iterator[int]:
        """Take each place whose owner has died; who wants to leave it that way, abandons it."""
        for at in self.marked(first, end):
            if at not in self._mine and self._lock(at):
                if self.is_marked(at):
                    self._mine.add(at)
                    yield at
                else:
                    self._unlock(at)

    def abandon(self, place: int) -> None:
        """Leave a place of ours marked as taken, as a process that dies does."""
        self._mine.discard(place)
        self._unlock(place)

    def marked(self, first: int, end: int) -> Iterator[int]:
        """The places that are marked as taken, living or dead."""
        for found in _MARKED.finditer(self._read(first, end)):
            yield first + found.start()

    def renew(self) -> None:
        """Mark again what we hold, and wipe what is no mark where nobody holds it, should somebody
        else have written there."""
        for place in self._mine:
            if self._read(place, place + 1) != _TAKEN:
                self._write(place, _TAKEN)
        marks = self._read(0, self._n)
        if not marks.translate(None, _FREE + _TAKEN):
            return
        for found in _NO_MARK.finditer(marks):
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
