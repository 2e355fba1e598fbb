"""Who else counts in a ledger of the same name, seen without the ledger's file.

The file may be deleted or replaced while processes count in it, and those who come later then begin
another one; or it is out of reach for some, who count alone. Those who count together are a *part*,
and whoever counts alone is one. Each process has a lock that says to which part it belongs, and by
how many parts it divides the budget: a read lock on a byte of the folder itself, where no cleaner
reaches it, or of the root folder where there is no folder of ours.

A process first says what it keeps to and then looks at what the others say. So of two who do this
at the same time one at least sees the other, and takes nothing until that one has made room.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import monotonic
from weakref import WeakSet

from ..errors import RuntimeDirError
from ..util.rundir import RuntimeDir, default_path
from .sharedfile import find_lock, set_lock

__all__ = ["Presence"]

MOST_PARTS = 1023
PATIENCE = 10.0
"""Seconds after which one connection is opened though others have not made room: some of them may
be stopped, or hang, and whoever lives is sure of one."""
NOTICED = 1.5
"""Seconds within which those who use a folder notice that it is not there any more, or went bad."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS_OF_A_NAME = 1 << 22
_ALONE = 1 << 21
_ROOM = _PARTS_OF_A_NAME * (MOST_PARTS + 1)


class Presence:
    """This process among those who count under *name*, whose folder belongs at *path*.

    :param file: the inode of the file in which this process counts; None: it counts alone.
    :param least: by how many parts the budget is divided at least.

    Not thread-safe: who calls holds a lock.
    """

    def __init__(
        self, path: Path | None, name: str, file: int | None = None, *, least: int = 1
    ) -> None:
        if path is None:
            with suppress(RuntimeDirError):
                path = default_path()
        self._path = path
        self._name = name
        self._part = secrets.randbelow(_ALONE) | _ALONE if file is None else file % _ALONE
        self.least = least
        self._began = monotonic()
        self.parts = least
        """By how many parts the budget is divided now."""
        self._keeps = MOST_PARTS
        self._unkept_since: float | None = None
        self._fd = -1
        self._home = True
        self._where = (0, 0)
        self._base = 0
        with suppress(OSError):  # no descriptor is left: it sees nobody, and is seen by nobody
            self._enter()
        _present.add(self)

    def look(self, fits: Callable[[int], bool]) -> None:
        """Find how many parts there are, and whether all others keep to that.

        :param fits: whether what this process' own part holds is no more than one of so many.
        """
        self._follow()
        while True:
            others = self._others()
            self.parts = min(MOST_PARTS, max(self.least, 1 + len(others)))
            keeps = self.parts if fits(self.parts) else min(self._keeps, self.parts)
            if keeps == self._keeps:
                break
            self._stand(keeps)
        if all(keeps > len(others) for keeps in others.values()):
            self._unkept_since = None
        elif self._unkept_since is None:
            self._unkept_since = monotonic()

    def allows(self, *, holds: bool) -> int:
        """How many slots more this process may take, as far as the other parts matter: 0 while one
        of them has not made room."""
        now = monotonic()
        if not self._home and now - self._began < NOTICED:
            return 0
        if self._unkept_since is None:
            return MOST_PARTS
        return int(not holds and now - self._unkept_since > PATIENCE)

    def close(self) -> None:
        """Be no part any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- the locks -----------------------------------------------------------------------------

    def _others(self) -> dict[int, int]:
        """The other parts, each with the fewest parts by which one of its processes divides."""
        found: dict[int, int] = {}
        for at in self._locked():
            part, keeps = divmod(at - self._base, MOST_PARTS + 1)
            if part != self._part:
                found[part] = min(keeps, found.get(part, MOST_PARTS))
        return found

    def _locked(self) -> Iterator[int]:
        ranges = [(self._base, self._base + _ROOM)]
        while ranges:
            first, end = ranges.pop()
            at = None
            with suppress(OSError):  # some file systems know no such locks
                at = find_lock(self._fd, first, end - first) if first < end else None
            if at is not None:
                yield at
                ranges += [(first, at), (at + 1, end)]

    def _stand(self, keeps: int) -> None:
        before, self._keeps = self._keeps, keeps
        with suppress(OSError):
            set_lock(self._fd, fcntl.F_RDLCK, self._at(keeps))
            if keeps != before:
                set_lock(self._fd, fcntl.F_UNLCK, self._at(before))

    def _at(self, keeps: int) -> int:
        return self._base + self._part * (MOST_PARTS + 1) + keeps

    # -- where they are ------------------------------------------------------------------------

    def _enter(self) -> None:
        before = self._fd
        self._fd, self._home = _domain(self._path)
        found = os.fstat(self._fd)
        self._where = found.st_dev, found.st_ino
        whose = self._name if self._home else f"{os.geteuid()}\0{self._path}\0{self._name}"
        digest = sha256(whose.encode(errors="surrogateescape")).digest()
        self._base = (int.from_bytes(digest[:4], "big") >> 1) * _ROOM
        self._stand(self._keeps)
        if before >= 0:
            os.close(before)

    def _follow(self) -> None:
        """Go where those look who come now."""
        if self._path is None:
            return
        with suppress(RuntimeDirError):
            if not os.path.lexists(self._path):  # they would make it: be there before them
                RuntimeDir(self._path).close()
        where = None
        with suppress(OSError):
            found = os.stat(self._path, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                where = found.st_dev, found.st_ino
        if where != (self._where if self._home else None):
            with suppress(OSError):  # no descriptor is left: next time
                self._enter()


def _domain(path: Path | None) -> tuple[int, bool]:
    """A descriptor of the folder in which the locks are, and whether it is our own."""
    if path is not None:
        with suppress(OSError):
            fd = os.open(path, _FOLDER)
            if os.fstat(fd).st_uid == os.geteuid():
                return fd, True
            os.close(fd)
    return os.open("/", _FOLDER), False


_present: WeakSet[Presence] = WeakSet()


def _after_fork_in_child() -> None:
    for presence in list(_present):
        presence.close()
    _present.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
