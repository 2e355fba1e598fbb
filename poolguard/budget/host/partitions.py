"""Processes that are to share a ledger and do not, since they do not use the same file.

The file may be deleted or replaced while processes use it, and processes that start later then
begin another one. Or it is out of reach for some processes, each of which then counts alone. The
processes that use one file are a *partition*, and so is each that counts alone. The budget is
divided by the number of partitions.

Each process has a lock that says to which partition it belongs, and by how many it divides the
budget. It is a read lock on a byte of the folder itself, where no cleaner reaches it, or of the
root folder where there is no folder of ours.

A process first publishes by how many partitions it divides, and then looks at what the others say.
So of two that do this at the same time at least one sees the other, and takes nothing until the
other has made room.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import monotonic
from weakref import WeakSet

from ...errors import RuntimeDirError
from ...util.rundir import RuntimeDir, default_path
from .sharedfile import find_lock, set_lock

__all__ = ["Partitions", "Undivided"]

MOST_PARTITIONS = 1023
PATIENCE = 10.0
"""Seconds after which one connection is opened though others have not made room. Some of them may
be stopped, or hang, and every living process is guaranteed one."""
NOTICED = 1.5
"""Seconds within which the users of a folder notice that it is gone, or cannot be trusted."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEYS = 1 << 22
"""Partitions of one name that can be told apart."""
_ALONE = 1 << 21
"""Keys below are of files, and those from here on of processes that count alone."""
_BYTES = _KEYS * (MOST_PARTITIONS + 1)
"""Bytes for the locks of one name: of each partition, one for each number that it may divide by."""


class Partitions:
    """The partitions of the ledger *name*, whose folder belongs at *path*, as a process sees them.

    :param file: the inode of the file that this process uses; None: it counts alone.
    :param least: by how many partitions the budget is divided at least.

    Not thread-safe: the ledger's lock must be held.
    """

    def __init__(
        self, path: Path | None, name: str, file: int | None = None, *, least: int = 1
    ) -> None:
        if path is None:
            with suppress(RuntimeDirError):
                path = default_path()
        self._path = path
        self._name = name
        self._key = (
            random.SystemRandom().randrange(_ALONE) | _ALONE if file is None else file % _ALONE
        )
        self.least = least
        self._began = monotonic()
        self.count = least
        """By how many partitions the budget is divided now."""
        self._divides_by = MOST_PARTITIONS
        """By how many this process says that it divides: by fewer than there are, while its own
        partition holds too much for that."""
        self._crowded_since: float | None = None
        """Since when another partition has not made room; None while all have."""
        self._fd = -1
        self._home = True
        """The locks are in the folder itself, and not in the root folder."""
        self._where = (0, 0)
        """The device and the inode of the folder with the locks."""
        self._base = 0
        """Where in that folder the bytes of this name begin."""
        with suppress(OSError):  # no descriptor is left: it sees no other, and is not seen
            self._enter()
        _open.add(self)

    def look(self, fits: Callable[[int], bool]) -> None:
        """Find how many partitions there are, and whether all others have made room for that.

        :param fits: whether this process' own partition holds no more than one of so many may.
        """
        self._follow()
        while True:
            others = self._others()
            self.count = min(MOST_PARTITIONS, max(self.least, 1 + len(others)))
            divides_by = self.count if fits(self.count) else min(self._divides_by, self.count)
            if divides_by == self._divides_by:
                break
            self._publish(divides_by)
        if all(divides_by > len(others) for divides_by in others.values()):
            self._crowded_since = None
        elif self._crowded_since is None:
            self._crowded_since = monotonic()

    def allows(self, *, holds: bool) -> int:
        """How many slots more this process may take, as far as the other partitions matter: 0 while
        one of them has not made room."""
        now = monotonic()
        if not self._home and now - self._began < NOTICED:
            return 0
        if self._crowded_since is None:
            return MOST_PARTITIONS
        return int(not holds and now - self._crowded_since > PATIENCE)

    def close(self) -> None:
        """Leave: the locks of this process end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- the locks -----------------------------------------------------------------------------

    def _others(self) -> dict[int, int]:
        """The other partitions, each with the least number by which a process of it divides."""
        found: dict[int, int] = {}
        for at in self._locked():
            partition, divides_by = divmod(at - self._base, MOST_PARTITIONS + 1)
            if partition != self._key:
                found[partition] = min(divides_by, found.get(partition, MOST_PARTITIONS))
        return found

    def _locked(self) -> Iterator[int]:
        ranges = [(self._base, self._base + _BYTES)]
        while ranges:
            first, end = ranges.pop()
            at = None
            with suppress(OSError):  # some file systems know no such locks
                at = find_lock(self._fd, first, end - first) if first < end else None
            if at is not None:
                yield at
                ranges += [(first, at), (at + 1, end)]

    def _publish(self, divides_by: int) -> None:
        before, self._divides_by = self._divides_by, divides_by
        with suppress(OSError):
            set_lock(self._fd, fcntl.F_RDLCK, self._at(divides_by))
            if divides_by != before:
                set_lock(self._fd, fcntl.F_UNLCK, self._at(before))

    def _at(self, divides_by: int) -> int:
        return self._base + self._key * (MOST_PARTITIONS + 1) + divides_by

    # -- the folder with the locks -------------------------------------------------------------

    def _enter(self) -> None:
        before = self._fd
        self._fd, self._home = _domain(self._path)
        found = os.fstat(self._fd)
        self._where = found.st_dev, found.st_ino
        whose = self._name if self._home else f"{os.geteuid()}\0{self._path}\0{self._name}"
        digest = sha256(whose.encode(errors="surrogateescape")).digest()
        self._base = (int.from_bytes(digest[:4], "big") >> 1) * _BYTES
        self._publish(self._divides_by)
        if before >= 0:
            os.close(before)

    def _follow(self) -> None:
        """Move the lock to the folder in which processes that start now look."""
        if self._path is None:
            return
        with suppress(RuntimeDirError):
            if not os.path.lexists(self._path):  # such a process would make it: be first
                RuntimeDir(self._path).close()
        where = None
        with suppress(OSError):
            found = os.stat(self._path, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                where = found.st_dev, found.st_ino
        if where != (self._where if self._home else None):
            with suppress(OSError):  # no descriptor is left: next time
                self._enter()


class Undivided(Partitions):
    """The one partition of a ledger whose slots others count."""

    def __init__(self) -> None:
        self.count = 1

    def look(self, fits: Callable[[int], bool]) -> None:
        fits(1)

    def allows(self, *, holds: bool) -> int:  # noqa: ARG002 - as many as there are
        return MOST_PARTITIONS

    def close(self) -> None: ...


def _domain(path: Path | None) -> tuple[int, bool]:
    """A descriptor of the folder in which the locks are, and whether it is our own."""
    if path is not None:
        with suppress(OSError):
            fd = os.open(path, _FOLDER)
            if os.fstat(fd).st_uid == os.geteuid():
                return fd, True
            os.close(fd)
    return os.open("/", _FOLDER), False


_open: WeakSet[Partitions] = WeakSet()


def _after_fork_in_child() -> None:
    for partitions in list(_open):
        partitions.close()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
