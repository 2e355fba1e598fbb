"""What lies where in the file that a host's processes share, and how it is opened. No decisions."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from time import sleep

from ..errors import RuntimeDirError
from ..rundir import RuntimeDir
from ..settings import MOST_SLOTS
from .ledger import POOLED, Backend, Terms
from .marks import Marks
from .sharedfile import SharedFile, set_lock
from .sharing import Member

__all__ = ["MOST_PROCESSES", "MOST_SLOTS", "HostFile"]

logger = logging.getLogger("poolguard")

MAGIC = b"poolguard ledger, layout 2\n"
_HEAD = struct.Struct("28sI")  # and the file's own inode: a copy tells of what others hold
MOST_PROCESSES = 1024
YEAR_3000 = 32503680000.0
"""In seconds since the epoch."""

_MEMBERS = _HEAD.size
_STARVING = _MEMBERS + MOST_PROCESSES
_PLACES = _STARVING + MOST_PROCESSES
_ASKER = _PLACES + MOST_PROCESSES
_SLOTS = _ASKER + 1
_MEMBER = struct.Struct("=8i")  # pid, capacity, instance, workers, floor, held, starving, draining
_MEMBER_RECORDS = -(-(_SLOTS + MOST_SLOTS) // 8) * 8
_SLOT = struct.Struct("=i4xdd")  # backend's pid, its start, since when its owner is known dead
_SLOT_RECORDS = _MEMBER_RECORDS + MOST_PROCESSES * _MEMBER.size
_PAST = struct.Struct("=i4xd")  # what one that was told to end held then, and when that was
_PAST_RECORD = _SLOT_RECORDS + MOST_SLOTS * _SLOT.size
_SIZE = _PAST_RECORD + _PAST.size


class HostFile:
    """The file *name* of *folder*, made where it is missing, and anew where it is no ledger of this
    layout and nobody uses it.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where it cannot be used.
    """

    def __init__(self, folder: RuntimeDir, name: str) -> None:
        self._name = name
        while (found := _opened(folder, name)) is None:
            logger.warning(
                "poolguard: %s was no ledger of this version of poolguard, and nobody used it: "
                "it is made anew",
                folder.path / name,
            )
        self._file = found
        self.members = Marks(found, _MEMBERS, MOST_PROCESSES)
        self.places = Marks(found, _PLACES, MOST_PROCESSES)
        self.asker = Marks(found, _ASKER, 1)
        self.slots = Marks(found, _SLOTS, MOST_SLOTS)

    def close(self) -> None:
        """Close it; whatever this process still holds is now that of a dead one."""
        os.close(self._file.fd)

    @property
    def inode(self) -> int:
        """By which file it is, whatever its name."""
        return os.fstat(self._file.fd).st_ino

    def is_found(self, folder: RuntimeDir) -> bool:
        """Whether those who look for it in *folder* now find this very file."""
        return folder.leads_to(self._name, self._file.fd)

    def mend(self) -> None:
        """Write again what this process holds, and the head: others may have damaged the file.

        Raises :exc:`OSError` where somebody has truncated it, and the disk has no room now.
        """
        self._file.allocate()
        if self._file.read(0, _HEAD.size) != _head(self._file.fd):
            self._file.write(0, _head(self._file.fd))
        for marks in (self.members, self.places, self.asker, self.slots):
            marks.renew()

    def member(self, number: int) -> Member:
        """What the process *number* tells of itself."""
        at = _MEMBER_RECORDS + number * _MEMBER.size
        _, capacity, instance, workers, floor, held, starving, draining = _MEMBER.unpack(
            self._file.read(at, _MEMBER.size)
        )
        # Where somebody has damaged the file, its owner writes it anew within a second.
        sane = instance > 0 and workers > 0 and floor >= 0 and capacity >= 0
        terms = Terms(capacity or None, instance, workers, floor) if sane else None
        return Member(number, terms, max(0, held), max(0, starving), bool(draining))

    def write_member(self, member: Member) -> None:
        """Publish what this process tells of itself."""
        terms = member.terms or Terms(None, 0, 0, 0)
        record = _MEMBER.pack(
            os.getpid(),
            terms.capacity or 0,
            terms.instance,
            terms.workers,
            terms.floor,
            member.held,
            member.starving,
            member.draining,
        )
        self._file.write(_MEMBER_RECORDS + member.number * _MEMBER.size, record)
        self._file.write(_STARVING + member.number, b"\1" if member.starving > 0 else b"\0")

    def clear_member(self, number: int) -> None:
        """Wipe the record of a process that ends, or has ended."""
        self._file.write(_MEMBER_RECORDS + number * _MEMBER.size, bytes(_MEMBER.size))
        self._file.write(_STARVING + number, b"\0")

    def starving(self) -> list[int]:
        """The numbers of the processes that say they starve; some may have died since."""
        told = self._file.read(_STARVING, MOST_PROCESSES)
        found: list[int] = []
        at = -1
        while (at := told.find(b"\1", at + 1)) >= 0:
            found.append(at)
        return found

    def slot(self, number: int) -> tuple[Backend, float]:
        """Whom a slot is held for, and since when its owner is known to be dead (0: it is not)."""
        at = _SLOT_RECORDS + number * _SLOT.size
        pid, started, dead_since = _SLOT.unpack(self._file.read(at, _SLOT.size))
        if pid < POOLED.pid or not 0 <= started < YEAR_3000:  # nobody of ours has written that
            return Backend(0, 0.0), dead_since
        return Backend(pid, started), dead_since

    def write_slot(self, number: int, backend: Backend, dead_since: float = 0.0) -> None:
        """Record whom a slot is held for."""
        record = _SLOT.pack(backend.pid, backend.started, dead_since)
        self._file.write(_SLOT_RECORDS + number * _SLOT.size, record)

    def keep_slot(self, number: int, backend: Backend) -> None:
        """Record again whom a slot is held for, where that does not stand there."""
        if self.slot(number) != (backend, 0.0):
            self.write_slot(number, backend)

    def past(self) -> tuple[int, float]:
        """What a process held when it was told to end, and when that was."""
        held, at = _PAST.unpack(self._file.read(_PAST_RECORD, _PAST.size))
        return held, at

    def write_past(self, held: int, at: float) -> None:
        """Record it for those who come after."""
        self._file.write(_PAST_RECORD, _PAST.pack(held, at))


def _head(fd: int) -> bytes:
    return _HEAD.pack(MAGIC, os.fstat(fd).st_ino & 0xFFFFFFFF)


def _opened(folder: RuntimeDir, name: str) -> SharedFile | None:
    """The file, with room for all of it; None where it was something else, and is gone now."""
    fd = folder.file(name)
    file = SharedFile(fd, _SIZE)
    try:
        head = file.read(0, _HEAD.size)
        if os.fstat(fd).st_size <= _SIZE and head in (_head(fd), bytes(_HEAD.size)):
            set_lock(fd, fcntl.F_RDLCK, 0)  # it says why, where there are no such locks
            file.allocate()
            file.write(0, _head(fd))  # two processes that do this at once do the same
            return file
        if not _has_lock(file):
            raise RuntimeDirError(
                f"{folder.path / name} is no ledger of this version of poolguard, and others use "
                f"it: when none of them runs any more, it is made anew"
            )
        if os.fstat(fd).st_nlink:  # or somebody else has just done it
            folder.remove(name)
        if os.fstat(fd).st_nlink:
            raise folder.refused(name, "it is no ledger of this version of poolguard, and stays")
        os.close(fd)
        return None
    except OSError as error:
        os.close(fd)
        raise folder.refused(name, error.strerror) from None
    except RuntimeDirError:
        os.close(fd)
        raise


def _has_lock(file: SharedFile) -> bool:
    """Whether nobody uses it but us; several who find that out together do so one by one."""
    for _ in range(20):
        if file.lock(fcntl.F_WRLCK, 0, 0):
            return True
        sleep(0.002)
    return False
