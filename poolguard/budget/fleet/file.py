"""The file in which a host's processes find what the fleet has granted them, and who keeps it.

One of them, the *keeper*, holds the host's control session. Each time that a process becomes the
keeper, or that the keeper's session is lost, a new *reign* begins, which has a number. A slot is
granted while its *tag* is that of the present reign, so whatever was granted before is withheld
from the moment at which a reign's number is written. A keeper that was stopped, and wakes beside
its successor, can write only the tags of a reign that is over.
"""

from __future__ import annotations

import fcntl
import os
import struct
from time import monotonic
from typing import NamedTuple

from ...errors import RuntimeDirError
from ...settings import MOST_SLOTS
from ...util.rundir import RuntimeDir
from ..host.sharedfile import SharedFile
from ..sharing import NOTHING_OWED, Owed

__all__ = ["FleetFile", "Reign", "Standing"]

MAGIC = b"poolguard fleet, layout 1\n"
_HEAD = struct.Struct("28sI")  # with the file's own inode: a copy is no file of ours
_REIGNS = 64
"""Places for reigns. So many can begin while a process sleeps that had just looked."""

_NUMBERS = -(-_HEAD.size // 8) * 8
_NUMBER = struct.Struct("=I")
_LOCKS = _NUMBERS + _NUMBER.size * _REIGNS
# A reign: its control session's pid and slot, and when the keeper last gave a sign of life.
_REIGN = struct.Struct("=2id")
_RECORDS = _LOCKS + _REIGNS
# Since when the keeper is asked for something; what is owed to other hosts, and until when.
_ASKED = _RECORDS + _REIGN.size * _REIGNS
_TIME = struct.Struct("=d")
_OWED = _ASKED + _TIME.size
_ORDER = struct.Struct("=2id")
# What the keeper knows of the fleet: its budget, its hosts, and what they have and need; what is
# guaranteed to this host and its fair share; the classes of the locks; the start of the ledger's
# server; when all that was written.
_STANDING_AT = _OWED + _ORDER.size
_STANDING = struct.Struct("=7i2i2d")
# Why the ledger cannot be reached: the reign that says so, and a text in UTF-8, ended by a zero.
_TROUBLE = _STANDING_AT + _STANDING.size
LONGEST_TROUBLE = 400
_TAGS = _TROUBLE + _NUMBER.size + LONGEST_TROUBLE
_SIZE = _TAGS + MOST_SLOTS


class Reign(NamedTuple):
    """The time in which one process keeps one control session."""

    number: int
    """From 1 on; 0 before the first."""
    pid: int = 0
    """Of the control session; 0 until there is one."""
    slot: int = 0
    """The slot that it occupies itself."""
    seen_at: float = 0.0
    """When its keeper last gave a sign of life, by the monotonic clock."""


class Standing(NamedTuple):
    """How the fleet stands, as this host's keeper knows it. Connections, except for hosts."""

    budget: int = 0
    """0 while no member knows it."""
    hosts: int = 0
    granted: int = 0
    """To the pools of the other hosts, as the next two are theirs."""
    used: int = 0
    need: int = 0
    guaranteed: int = 0
    """To this host, whatever others need."""
    fair: int = 0
    """What this host may have while others want the rest."""
    lease: int = 0
    """The class of the locks that grant slots; 0 while there is no control session."""
    seat: int = 0
    """The class of the locks that occupy slots."""
    server: float = 0.0
    """The start of the server that has the ledger, in seconds since the epoch."""
    written_at: float = 0.0


class FleetFile:
    """The file *name* of *folder*, which is made where it is missing.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where it cannot be used.
    """

    def __init__(self, folder: RuntimeDir, name: str) -> None:
        fd = folder.file(name)
        self._file = SharedFile(fd, _SIZE)
        try:
            head = self._file.read(0, _HEAD.size)
            if head not in (_head(fd), bytes(_HEAD.size)):
                raise folder.refused(name, "it is no fleet's file of this version of poolguard")
            self._file.allocate()
            self._file.write(0, _head(fd))
        except OSError as error:
            os.close(fd)
            raise folder.refused(name, error.strerror) from None
        except RuntimeDirError:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close it. The locks of this process end with it."""
        self._file.close()

    # -- reigns --------------------------------------------------------------------------------

    def number(self) -> int:
        """The number of the present reign."""
        # The greatest, and not the last that was written: the writer may have slept meanwhile.
        return max(memoryview(self._file.read(_NUMBERS, _NUMBER.size * _REIGNS)).cast("I"))

    def tag(self) -> bytes:
        """The tag of what is granted in the present reign."""
        return bytes([self.number() % 255 + 1])

    def reign(self) -> Reign:
        """The present reign."""
        number = self.number()
        if not number:
            return Reign(0)
        record = self._file.read(_RECORDS + number % _REIGNS * _REIGN.size, _REIGN.size)
        return Reign(number, *_REIGN.unpack(record))

    def is_kept(self, number: int) -> bool:
        """Whether the process lives that began the reign of this *number*: it may be this one."""
        return not self._try_lock(number, keep=False)

    def begin(self, number: int) -> bool:
        """Begin the reign of this *number*; False where another process was faster.

        The reign that went before stays this process' own, if it was, until it is ended.
        """
        if not self._try_lock(number, keep=True):
            return False
        if self.number() != number - 1:
            self.end(number)
            return False
        self._file.write(_TAGS, bytes(MOST_SLOTS))
        self.write_reign(Reign(number, seen_at=monotonic()))
        place = _NUMBERS + number % _REIGNS * _NUMBER.size
        self._file.write(place, _NUMBER.pack(number))
        return True

    def write_reign(self, reign: Reign) -> None:
        """Record what this process' own reign has come to."""
        record = _REIGN.pack(reign.pid, reign.slot, reign.seen_at)
        self._file.write(_RECORDS + reign.number % _REIGNS * _REIGN.size, record)

    def end(self, number: int) -> None:
        """This process keeps the reign of this *number* no longer."""
        self._file.lock(fcntl.F_UNLCK, _LOCKS + number % _REIGNS)

    def _try_lock(self, number: int, *, keep: bool) -> bool:
        at = _LOCKS + number % _REIGNS
        if not self._file.lock(fcntl.F_WRLCK, at):
            return False
        if not keep:
            self._file.lock(fcntl.F_UNLCK, at)
        return True

    # -- granted slots -------------------------------------------------------------------------

    def tags(self, first: int, end: int) -> bytes:
        """The tags of the slots from *first* to before *end*."""
        return self._file.read(_TAGS + first, max(0, min(end, MOST_SLOTS) - first))

    def write_tag(self, slot: int, tag: bytes) -> None:
        """Grant a slot, or withhold it by the tag 0."""
        self._file.write(_TAGS + slot, tag)

    # -- asking the keeper ---------------------------------------------------------------------

    @property
    def asked_at(self) -> float:
        """Since when the keeper is asked for something, by the monotonic clock; 0: it is not."""
        asked: float = _TIME.unpack(self._file.read(_ASKED, _TIME.size))[0]
        return asked

    def write_asked(self, at: float) -> None:
        """Ask the keeper; 0: it has heard."""
        self._file.write(_ASKED, _TIME.pack(at))

    # -- what the keeper tells -----------------------------------------------------------------

    def ordered(self) -> Owed:
        """What this host owes to others."""
        idle, returned, until = _ORDER.unpack(self._file.read(_OWED, _ORDER.size))
        return Owed(idle, returned) if until and monotonic() < until else NOTHING_OWED

    def write_ordered(self, order: Owed, until: float) -> None:
        """Have this host's processes give up so many."""
        self._file.write(_OWED, _ORDER.pack(*order, until))

    def standing(self) -> Standing:
        """How the fleet stood when the keeper last looked."""
        return Standing(*_STANDING.unpack(self._file.read(_STANDING_AT, _STANDING.size)))

    def write_standing(self, standing: Standing) -> None:
        """Tell how the fleet stands."""
        self._file.write(_STANDING_AT, _STANDING.pack(*standing))

    @property
    def trouble(self) -> str:
        """Why the ledger cannot be reached, as the present keeper says; empty where it can."""
        told = self._file.read(_TROUBLE, _NUMBER.size + LONGEST_TROUBLE)
        if _NUMBER.unpack_from(told)[0] != self.number():
            return ""  # it is that of a reign which is over
        return told[_NUMBER.size :].partition(b"\0")[0].decode(errors="ignore")

    def write_trouble(self, number: int, why: str) -> None:
        """Tell it to the host's processes, as the keeper of the reign of this *number*."""
        told = why.encode(errors="replace")[: LONGEST_TROUBLE - 1].ljust(LONGEST_TROUBLE, b"\0")
        self._file.write(_TROUBLE, _NUMBER.pack(number) + told)


def _head(fd: int) -> bytes:
    return _HEAD.pack(MAGIC, os.fstat(fd).st_ino & 0xFFFFFFFF)
