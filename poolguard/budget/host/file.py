"""The file that a host's processes share: its layout, how it is opened, read and written.

Nothing is decided here.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from time import monotonic, monotonic_ns, sleep
from typing import NamedTuple

from ...errors import RuntimeDirError
from ...settings import MOST_SLOTS
from ...util.logs import logger
from ...util.rundir import RuntimeDir
from ..sharing import Member
from ..slots import CONNECTING, POOLED, Backend
from ..terms import Granted, Scope, Terms
from .locktable import LockTable
from .sharedfile import SharedFile, set_lock

__all__ = ["MOST_PROCESSES", "MOST_SLOTS", "HostFile", "SlotRecord"]

MAGIC = b"poolguard ledger, layout 4\n"
_HEAD = struct.Struct("28sI")  # with the file's own inode: a copy of a ledger is no ledger
MOST_PROCESSES = 1024
YEAR_3000 = 32503680000.0
"""In seconds since the epoch."""

_VERSION = -(-_HEAD.size // 8) * 8
_HELD = _VERSION + 8
_MEMBERS = _HELD + 4 * MOST_PROCESSES
_STARVING = _MEMBERS + MOST_PROCESSES
_ASKER = _STARVING + MOST_PROCESSES
_SLOTS = _ASKER + 1
# A member: its pid, its scope (database, role); what the server, the role and the database grant;
# its terms' shares (instance, the server's, the database's, the role's), workers and floor; for how
# many slots it starves, whether it fails to connect, whether it drains; since when it starves and
# has none. 0 stands for None.
_MEMBER = struct.Struct("=i2I3i4i2i3id")
_WORD = struct.Struct("=Q")
_INT = struct.Struct("=i")
_MEMBER_RECORDS = -(-(_SLOTS + MOST_SLOTS) // 8) * 8
# A slot: its backend's pid, its scope; its backend's start, since when its owner is known to be
# dead, and when it was leased.
_SLOT = struct.Struct("=i2I4x3d")
_SLOT_RECORDS = _MEMBER_RECORDS + MOST_PROCESSES * _MEMBER.size
# A database: its key, what a process of it held that was told to end, and when that was.
_PAST = struct.Struct("=Iid")
MOST_PASTS = 64
_PAST_RECORDS = _SLOT_RECORDS + MOST_SLOTS * _SLOT.size
_LARGEST = (1 << 64) - 1
_SIZE = _PAST_RECORDS + MOST_PASTS * _PAST.size


class SlotRecord(NamedTuple):
    """For which session a slot is held. Times by the monotonic clock."""

    backend: Backend
    scope: Scope
    since: float
    """When it was leased."""
    dead_since: float = 0.0
    """Since when its owner is known to be dead; 0 while it is not."""


class HostFile:
    """The file *name* of *folder*, which is made where it is missing.

    It is made anew where it is no ledger of this layout, and no process uses it.

    :param slots: makes the table of its slots.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where it cannot be used.
    """

    def __init__(
        self,
        folder: RuntimeDir,
        name: str,
        slots: Callable[[SharedFile, int, int], LockTable] = LockTable,
    ) -> None:
        self._name = name
        while (found := _opened(folder, name)) is None:
            logger.warning(
                "poolguard: %s was no ledger of this version of poolguard, and nobody used it: "
                "it is made anew",
                folder.path / name,
            )
        self._file = found
        self.members = LockTable(found, _MEMBERS, MOST_PROCESSES)
        self.asker = LockTable(found, _ASKER, 1)
        self.slots = slots(found, _SLOTS, MOST_SLOTS)

    def close(self) -> None:
        """Close it. What this process still holds looks like a dead process' from now on."""
        self._file.close()

    @property
    def inode(self) -> int:
        """Identifies the file, whatever its name."""
        return os.fstat(self._file.fd).st_ino

    def is_found(self, folder: RuntimeDir) -> bool:
        """Whether a process that looks for it in *folder* now finds this very file."""
        return folder.leads_to(self._name, self._file.fd)

    def repair(self) -> None:
        """Write the head and what this process holds again, should the file be damaged.

        Raises :exc:`OSError` where it was truncated, and the disk has no room now.
        """
        self._file.allocate()
        if self._file.read(0, _HEAD.size) != _head(self._file.fd):
            self._file.write(0, _head(self._file.fd))
        for table in (self.members, self.asker, self.slots):
            table.restore()

    def member(self, number: int) -> Member:
        """What the process *number* tells of itself."""
        pid, *rest = _MEMBER.unpack(
            self._file.read(_MEMBER_RECORDS + number * _MEMBER.size, _MEMBER.size)
        )
        database, role, *granted = rest[:5]
        instance, server, of_database, of_role, workers, floor = rest[5:11]
        terms = None
        # A damaged record is written anew by its owner within a second.
        if instance > 0 and workers > 0 and min(floor, server, of_database, of_role, *granted) >= 0:
            terms = Terms(
                Granted(*(limit or None for limit in granted)) if any(granted) else None,
                instance,
                workers,
                floor,
                server or None,
                of_database or None,
                of_role or None,
            )
        starving, failing, draining, without_since = rest[11:]
        held, scope = self.held(number), Scope(database, role)
        return Member(
            number,
            terms,
            held,
            max(0, starving),
            bool(draining),
            bool(failing),
            scope,
            pid,
            without_since,
        )

    def write_member(self, member: Member) -> None:
        """Publish what this process tells of itself."""
        terms = member.terms or Terms(None, 0, 0, 0)
        granted = terms.granted or Granted(None)
        record = _MEMBER.pack(
            member.pid,
            *member.scope,
            *(limit or 0 for limit in granted),
            terms.instance,
            terms.server or 0,
            terms.database or 0,
            terms.role or 0,
            terms.workers,
            terms.floor,
            member.starving,
            member.failing,
            member.draining,
            member.without_since,
        )
        self.write_held(member.number, member.held)
        self._file.write(_MEMBER_RECORDS + member.number * _MEMBER.size, record)
        self._file.write(_STARVING + member.number, b"\1" if member.starving > 0 else b"\0")

    def held(self, number: int) -> int:
        """How many slots the process *number* holds."""
        held: int = _INT.unpack(self._file.read(_HELD + 4 * number, _INT.size))[0]
        return max(0, held)

    def all_held(self, end: int) -> memoryview:
        """How many slots each process below the number *end* holds, by one call."""
        return memoryview(self._file.read(_HELD, _INT.size * end)).cast("i")

    def write_held(self, number: int, held: int) -> None:
        """Publish how many slots this process holds."""
        self._file.write(_HELD + 4 * number, _INT.pack(held))

    @property
    def version(self) -> int:
        """Changes whenever a process has come, has ended, or has changed what it tells of itself,
        except for what it holds and lacks."""
        version: int = _WORD.unpack(self._file.read(_VERSION, _WORD.size))[0]
        return version

    def change_version(self) -> None:
        """To be called after a change. No two calls write the same, not even at the same time."""
        version = monotonic_ns() << 22 & _LARGEST | os.getpid()
        self._file.write(_VERSION, _WORD.pack(version))

    def clear_member(self, number: int) -> None:
        """Wipe the record of a process that ends, or has ended."""
        self._file.write(_MEMBER_RECORDS + number * _MEMBER.size, bytes(_MEMBER.size))
        self.write_held(number, 0)
        self._file.write(_STARVING + number, b"\0")

    def starving(self) -> list[int]:
        """The numbers of the processes that say they starve. Some may have died since."""
        told = self._file.read(_STARVING, MOST_PROCESSES)
        found: list[int] = []
        at = -1
        while (at := told.find(b"\1", at + 1)) >= 0:
            found.append(at)
        return found

    def slot(self, number: int) -> SlotRecord:
        """For which session a slot is held."""
        pid, database, role, started, dead_since, since = _SLOT.unpack(
            self._file.read(_SLOT_RECORDS + number * _SLOT.size, _SLOT.size)
        )
        backend = Backend(pid, started)
        if pid < POOLED.pid or not 0 <= started < YEAR_3000:  # no process of ours writes that
            backend = CONNECTING
        return SlotRecord(backend, Scope(database, role), since, dead_since)

    def write_slot(self, number: int, record: SlotRecord) -> None:
        """Record for which session a slot is held."""
        packed = _SLOT.pack(
            record.backend.pid,
            *record.scope,
            record.backend.started,
            record.dead_since,
            record.since,
        )
        self._file.write(_SLOT_RECORDS + number * _SLOT.size, packed)

    def restore_slot(self, number: int, backend: Backend, scope: Scope) -> None:
        """Record again for which session a slot is held, should the record be damaged."""
        found = self.slot(number)
        if (found.backend, found.scope, found.dead_since) != (backend, scope, 0.0):
            self.write_slot(number, SlotRecord(backend, scope, monotonic()))

    def past(self, database: int) -> tuple[int, float]:
        """What a process of that database held when it was told to end, and when that was."""
        whose, held, at = _PAST.unpack(self._file.read(_past_at(database), _PAST.size))
        return (held, at) if whose == database else (0, 0.0)

    def write_past(self, database: int, held: int, at: float) -> None:
        """Record it for processes that start later."""
        self._file.write(_past_at(database), _PAST.pack(database, held, at))


