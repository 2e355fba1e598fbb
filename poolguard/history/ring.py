"""The file in which the processes of a host record what their guard was asked for.

It has a ring of five weeks of minutes, and a row for each process, in which that tells what it has
seen of this minute and of the one before. What a minute came to is worked out from the rows by
whoever is done with it, and again by each that is done later: so no process waits for another, and
nothing is lost with one that is killed.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

from ..budget.host.locktable import LockTable
from ..budget.host.sharedfile import SharedFile
from ..errors import RuntimeDirError
from ..util.rundir import RuntimeDir
from .minutes import KEPT, Demand
from .told import Told

__all__ = ["SUFFIX", "WINDOWS", "History", "Ring", "Row", "histories"]

SUFFIX = ".history"
MAGIC = b"poolguard history, layout 1\n"
_HEAD = struct.Struct("28sIH200s")  # with the file's own inode: a copy is no file of ours
LONGEST_NAME = 200
PLACES = 512
"""Processes that can record at the same time."""
KEPT_ROWS = 2
"""Minutes of which a process' rows are there at the same time: this one, and the one before."""
WINDOWS = 12
"""Parts of a minute. What all processes have lent at once is added up window by window."""
MOST = 0xFFFF

_TOLD_AT = 512
_PLACES_AT = 1024
_ROW = struct.Struct(f"=I{WINDOWS}HHHH2x")
_ROWS_AT = _PLACES_AT + PLACES
_MINUTE = struct.Struct("=I5H2x")
_MINUTES_AT = _ROWS_AT + KEPT_ROWS * PLACES * _ROW.size
_SIZE = _MINUTES_AT + KEPT * _MINUTE.size
ATTEMPTS = 20
"""So often a minute is worked out anew, while others go on telling of it."""


class Row(NamedTuple):
    """What one process has seen of one minute."""

    minute: int
    lent: tuple[int, ...] = (0,) * WINDOWS
    """The most connections that it had lent at once, window by window."""
    waiting: int = 0
    created: int = 0
    level: int = 0

    def merged(self, other: Row) -> Row:
        """Both, of the same minute; the other one's place was this one's before."""
        return Row(
            self.minute,
            tuple(map(max, self.lent, other.lent)),
            max(self.waiting, other.waiting),
            self.created + other.created,
            max(self.level, other.level),
        )


class History:
    """What was recorded, in the file *name* that *fd* has open, which this closes in the end.

    It implements :class:`~poolguard.history.minutes.Past`.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._file = SharedFile(fd, _SIZE)
        self.database = name.removesuffix(SUFFIX).rpartition("-")[0]
        """What is recorded of the guard's database in the name of the file: no secret."""
        _open.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.guard!r}>"

    def close(self) -> None:
        """Close the file. What was told stays."""
        _open.discard(self)
        self._file.close()

    @property
    def is_ours(self) -> bool:
        """The file is a history of this version of poolguard, and no copy of one."""
        head = _head(self._file.fd, "")[: len(MAGIC) + 4]
        return self._file.read(0, len(head)) == head

    @property
    def guard(self) -> str:
        """Whose history it is."""
        *_, length, name = _HEAD.unpack(self._file.read(0, _HEAD.size))
        return str(name[:length].decode(errors="replace"))

    def read(self, first: int, end: int) -> list[Demand | None]:
        """The minutes from *first* to before *end*; None where nothing is known of one."""
        found: list[Demand | None] = []
        at, end = first, min(end, first + KEPT)
        while at < end:
            n = min(end - at, KEPT - at % KEPT)
            data = self._file.read(_minute_at(at), n * _MINUTE.size)
            # A decision reads 600 minutes: this takes half of the time of Demand(*told).
            found += [
                tuple.__new__(Demand, told[1:]) if told[0] == minute else None
                for minute, told in enumerate(_MINUTE.iter_unpack(data), start=at)
            ]
            at += n
        return found


