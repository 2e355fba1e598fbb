"""What a guard tells its pool and sees of it: the server's grants, the pool's health, the end.

The guard is called back where the pool connects, and asks the server over a connection of the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..budget.slots import Backend, Seat
from ..util.clock import now as clock
from .base import Base
from .entry import Entry, entry_of
from .errors import SlotTaken
from .memory import Memory

__all__ = ["Supervised"]


class Supervised(Base):
    """A pool of either kind, as far as a guard looks after it."""

    dial_again: Callable[[Exception], bool] | None = None
    """Told of a connect's error; true: it has replaced :attr:`kwargs`, to try again at once."""
    _inquire: Callable[[Any], Any] | None = None
    _introduce: Callable[[Any], Any] | None = None
    _when_refused: Callable[[], None] | None = None
    _when_voiceless: Callable[[], None] | None = None

    def attend(
        self,
        inquire: Callable[[Any], Any],
        introduce: Callable[[Any], Any],
        when_refused: Callable[[], None],
        when_voiceless: Callable[[], None],
    ) -> None:
        """Have *inquire* called with an idle connection, to ask the server what it grants;
        *introduce* with one that is to :meth:`greet_later`; *when_refused* when the server
        had no room for a connection; and *when_voiceless* when none has been at hand to ask with
        for so long that what was learned once ends."""
        self._inquire, self._introduce = inquire, introduce
        self._when_refused, self._when_voiceless = when_refused, when_voiceless
        self._keeper.inquiry.wanted = True

    def recall_by(self, memory: Memory) -> None:
        """Have *memory* told what the pool is asked for, and keep warm what it says."""
        self._keeper.expected.memory = memory

    def recalled(self) -> None:
        """The memory knows more now: have it say anew what to keep warm."""
        expected = self._keeper.expected
        with self._mutex:
            asked = expected.asked_anew(clock(), self._core, self._keeper.outcomes.created)
        if asked is not None and expected.tell(asked):
            self._keeper.looked = False
            self._ring()

    def inquire_after(self, seconds: float) -> None:
        """Have the server asked by then what it grants."""
        self._keeper.inquiry.by(clock() + seconds)
        self._ring()

    def inquired(self, *, has_room: bool, again: float | None) -> None:
        """The server has just told what it grants.

        :param has_room: that is enough.
        :param again: seconds after which it is to be asked again; None: when there is a reason.
        """
        self._keeper.inquiry.answered(clock(), again)
        if has_room and self._keeper.outage.refused:
            self._keeper.outage.ended()
        self._ring()

    def greeted(self, conn: Any, backend: Backend) -> None:
        """Say which session a connection of this pool is with: should this process die, its slot
        stays taken until that session is gone."""
        if (entry := entry_of(conn)) is not None:
            entry.stranger = False
            self._keeper.leases.record_backend(entry, backend)

    def greet_later(self, conn: Any) -> bool:
        """Whether a connection is to be introduced once it is idle, since the pool has grown for an
        acquire that waits."""
        entry = entry_of(conn)
        if entry is None or not self._core.waiting or self._keeper.warm_after is None:
            return False
        entry.stranger = True
        return True

    def seat_of(self, conn: Any) -> Seat | None:
        """The lock by which a connection of this pool is to occupy its slot, if there is one."""
        entry = entry_of(conn)
        if entry is None or entry.slot is None:
            return None
        return self._keeper.leases.ledger.seat(entry.slot)

    def seated(self, conn: Any, seat: Seat, *, seated: bool) -> None:
        """A connection has taken that lock, or has not: then it is to be closed. Raises
        :exc:`~poolguard.pool.errors.SlotTaken`."""
        entry = entry_of(conn)
        if entry is None or entry.slot is None:
            return
        if seated:
            entry.seat = seat
            self._note_seat(entry)
            return
        self._keeper.leases.ledger.unseated(entry.slot)
        raise SlotTaken("its slot of the budget was granted to another host meanwhile")

    def _note_seat(self, entry: Entry) -> None:
        entry.seated_until = clock() + self._keeper.pace.check_interval

    @property
    def recovering(self) -> bool:
        """Connecting has failed lately, and has not succeeded since."""
        return self._keeper.outage.lasts or self._keeper.outage.refused

    @property
    def starved(self) -> bool:
        """More connections are wanted than the ledger grants."""
        return self._keeper.leases.starved

    @property
    def stuck(self) -> bool:
        """No acquire was served for longer than one may take, and some wait or have timed out."""
        since = self._core.stuck_since()
        return since is not None and clock() - since > self.timeout

    @property
    def owes(self) -> bool:
        """Siblings lack slots, and this pool holds some."""
        return self._keeper.leases.ledger.siblings.could_help

    @property
    def leaving(self) -> bool:
        """Nothing is kept warm any more: the process will end."""
        return self._keeper.leaving

    def leave(self, *, accepts: bool = False) -> None:
        """The process will end: close what is not in use, siblings' needs first.

        Acquires are served all the same. While the process *accepts* requests, the last connection
        stays. Safe in a signal's handler: it takes no lock.
        """
        self._keeper.accepts = accepts
        self._keeper.leaving = True
        self._ring()

    def _may_connect_again(self, entry: Entry, error: Exception, made_with: object) -> bool:
        """Whether a connect that has failed with *error* is tried again at once.

        Where others have failed for the same reason, ``kwargs`` are not what it was *made_with*.
        """
        if entry.watched or self.closed:
            return False
        if self.kwargs is not made_with:
            return True
        return self.dial_again is not None and self.dial_again(error)

    def _note_refusal(self) -> None:
        if self._keeper.outage.refused and self._when_refused is not None:
            self._when_refused()

    def _note_silence(self) -> None:
        if self._keeper.inquiry.is_voiceless(clock()) and self._when_voiceless is not None:
            self._when_voiceless()

    def _is_to_inquire(self) -> bool:
        return self._inquire is not None and clock() >= self._keeper.inquiry.at
