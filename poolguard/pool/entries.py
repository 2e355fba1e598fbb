"""The connections of a pool: how many are in which state, and how each leaves the pool.

A connection is one entry with one state, which only this file and :mod:`.core` change. The sizes
are derived from the entries and counted nowhere, so that a place without an entry cannot be.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from .entry import Entry, State
from .events import CloseReason
from .snapshot import Counts
from .transitions import Close, Misplaced
from .waiter import Waiter

__all__ = ["Entries"]


READ_ONLY_EVERY = 5.0
"""Seconds between two times that all are asked whether their server takes writes, at least."""


class Entries:
    """All connections of one pool. Nothing here locks or does I/O, and time is an argument.

    :param check_after_idle: seconds; one that has been idle for longer is not lent unchecked.
    """

    def __init__(self, min_size: int, max_size: int, check_after_idle: float) -> None:
        self.min_size, self.max_size = min_size, max_size
        self.check_after_idle = check_after_idle
        self.entries: dict[Entry, None] = {}
        """All whose server may still hold a session for them, or will soon."""
        self.idle: deque[Entry] = deque()
        """The idle ones, the longest idle first: the order in which they are lent."""
        self.waiting: deque[Waiter] = deque()
        """The acquires that wait for one."""
        self.doubted_at = 0.0
        """What has not been proved since then may be dead, and is checked before it is lent."""
        self.read_only_at = 0.0
        """The server was seen to be read-only: what has not been asked since may be so, too."""
        self.idle_low = 0
        """The fewest idle ones since that was reset."""
        self.low_water = 0
        """With fewer idle ones than this, the pool is to be looked at."""
        self.look_due = False
        """It is to be looked at, as soon as no lock is held."""
        self.most_lent = 0
        """The most that were lent at once since that was reset."""
        self.most_waiting = 0
        """The most acquires that waited at once since then."""
        self._low_for_most = 0
        """With fewer idle ones than this, more may be lent than ever since."""
        self._watermark = 0
        """With fewer idle ones than this, one of these changes."""

    def counts(self) -> Counts:
        """How many connections are where."""
        # Of a copy, made at once: others may not hold the lock.
        n = Counter(entry.state for entry in [*self.entries])
        lent = n["lent"] + n["resetting"]
        others = (n["checking"], n["connecting"], len(self.waiting))
        return Counts(n["idle"], lent, *others, self.min_size, self.max_size)

    def those(self, *states: State) -> Iterator[Entry]:
        """The entries that are in one of these states."""
        return (entry for entry in [*self.entries] if entry.state in states)

    def is_stale(self, entry: Entry, now: float) -> bool:
        """Whether an idle one is to be checked before it is lent."""
        return now - entry.proved_at > self.check_after_idle or entry.proved_at < self.doubted_at

    def begin(self, entry: Entry) -> None:
        """Its connect begins."""
        self.entries[entry] = None

    def close(self, entry: Entry, reason: CloseReason | None) -> Any:
        """The connection of *entry*, which is to be closed now; or None, since its connect failed.

        What got as far as a session is gone once the server has ended that.
        """
        conn = entry.conn
        if entry.state not in ("closing", "gone"):
            self._close(entry, reason)
        return conn

    def _close(self, entry: Entry, reason: CloseReason | None, *, worn: bool = False) -> Close:
        if entry.state == "idle":
            self.idle_low = min(self.idle_low, len(self.idle) - 1)
        self._leave(entry, entry.state)
        entry.state, entry.kept = "closing", None
        entry.plain_until = 0.0
        entry.reason = entry.reason or reason
        if entry.ended or not entry.watched:
            self._forget(entry)
        return Close(reason, worn)

    def end(self, entry: Entry) -> Any:
        """The server has ended its side: the connection that lay idle, to be closed; else None.

        One that is being checked or reset is closed by the job that does so.
        """
        entry.end()
        if entry.check is not None:
            self.doubt(entry.check.since)
        if entry.state in ("idle", "checking", "resetting"):
            conn = entry.conn if entry.state == "idle" else None
            self._close(entry, None)
            return conn
        if entry.state == "closing":
            self._forget(entry)
        return None

    def _leave(self, entry: Entry, state: State) -> None:
        if entry.state != state:
            raise Misplaced(f"{entry} is not {state}")
        if state == "idle":
            self.idle.remove(entry)
        entry.check = None

    def _forget(self, entry: Entry) -> None:
        entry.state = "gone"
        self.entries.pop(entry, None)

    def mend(self) -> None:
        """Put right what a signal's handler leaves that raises in the midst of a transition."""
        for entry in self.those("lent"):
            if entry.kept is not None:
                entry.state = "idle"
        while self.waiting and self.waiting[0].conn is not None:
            self.waiting.popleft()
        if sum(1 for _ in self.those("idle")) != len(self.idle):
            self.idle = deque(entry for entry in self.idle if entry.state == "idle")
            known = {*self.idle}
            for entry in self.those("idle"):
                if entry not in known:
                    entry.kept = entry.conn
                    self.idle.append(entry)

    def doubt_writes(self, now: float) -> None:
        """The server takes no writes over one: the others are asked before they are lent."""
        self.doubt(now)
        self.read_only_at = now
        for entry in self.entries:
            entry.plain_until = 0.0

    def found_read_only(self, now: float) -> None:
        """The server has said, over one connection, that it takes no writes."""
        if now >= self.read_only_at + READ_ONLY_EVERY:
            self.doubt_writes(now)

    def doubt(self, since: float) -> None:
        """A connection was found dead that may have been so at *since*, and so may others."""
        self.doubted_at = max(self.doubted_at, since)

    def note_idle_low(self) -> None:
        """From now on the fewest idle ones are watched for anew."""
        self.idle_low = len(self.idle)
        self._mark()

    def look_below(self, low_water: int) -> None:
        """Have the pool looked at once there are fewer idle ones than that."""
        self.low_water = low_water
        self._mark()

    def count_anew(self) -> tuple[int, int]:
        """The most that were lent, and that waited, since this was asked before; from now on both
        are counted anew."""
        most = self.most_lent, self.most_waiting
        self.most_lent, self.most_waiting = 0, len(self.waiting)
        self.note_lent()
        return most

    def note_lent(self) -> None:
        """More may be lent than ever since that was reset."""
        lent = sum(entry.state in ("lent", "resetting") for entry in self.entries)
        self.most_lent = max(self.most_lent, lent)
        self._low_for_most = len(self.idle) + lent - self.most_lent
        self._mark()

    def _note_low(self, left: int) -> None:
        self.idle_low = min(self.idle_low, left)
        if left < self.low_water:
            self.look_due = True
            self.low_water = 0  # once is enough: the look sets it again
        if left < self._low_for_most:
            self.note_lent()
        self._mark()

    def _mark(self) -> None:
        self._watermark = max(self.idle_low, self.low_water, self._low_for_most)