def _head(fd: int) -> bytes:
    return _HEAD.pack(MAGIC, os.fstat(fd).st_ino & 0xFFFFFFFF)


def _opened(folder: RuntimeDir, name: str) -> SharedFile | None:
    """The file, with room for all of it; None where it was something else, and was removed."""
    fd = folder.file(name)
    file = SharedFile(fd, _SIZE)
    try:
        head = file.read(0, _HEAD.size)
        if os.fstat(fd).st_size <= _SIZE and head in (_head(fd), bytes(_HEAD.size)):
            set_lock(fd, fcntl.F_RDLCK, 0)  # its error says why, where there are no such locks
            file.allocate()
            file.write(0, _head(fd))  # two processes that do this at once do the same
            return file
        if not _has_lock(file):
            raise RuntimeDirError(
                f"{folder.path / name} is no ledger of this version of poolguard, and others use "
                f"it: when none of them runs any more, it is made anew"
            )
        if os.fstat(fd).st_nlink:  # otherwise another process has just removed it
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
    """Whether no other process uses it. Processes that ask at once find it out one by one."""
    for _ in range(20):
        if file.lock(fcntl.F_WRLCK, 0, 0):
            return True
        sleep(0.002)
    return False


def _past_at(database: int) -> int:
    return _PAST_RECORDS + database % MOST_PASTS * _PAST.size