class Ring(History):
    """The same for a process that records, too. The file *name* of *folder* is made where it is
    missing.

    :param guard: whose history it is, for people that read it.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the file cannot be used.
    """

    def __init__(self, folder: RuntimeDir, name: str, guard: str) -> None:
        super().__init__(folder.file(name), name)
        try:
            if not self.is_ours:
                if any(self._file.read(0, _HEAD.size)):
                    raise folder.refused(name, "it is no history of this version of poolguard")
                # Not allocated: of a test's server, which is there for a minute, it takes 12 KB.
                # What does not fit on the disk is not recorded.
                os.truncate(self._file.fd, _SIZE)
                self._file.write(0, _head(self._file.fd, guard))
                _sweep(folder)
        except OSError as error:
            self.close()
            raise folder.refused(name, error.strerror) from None
        except RuntimeDirError:
            self.close()
            raise
        self.told = Told(self._file, _TOLD_AT)
        """What this host has told other hosts."""
        self._places = LockTable(self._file, _PLACES_AT, PLACES)
        self._place: int | None = None
        self._base: Row | None = None
        """What another process, which has ended, had told from this place of the same minute."""

    # -- recording -----------------------------------------------------------------------------

    def tell(self, row: Row) -> None:
        """Tell what this process has seen of a minute until now."""
        if self._place is None:
            self._place = self._places.take(0, PLACES, 0)
            if self._place is None:
                return  # there are more processes than anybody has
            self._base = self._read_row(self._place, row.minute)
        if self._base is not None and self._base.minute == row.minute:
            row = row.merged(self._base)
        numbers = [min(n, MOST) for n in (*row.lent, row.waiting, row.created, row.level)]
        self._file.write(_row_at(self._place, row.minute), _ROW.pack(row.minute, *numbers))

    def settle(self, minute: int) -> None:
        """Record what *minute* has come to, by what all processes have told of it."""
        for _ in range(ATTEMPTS):
            # Another process may write what it has found without what was told since. Whoever
            # writes last reads what all have told by then.
            demand = _sum([*self._rows(minute)])
            [before] = self.read(minute, minute + 1)
            if before is not None:
                demand = Demand(*map(max, before, demand))
            demand = Demand(*(min(n, MOST) for n in demand))
            if demand == before:
                return
            self._file.write(_minute_at(minute), _MINUTE.pack(minute, *demand))

    def merge(self, minutes: Mapping[int, Demand]) -> None:
        """Record what others say that *minutes* came to: the highest of both is kept."""
        for first, others in _runs(minutes):
            before = self.read(first, first + len(others))
            self._file.write(
                _minute_at(first),
                b"".join(
                    _MINUTE.pack(
                        minute,
                        *(min(max(pair), MOST) for pair in zip(ours or other, other, strict=True)),
                    )
                    for minute, (ours, other) in enumerate(zip(before, others, strict=True), first)
                ),
            )

    def _rows(self, minute: int) -> Iterator[Row]:
        end = 1 + max(self._places.taken(0, PLACES), default=0)
        # A place whose process has ended is not freed by all: what it has told of this minute is
        # still of use.
        data = self._file.read(_ROWS_AT, KEPT_ROWS * end * _ROW.size)
        for stamp, *told in _ROW.iter_unpack(data):
            if stamp == minute:
                yield Row(stamp, tuple(told[:WINDOWS]), *told[WINDOWS:])

    def _read_row(self, place: int, minute: int) -> Row:
        stamp, *told = _ROW.unpack(self._file.read(_row_at(place, minute), _ROW.size))
        return Row(stamp, tuple(told[:WINDOWS]), *told[WINDOWS:])


def histories(folder: RuntimeDir) -> list[History]:
    """All histories of *folder*, for a reader, by the names of their guards. What is none is passed
    over, and so is what cannot be trusted."""
    found: list[History] = []
    for name in folder.names():
        if not name.endswith(SUFFIX):
            continue
        with suppress(RuntimeDirError):
            history = History(folder.reading(name), name)
            if history.is_ours:
                found.append(history)
            else:
                history.close()
    return sorted(found, key=lambda history: history.guard)


def _sweep(folder: RuntimeDir) -> None:
    """Delete what has nothing left to tell: the database, or the guard, is gone."""
    oldest = time.time() - 60 * KEPT
    for name in folder.names():
        if name.endswith(SUFFIX) and folder.written_at(name) < oldest:
            folder.remove(name)


_open: WeakSet[History] = WeakSet()


def _after_fork_in_child() -> None:
    """The place that a process has ends once no process has the file open: not even its child."""
    for history in list(_open):
        history.close()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _row_at(place: int, minute: int) -> int:
    return _ROWS_AT + (KEPT_ROWS * place + minute % KEPT_ROWS) * _ROW.size


def _minute_at(minute: int) -> int:
    return _MINUTES_AT + minute % KEPT * _MINUTE.size


def _runs(minutes: Mapping[int, Demand]) -> Iterator[tuple[int, list[Demand]]]:
    """Those that stand next to each other in the file, each run with its first minute."""
    run: list[Demand] = []
    for minute in sorted(minutes):
        run.append(minutes[minute])
        if minute + 1 not in minutes or (minute + 1) % KEPT == 0:
            yield minute + 1 - len(run), run
            run = []


def _sum(rows: Sequence[Row]) -> Demand:
    """What all processes of the host have seen together."""
    return Demand(
        one=max((n for row in rows for n in row.lent), default=0),
        host=max(map(sum, zip(*(row.lent for row in rows), strict=True)), default=0),
        waiting=max((row.waiting for row in rows), default=0),
        created=sum(row.created for row in rows),
        level=max((row.level for row in rows), default=0),
    )


def _head(fd: int, guard: str) -> bytes:
    name = guard.encode(errors="replace")[:LONGEST_NAME]
    return _HEAD.pack(MAGIC, os.fstat(fd).st_ino & 0xFFFFFFFF, len(name), name)
