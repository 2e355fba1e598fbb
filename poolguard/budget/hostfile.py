"""What lies where in the file that a host's processes share, and how it is opened. No decisions."""

from __future__ import annotations

import mmap
import os
import struct
from time import monotonic_ns
from typing import NamedTuple

from ..errors import RuntimeDirError
from ..rundir import RuntimeDir
from .ledger import Backend, Granted, Scope, Terms
from .marks import Marks
from .sharing import Member

__all__ = ["MOST_PROCESSES", "MOST_SLOTS", "HostFile", "SlotRecord"]

MAGIC = b"poolguard ledger, layout 3\n".ljust(32)
MOST_PROCESSES = 1024
MOST_SLOTS = 16384

_VERSION = len(MAGIC)
_HELD = _VERSION + 8
_MEMBERS = _HELD + 4 * MOST_PROCESSES
_STARVING = _MEMBERS + MOST_PROCESSES
_ASKER = _STARVING + MOST_PROCESSES
_SLOTS = _ASKER + 1
# Of a member: its pid, its scope (database, role); what the server, the role and the database
# grant; its terms' shares (instance, the server's, the database's, the role's), workers and floor;
# what it starves for, and whether it fails to connect, or drains. 0 stands for None.
_MEMBER = struct.Struct("=i2I3i4i2i3i")
_WORD = struct.Struct("=Q")
_INT = struct.Struct("=i")
_MEMBER_RECORDS = -(-(_SLOTS + MOST_SLOTS) // 8) * 8
# Of a slot: its backend's pid, its scope; its backend's start, since when its owner is known to be
# dead, and when it was leased.
_SLOT = struct.Struct("=i2I4x3d")
_SLOT_RECORDS = _MEMBER_RECORDS + MOST_PROCESSES * _MEMBER.size
# Of a database: which it is, what a process of it held that was told to end, and when that was.
_PAST = struct.Struct("=Iid")
MOST_PASTS = 64
_PAST_RECORDS = _SLOT_RECORDS + MOST_SLOTS * _SLOT.size
_LARGEST = (1 << 64) - 1
_SIZE = _PAST_RECORDS + MOST_PASTS * _PAST.size


class SlotRecord(NamedTuple):
    """Whom a slot is held for. Times by the monotonic clock."""

    backend: Backend
    scope: Scope
    since: float
    """When it was leased."""
    dead_since: float = 0.0
    """Since when its owner is known to be dead; 0 while it is not."""


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
        pid, *rest = _MEMBER.unpack_from(self._map, _MEMBER_RECORDS + number * _MEMBER.size)
        database, role, *granted = rest[:5]
        instance, server, of_database, of_role, workers, floor = rest[5:11]
        terms = None
        if instance:
            terms = Terms(
                Granted(granted[0], granted[1] or None, granted[2] or None) if granted[0] else None,
                instance,
                workers,
                floor,
                server or None,
                of_database or None,
                of_role or None,
            )
        starving, failing, draining = rest[11:]
        held, scope = self.held(number), Scope(database, role)
        return Member(number, terms, held, starving, bool(draining), bool(failing), scope, pid)

    def write_member(self, member: Member) -> None:
        """Publish what this process tells of itself."""
        terms = member.terms or Terms(None, 0, 0, 0)
        granted = terms.granted or Granted(0)
        _MEMBER.pack_into(
            self._map,
            _MEMBER_RECORDS + member.number * _MEMBER.size,
            member.pid,
            *member.scope,
            granted.server,
            granted.role or 0,
            granted.database or 0,
            terms.instance,
            terms.server or 0,
            terms.database or 0,
            terms.role or 0,
            terms.workers,
            terms.floor,
            member.starving,
            member.failing,
            member.draining,
        )
        self.write_held(member.number, member.held)
        self._map[_STARVING + member.number] = member.starving > 0

    def held(self, number: int) -> int:
        """How many slots the process *number* holds."""
        held: int = _INT.unpack_from(self._map, _HELD + 4 * number)[0]
        return held

    def write_held(self, number: int, held: int) -> None:
        """Publish how many slots this process holds: what changes most often."""
        _INT.pack_into(self._map, _HELD + 4 * number, held)

    @property
    def version(self) -> int:
        """Another one whenever a process has come, has ended, or tells something else of itself
        than what it holds and lacks."""
        version: int = _WORD.unpack_from(self._map, _VERSION)[0]
        return version

    def change_version(self) -> None:
        """Call it after a change. No two calls write the same, at the same time neither."""
        _WORD.pack_into(self._map, _VERSION, monotonic_ns() << 22 & _LARGEST | os.getpid())

    def clear_member(self, number: int) -> None:
        """Wipe the record of a process that ends, or has ended."""
        at = _MEMBER_RECORDS + number * _MEMBER.size
        self._map[at : at + _MEMBER.size] = bytes(_MEMBER.size)
        self.write_held(number, 0)
        self._map[_STARVING + number] = 0

    def starving(self) -> list[int]:
        """The numbers of the processes that say they starve; some may have died since."""
        found: list[int] = []
        at, end = _STARVING, _STARVING + MOST_PROCESSES
        while (at := self._map.find(b"\1", at, end)) >= 0:
            found.append(at - _STARVING)
            at += 1
        return found

    def slot(self, number: int) -> SlotRecord:
        """Whom a slot is held for."""
        pid, database, role, started, dead_since, since = _SLOT.unpack_from(
            self._map, _SLOT_RECORDS + number * _SLOT.size
        )
        return SlotRecord(Backend(pid, started), Scope(database, role), since, dead_since)

    def write_slot(self, number: int, record: SlotRecord) -> None:
        """Record whom a slot is held for."""
        _SLOT.pack_into(
            self._map,
            _SLOT_RECORDS + number * _SLOT.size,
            record.backend.pid,
            *record.scope,
            record.backend.started,
            record.dead_since,
            record.since,
        )

    def past(self, database: int) -> tuple[int, float]:
        """What a process of that database held when it was told to end, and when that was."""
        whose, held, at = _PAST.unpack_from(self._map, _past_at(database))
        return (held, at) if whose == database else (0, 0.0)

    def write_past(self, database: int, held: int, at: float) -> None:
        """Record it for those who come after."""
        _PAST.pack_into(self._map, _past_at(database), database, held, at)


def _past_at(database: int) -> int:
    return _PAST_RECORDS + database % MOST_PASTS * _PAST.size
