"""What lies where in the file that a host's processes share, and how it is opened. No decisions."""

from __future__ import annotations

import mmap
import os
import struct

from ..errors import RuntimeDirError
from ..rundir import RuntimeDir
from ..settings import MOST_SLOTS
from .ledger import Backend, Terms
from .marks import Marks
from .sharing import Member

__all__ = ["MOST_PROCESSES", "MOST_SLOTS", "HostFile"]

MAGIC = b"poolguard ledger, layout 2\n".ljust(32)
MOST_PROCESSES = 1024

_MEMBERS = len(MAGIC)
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
    """The file *name* of *folder*, made where it is missing, mapped into memory.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where it is something else.
    """

    def __init__(self, folder: RuntimeDir, name: str) -> None:
        self._fd = folder.file(name)
        try:
            self._insist_on_layout(folder, name)
            self._map = mmap.mmap(self._fd, _SIZE)
        except BaseException:
            os.close(self._fd)
            raise
        self.members = Marks(self._fd, self._map, _MEMBERS, MOST_PROCESSES)
        self.places = Marks(self._fd, self._map, _PLACES, MOST_PROCESSES)
        self.asker = Marks(self._fd, self._map, _ASKER, 1)
        self.slots = Marks(self._fd, self._map, _SLOTS, MOST_SLOTS)

    def _insist_on_layout(self, folder: RuntimeDir, name: str) -> None:
        size = os.fstat(self._fd).st_size
        if size == 0:
            # Two processes that do this at once do the same.
            os.ftruncate(self._fd, _SIZE)
            os.pwrite(self._fd, MAGIC, 0)
        elif size != _SIZE or os.pread(self._fd, len(MAGIC), 0) not in (MAGIC, bytes(len(MAGIC))):
            raise RuntimeDirError(
                f"{folder.path / name} is no ledger of this version of poolguard: when none of "
                f"its processes runs any more, remove it"
            )

    def close(self) -> None:
        """Close it; whatever this process still holds is now that of a dead one."""
        os.close(self._fd)
        self._map.close()

    def member(self, number: int) -> Member:
        """What the process *number* tells of itself."""
        at = _MEMBER_RECORDS + number * _MEMBER.size
        _, capacity, instance, workers, floor, held, starving, draining = _MEMBER.unpack_from(
            self._map, at
        )
        terms = Terms(capacity or None, instance, workers, floor) if instance else None
        return Member(number, terms, held, starving, bool(draining))

    def write_member(self, member: Member) -> None:
        """Publish what this process tells of itself."""
        terms = member.terms or Terms(None, 0, 0, 0)
        _MEMBER.pack_into(
            self._map,
            _MEMBER_RECORDS + member.number * _MEMBER.size,
            os.getpid(),
            terms.capacity or 0,
            terms.instance,
            terms.workers,
            terms.floor,
            member.held,
            member.starving,
            member.draining,
        )
        self._map[_STARVING + member.number] = member.starving > 0

    def clear_member(self, number: int) -> None:
        """Wipe the record of a process that ends, or has ended."""
        at = _MEMBER_RECORDS + number * _MEMBER.size
        self._map[at : at + _MEMBER.size] = bytes(_MEMBER.size)
        self._map[_STARVING + number] = 0

    def starving(self) -> list[int]:
        """The numbers of the processes that say they starve; some may have died since."""
        found: list[int] = []
        at, end = _STARVING, _STARVING + MOST_PROCESSES
        while (at := self._map.find(b"\1", at, end)) >= 0:
            found.append(at - _STARVING)
            at += 1
        return found

    def slot(self, number: int) -> tuple[Backend, float]:
        """Whom a slot is held for, and since when its owner is known to be dead (0: it is not)."""
        pid, started, dead_since = _SLOT.unpack_from(self._map, _SLOT_RECORDS + number * _SLOT.size)
        return Backend(pid, started), dead_since

    def write_slot(self, number: int, backend: Backend, dead_since: float = 0.0) -> None:
        """Record whom a slot is held for."""
        at = _SLOT_RECORDS + number * _SLOT.size
        _SLOT.pack_into(self._map, at, backend.pid, backend.started, dead_since)

    def past(self) -> tuple[int, float]:
        """What a process held when it was told to end, and when that was."""
        held, at = _PAST.unpack_from(self._map, _PAST_RECORD)
        return held, at

    def write_past(self, held: int, at: float) -> None:
        """Record it for those who come after."""
        _PAST.pack_into(self._map, _PAST_RECORD, held, at)
