"""Places in a file that processes take and leave, and that the kernel takes back when one dies.

A byte a place says whether it is taken, so that a free one is found by searching the map instead
of trying one lock after the other; an open-file-description lock on that byte is the truth. A byte
that says taken while its lock is free was left by a process that died.

OFD locks (Linux 3.15, ``fcntl(2)``) belong to the open file: unlike POSIX record locks they are not
lost when the process closes another descriptor of the same file, and they end when the last copy
of their own descriptor is closed, at the latest with the process.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
from collections.abc import Iterator

__all__ = ["SUPPORTED", "Marks"]

SUPPORTED = hasattr(fcntl, "F_OFD_SETLK")

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_FREE, _TAKEN = b"\0", b"\1"


class Marks:
    """*n* places, their bytes at *offset* of the file that *fd* has open and *mapped* shows.

    Not thread-safe: a process' threads share its locks, so who calls holds a lock of his own.
    """

    def __init__(self, fd: int, mapped: mmap.mmap, offset: int, n: int) -> None:
        self._fd = fd
        self._map = mapped
        self._offset = offset
        self._n = n
        self._mine: set[int] = set()

    def __contains__(self, place: int) -> bool:
        """Whether this process holds it."""
        return place in self._mine

    def is_marked(self, place: int) -> bool:
        """Whether its byte says taken, by whomsoever."""
        return self._map[self._offset + place] != 0

    def count(self) -> int:
        """How many are marked as taken."""
        return self._map[self._offset : self._offset + self._n].count(_TAKEN)

    def count_free(self, first: int, end: int) -> int:
        """How many from *first* to before *end* are not."""
        end = max(first, min(end, self._n))
        return self._map[self._offset + first : self._offset + end].count(_FREE)

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
        at = first
        while (found := self._map.find(_FREE, self._offset + at, self._offset + end)) >= 0:
            at = found - self._offset
            if self.take_this(at):
                return at
            at += 1
        return None

    def take_this(self, place: int) -> bool:
        """Take this very place, if it is free."""
        if place in self._mine or self.is_marked(place) or not self._lock(place):
            return False
        if self.is_marked(place):  # somebody took it in between, and died
            self._unlock(place)
            return False
        self._map[self._offset + place] = 1
        self._mine.add(place)
        return True

    def free(self, place: int) -> None:
        """Leave a place of ours."""
        self._map[self._offset + place] = 0
        self._mine.discard(place)
        self._unlock(place)

    def inherit(self, first: int, end: int) -> Iterator[int]:
        """Take each place whose owner has died; who wants to leave it that way, abandons it."""
        at, end = first, min(end, self._n)
        while (found := self._map.find(_TAKEN, self._offset + at, self._offset + end)) >= 0:
            at = found - self._offset
            if at not in self._mine and self._lock(at):
                if self.is_marked(at):
                    self._mine.add(at)
                    yield at
                else:
                    self._unlock(at)
            at += 1

    def abandon(self, place: int) -> None:
        """Leave a place of ours marked as taken, as a process that dies does."""
        self._mine.discard(place)
        self._unlock(place)

    def marked(self, first: int, end: int) -> Iterator[int]:
        """The places that are marked as taken, living or dead."""
        at, end = first, min(end, self._n)
        while (found := self._map.find(_TAKEN, self._offset + at, self._offset + end)) >= 0:
            at = found - self._offset
            yield at
            at += 1

    def _lock(self, place: int) -> bool:
        return self._set(fcntl.F_WRLCK, place)

    def _unlock(self, place: int) -> None:
        self._set(fcntl.F_UNLCK, place)

    def _set(self, kind: int, place: int) -> bool:
        wish = _FLOCK.pack(kind, 0, self._offset + place, 1, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, wish)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody else has it
            return False
        return True
