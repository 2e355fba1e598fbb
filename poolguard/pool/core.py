"""The core of a pool: what an acquire is given, and what becomes of a connection that comes in.

Nothing here locks, waits, or does I/O; time is an argument, and what is to be done is returned. The
sync pool calls in with its lock held, the async one on its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .entries import Entries
from .entry import Check, Entry
from .evidence import Asked
from .transitions import Ask, Close, Condition, Fate, Misplaced, Reset
from .waiter import Waiter

__all__ = ["Core", "bounds"]


class Core(Entries):
    """The connections of one pool, and the acquires that wait for one.

    :param check_after_idle: seconds; one that has been idle for longer is not lent unchecked.
    :param judge: what else is to become of a connection that would join the pool: asked of those
        whose ``plain_until`` has passed, and of all while there is an :attr:`alert`.
    """

    def __init__(
        self,
        min_size: int,
        max_size: int,
        *,
        max_waiting: int = 0,
        check_after_idle: float,
        judge: Callable[[Entry, float, bool], Close | Ask | None] = lambda *_: None,
    ) -> None:
        super().__init__(min_size, max_size, check_after_idle)
        self.max_waiting = max_waiting
        self.closed = False
        self.drained_at = float("-inf")
        self.alert = False
        """Every connection that comes in is to be judged."""
        self.taken_free = 0
        """So many acquires have found one free."""
        self.queued = 0
        """So many acquires have waited, ..."""
        self.waited = 0.0
        """... for so many seconds in all."""
        self.usage = 0.0
        """Seconds for which connections were lent, in all."""
        self.unserved_since: float | None = None
        """Since when an acquire has waited and none was served; None while none has."""
        self._timed_out = False
        self._judge = judge

    def __repr__(self) -> str:
        c = self.counts()
        return (
            f"<Core {'closed ' if self.closed else ''}{c.idle} idle, {c.lent} lent, "
            f"{c.checking} checking, {c.opening} opening; {c.waiting} waiting>"
        )

    # -- acquiring -----------------------------------------------------------------------------

    def take(self, now: float) -> Any:
        """The connection that is to be lent next; None where none can be lent as it is."""
        idle = self.idle
        if not idle:
            return None
        entry = idle[0]
        # As is_stale() says, whose call would take as long as all this.
        if now - entry.proved_at > self.check_after_idle or entry.proved_at < self.doubted_at:
            return None
        idle.popleft()
        entry.state = "lent"
        conn, entry.kept = entry.kept, None
        entry.lent_at = now
        self.taken_free += 1
        if len(idle) < self._watermark:
            self._note_low(len(idle))
        return conn

    def acquire(self, now: float, waiter: Waiter) -> Any:
        """A connection, or ``"queued"``, ``"refused"`` or ``"closed"``: the fate of one acquire.

        Where all idle ones have to be checked first, *waiter* is queued, full as the queue may be:
        it waits for those, and not for others.
        """
        if self.closed:
            return "closed"
        if self.idle and (conn := self._take_fresh(now)) is not None:
            waiter.taken += 1
            waiter.counted += 1
            waiter.free = waiter.taken == 1
            return conn
        if self.max_waiting and len(self.waiting) >= self.max_waiting:
            soon = sum(1 for _ in self.those("idle", "checking"))
            if len(self.waiting) - self.max_waiting >= soon:
                return "refused"
        waiter.queued_at = now
        self.waiting.append(waiter)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        self.queued += 1
        waiter.counted += 1
        if self.unserved_since is None:
            self.unserved_since = now
        if not self.look_due:
            self.look_due = bool(self.idle) or self._may_grow()
        return "queued"

    def _take_fresh(self, now: float) -> Any:
        for n, entry in enumerate(self.idle):
            if not self.is_stale(entry, now):
                if n:
                    del self.idle[n]
                    self.idle.appendleft(entry)
                return self.take(now)
        return None

    def _may_grow(self) -> bool:
        """Whether a look may find room for one more.

        That may be in the place of one that has ended, or that is being closed.
        """
        size = len(self.entries)
        if size >= self.max_size and len(self.waiting) == 1:  # the others find what the first found
            size -= sum(entry.ended or entry.state == "closing" for entry in self.entries)
        return size < self.max_size

    def withdraw(self, waiter: Waiter, now: float, *, timed_out: bool = False) -> Any:
        """*waiter* stops waiting, for whatever reason.

        The answer is the connection that it was given in this very moment, which it may keep or has
        to give back; else None.
        """
        conn, waiter.conn = waiter.conn, None
        if conn is None and waiter in self.waiting:
            self.waiting.remove(waiter)
            self.waited += now - waiter.queued_at
            self._timed_out |= timed_out
            if not self.waiting and not self._timed_out:
                self.unserved_since = None
        return conn

    def stuck_since(self) -> float | None:
        """Since when no acquire has been served, while some wait or have timed out."""
        return self.unserved_since if self.waiting or self._timed_out else None

    # -- coming in -----------------------------------------------------------------------------

    def arrive(self, entry: Entry, now: float) -> Fate:
        """It is connected, and configured."""
        self._leave(entry, "connecting")
        return self._place(entry, now, fresh=True)

    def give_back(self, entry: Entry, now: float, condition: Condition = "clean") -> Fate:
        """The fate of one return. Raises :exc:`Misplaced` where it is not lent."""
        if entry.state != "lent":
            raise Misplaced(f"{entry} is not lent")
        if (
            condition == "clean"
            and now < entry.plain_until
            and entry.verdict is None
            and not self.alert
        ):
            self.usage += now - entry.lent_at
            entry.proved_at = now
            return self._join(entry)
        ending = entry.verdict in ("ending", "lost")
        if condition in ("clean", "open") and not (ending or self.closed):
            if condition == "open" or entry.verdict in ("read-only", "unseated"):
                return Reset()
            self.usage += now - entry.lent_at
            return self._place(entry, now)
        self.usage += now - entry.lent_at
        if self.closed:
            return self._close(entry, "shutdown")
        if condition == "lost" or ending:
            self.doubt(now)
        by_server = "lost" in (condition, entry.verdict) or (condition == "closed" and ending)
        return self._close(entry, None if by_server else "discarded")

    def reset(self, entry: Entry, now: float) -> None:
        """One that is lent is being made fit for the next acquire, by the caller of this."""
        self._leave(entry, "lent")
        self.usage += now - entry.lent_at
        entry.state, entry.kept = "resetting", entry.conn

    def was_reset(self, entry: Entry, now: float, *, is_fit: bool) -> Fate:
        """It is fit for the next acquire, or not."""
        if entry.state in ("closing", "gone"):  # the server has ended it meanwhile
            return Close(None)
        self._leave(entry, "resetting")
        return self._place(entry, now) if is_fit else self._close(entry, "discarded")

    def check(
        self,
        entry: Entry,
        now: float,
        *,
        likely: bool = True,
        for_waiter: bool = False,
        question: tuple[Asked, ...] = (),
    ) -> Any:
        """An idle one is being checked (:class:`~poolguard.pool.entry.Check`): its connection."""
        self._leave(entry, "idle")
        writable = entry.writable_at < self.read_only_at
        entry.state, entry.check = "checking", Check(now, likely, for_waiter, writable, question)
        return entry.kept

    def was_checked(self, entry: Entry, now: float) -> Fate:
        """The server has answered over it."""
        check = entry.check
        if entry.state in ("closing", "gone"):  # the server has ended it meanwhile
            return Close(None)
        self._leave(entry, "checking")
        if check is not None:
            entry.vouched = check.for_waiter
            if check.writable:
                entry.writable_at = check.since
        return self._place(entry, now)

    def _place(self, entry: Entry, now: float, *, fresh: bool = False) -> Fate:
        entry.verdict = None
        entry.plain_until = min(entry.retire_at, entry.seated_until)
        entry.proved_at = now
        if self.closed:
            return self._close(entry, "shutdown")
        if entry.ended or entry.severed:
            return self._close(entry, None)
        if entry.connected_at <= self.drained_at:
            return self._close(entry, "discarded", worn=True)
        fate = self._judge(entry, now, fresh)
        if fate is None and entry.writable_at < self.read_only_at:
            fate = Ask()
        if isinstance(fate, Close):
            return self._close(entry, fate.reason)
        if fate is not None:
            entry.state, entry.kept = "checking", entry.conn
            writable = entry.writable_at < self.read_only_at
            entry.check = Check(now, writable=writable, question=fate.question)
            return fate
        if entry.plain_until <= now:
            self.look_due = True  # it is due to be replaced, and was lent when that was looked at
        waiter = self._join(entry)
        if waiter is not None:
            self.note_lent()
        else:  # there may be one more now that can be lent
            self._low_for_most += 1
            self._mark()
        return waiter

    def _join(self, entry: Entry) -> Waiter | None:
        self.unserved_since, self._timed_out = None, False
        conn, vouched = entry.conn, entry.vouched
        entry.vouched = False
        if self.waiting:
            waiter = self.waiting[0]
            entry.state, entry.kept = "lent", None
            entry.lent_at = entry.proved_at
            waiter.free = vouched and not waiter.taken
            waiter.conn = conn
            self.waited += entry.proved_at - waiter.queued_at
            self.waiting.popleft()  # after it was served: a signal's handler may raise here
            if self.waiting:
                self.unserved_since = entry.proved_at
            return waiter
        entry.state, entry.kept = "idle", conn
        self.idle.append(entry)
        return None

    # -- all at once ---------------------------------------------------------------------------

    def shut(self, now: float) -> tuple[list[Waiter], list[Any]]:
        """Refuse all from now on: the acquires that wait, and the connections to be closed."""
        self.closed = self.alert = True
        waiting = [*self.waiting]
        self.waiting.clear()
        self.waited += sum(now - waiter.queued_at for waiter in waiting)
        return waiting, [self.close(entry, "shutdown") for entry in [*self.idle]]

    def drain(self, now: float) -> list[Any]:
        """Renew all: the idle connections, to be closed. The others are when they come in."""
        self.drained_at = now
        for entry in self.entries:
            entry.plain_until = 0.0
        return [self.close(entry, "discarded") for entry in [*self.idle]]

    def disown(self) -> None:
        """In a forked child: all of it is the parent's."""
        self.closed = self.alert = True
        self.idle.clear()
        self.waiting.clear()
        self.entries.clear()


def bounds(min_size: int, max_size: int | None) -> tuple[int, int]:
    """A pool's bounds. Raises :exc:`ValueError` where they make no pool."""
    if max_size is None:
        max_size = min_size
    if min_size < 0:
        raise ValueError(f"min_size is {min_size}, and cannot be negative")
    if max_size < max(1, min_size):
        raise ValueError(
            f"max_size is {max_size}, and must be at least 1 and min_size, which is {min_size}"
        )
    return min_size, max_size
