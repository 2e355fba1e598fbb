"""What the sync and the async pool have in common: everything but the waiting and the I/O.

A *round* is one look at the pool: what ended is booked, what is due is decided and counted, and
what remains is a list of I/O to do, which each pool does in its own way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakSet

import psycopg_pool

from ..borrower import CURRENT, Borrower
from ..budget.ledger import Backend, Orphan
from ..clock import now as clock
from ..errors import ForkError
from ..listener import CloseReason, Place
from ..rarely import Failures
from ._seams import Reader, seat_of
from .acquires import Acquires
from .arrival import ARRIVING, place_by
from .books import Books, Opening
from .errors import PoolClosed, handled
from .holds import Holds
from .seat import Seat, Watch
from .upkeep import Abandon, Retire, Shed, Verify

__all__ = ["Fate", "Round", "Shell"]

_failures = Failures()

Fate = Literal["joins", "gone", "leaves"] | list[Orphan]
"""What becomes of a connection that comes in: it joins the pool; it has ended already; it is closed
for others' sake; or it has to ask about these first."""


class Round:
    """The I/O that one look at a pool leads to."""

    __slots__ = ("dead", "openings", "surplus", "verify", "wake")

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self.dead: list[Any] = []
        """Idle connections that the server has ended: out of the pool already, to be closed."""
        self.surplus: list[Any] = []
        """Idle connections to be closed of the pool's own will: out of it already."""
        self.verify: list[tuple[Any, list[Orphan]]] = []
        """Idle connections to be verified, out of the pool for so long, and the slots of the dead
        that are to be asked about at the same time."""
        self.wake: float | None = None
        """When to look again, by the monotonic clock, if nothing happens before."""


class Shell(Reader):
    """The common half of the two pools."""

    name: str
    conninfo: Any
    kwargs: Any
    _books: Books
    _watch: Watch
    _acquires: Acquires
    _holds: Holds
    _tells_immediate: bool
    _notes_immediate: bool
    _watches_holds: bool
    _ended_outside: Sequence[Seat] = ()
    dial_again: Callable[[Exception], bool] | None = None
    """Told, where a connect fails, of the error; true: it has replaced :attr:`kwargs`, and with
    those the connect is tried again at once."""
    _inquire: Callable[[Any], Any] | None = None
    _when_refused: Callable[[], None] | None = None
    _when_voiceless: Callable[[], None] | None = None

    def _keep(self, books: Books) -> None:
        self._books = books
        self._acquires = books.acquires
        self._holds = books.holds
        self._tells_immediate = books.acquires.heard_immediate
        self._notes_immediate = books.acquires.noted
        self._watches_holds = books.holds.all

    def _new_watch(self) -> Watch:
        """The watch on the sockets, which hears the siblings too."""
        watch = Watch()
        ledger = self._books.lessee.ledger
        if ledger.fileno() >= 0:
            watch.listen(ledger.fileno(), ledger.heard)
        return watch

    # -- one look ------------------------------------------------------------------------------

    def _round(self, ended: list[Seat]) -> Round:
        """Book what ended, decide what is due. Call it under the lock, or on the loop."""
        done = Round()
        self._forget_who_gave_up()
        self._book(ended, done)
        now = clock()
        done.openings, actions, done.wake = self._books.look(now, self.counts(), self._idle_seats())
        self._low_water = self._books.low_water
        self._resized_by(len(done.openings))
        for action in actions:
            if isinstance(action, Shed) and action.reason == "yielded":
                for _ in range(action.n):
                    self._yield_one(self._take_longest_idle(), done)
            elif isinstance(action, Shed):
                self._books.shrunk(action.n, self.counts().size - action.n, now)
                for _ in range(action.n):
                    self._let_go(self._take_longest_idle(), action.reason, done)
                self._new_idle_period()
            elif isinstance(action, Retire):
                conn = action.seat.conn
                if self._take_idle(conn):
                    self._fewer_idle()
                    self._books.retired(action.seat, now, self.counts().size)
                    self._resized_by(-1)
                    done.surplus.append(conn)
            elif isinstance(action, Verify):
                conn = action.seat.conn
                if self._take_idle(conn):  # not counted as used: it comes back
                    action.seat.vouched = action.for_waiter
                    done.verify.append((conn, []))
                    self._books.verification_began(action.seat, now, likely=action.likely)
            elif isinstance(action, Abandon):
                action.seat.cut()
        self._ask(now, done)
        return done

    def _book(self, ended: list[Seat], done: Round) -> None:
        out = [*self._ended_outside]
        for seat in ended:
            self._books.ended(seat)
            conn = seat.conn
            if conn is not None and seat.reason is None and self._lost_idle(conn):
                done.dead.append(conn)
            else:
                out.append(seat)
        self._ended_outside = [seat for seat in out if not self._is_collected(seat)]

    def _is_collected(self, seat: Seat) -> bool:
        """Whether a connection that has ended outside of the pool is referred to by nobody.

        If it was lent, nobody can return it any more, and its place in the pool is free.
        """
        if seat.conn is not None:
            return False
        if seat.lent:
            seat.lent = False
            self._resized_by(-1)
            self._holds.collected(seat)
        return True

    def _yield_one(self, conn: Any, done: Round) -> None:
        seat = seat_of(conn)
        if seat is not None:
            self._books.yields(seat)
        self._let_go(conn, "yielded", done)

    def _ask(self, now: float, done: Round) -> None:
        """Have an idle connection ask for the dead's slots, where that is of use to anybody."""
        counts = self.counts()
        if not counts.idle and counts.size > self._books.opening:
            return  # a connection that comes back will ask
        inquires = self._books.inquires(now)
        orphans = self._books.asks(now)
        if (orphans or inquires) and counts.idle:
            conn = self._idle_conn()
            self._take_idle(conn)
            done.verify.append((conn, orphans))
            if (seat := seat_of(conn)) is not None:
                self._books.verification_began(seat, now)
        else:
            self._books.lessee.settle(orphans, ())

    def _verification_ended(self, conn: Any, *, alive: bool) -> None:
        if (seat := seat_of(conn)) is not None:
            self._books.verification_ended(seat, alive=alive)

    def _let_go(self, conn: Any, reason: CloseReason, done: Round) -> None:
        if (seat := seat_of(conn)) is not None:
            seat.reason = reason
        self._resized_by(-1)
        done.surplus.append(conn)

    def _lost_idle(self, conn: Any) -> bool:
        """Count a connection that has ended as lost; False where it is not an idle one."""
        if not self._take_idle(conn):
            return False
        self._fewer_idle()
        self._resized_by(-1)
        self._count_lost()
        return True

    # -- moments of psycopg_pool that both answer alike --------------------------------------

    def _when_vacant(self) -> None:
        self._ring()

    def _when_queued(self) -> None:
        counts = self.counts()
        if counts.size < counts.max_size or counts.idle or self._ended_outside:
            self._ring()

    def _lend(self, conn: Any, began: float, borrower: Borrower | None) -> None:
        """An acquire that began at *began* is given *conn*."""
        seat: Seat = conn._poolguard_seat
        seat.lent = True
        seat.amid = id(handled())
        if self._tells_immediate or not seat.was_free or seat.connected_at >= began:
            self._acquires.ended(began, seat)
        elif borrower is not None and self._notes_immediate:
            try:
                borrower.acquired()
            except Exception:  # noqa: BLE001 - logged; the connection must not be lost for it
                text = "a request could not be told of its acquire; the pool goes on"
                _failures.log(text, text)
        if borrower is not None or self._watches_holds:
            self._holds.lent(seat, borrower)

    def _is_stale(self, seat: Seat, now: float) -> bool:
        books, proved_at = self._books, seat.proved_at
        return now - proved_at > books.check_after_idle or proved_at < books.doubted_at

    @property
    def _being_verified(self) -> int:
        return self._books.being_verified

    def _is_unfit_after(self, error: BaseException, conn: Any) -> bool:
        """A connection is returned while *error* is on its way. True: it is to be closed."""
        seat = seat_of(conn)
        return seat is not None and self._books.parted_in(error, seat, dead=_is_dead(conn))

    def _check_has_failed(self, conn: Any, began: float, since: float) -> bool:
        """The ``check`` callback, asked at *began*, has refused *conn*. True: the acquire, which
        goes on *since* then, does so without a pause."""
        seat = seat_of(conn)
        return seat is not None and self._books.check_failed(
            seat, began, since, dead=_is_dead(conn)
        )

    def _spoil(self, conn: Any) -> None:
        if (seat := seat_of(conn)) is not None:
            self._acquires.spoil(seat)

    def _ring(self) -> None:
        """Have the pool looked at now; nothing before it is opened, which looks anyway."""
        if (watch := getattr(self, "_watch", None)) is not None:
            watch.ring()

    def _may_connect_again(self, error: Exception, made_with: object) -> bool:
        """Whether a connect is tried again at once, which has failed with *error*.

        Where others have failed for the same reason, ``kwargs`` are not what it was *made_with*.
        """
        seat, _, _ = ARRIVING.get()
        if seat.seated or self.closed:
            return False
        if self.kwargs is not made_with:
            return True
        return self.dial_again is not None and self.dial_again(error)

    def _joins_at_once(self, seat: Seat) -> bool:
        """Whether a connection comes in of which there is nothing to decide: almost always."""
        now = clock()
        if now >= seat.plain_until or self._books.alert:
            return False
        seat.proved_at = now
        seat.was_free = False
        return True

    def _arrives(self, conn: Any) -> Fate:
        """A connection comes in, new or returned: what becomes of it."""
        seat = seat_of(conn)
        if seat is None:
            return "joins"
        now = clock()
        fresh, seat.fresh = seat.fresh, False
        seat.plain_until = seat.retire_at
        seat.was_free = False
        seat.proved_at = now
        if seat.gone or seat.severed:  # the watch will tell, and has not yet
            seat.plain_until = 0.0
            return "gone"
        if not fresh and (
            self._books.comes_back_for_others(seat)
            or self._books.has_expired(seat, now, self.counts().size)
        ):
            return "leaves"
        inquires = self._books.inquires(now)
        orphans = self._books.asks(now, fresh=fresh)
        if orphans or inquires:
            self._books.verification_began(seat, now)
            return orphans
        return "joins"

    def attend(
        self,
        inquire: Callable[[Any], Any],
        when_refused: Callable[[], None],
        when_voiceless: Callable[[], None],
    ) -> None:
        """Have *inquire* called with a connection that nobody uses, to ask the server what it
        grants; *when_voiceless* where there was none for too long; and *when_refused* when the
        server had no room for a connection."""
        self._inquire, self._when_refused = inquire, when_refused
        self._when_voiceless = when_voiceless
        self._books.can_inquire = True

    def inquire_after(self, seconds: float) -> None:
        """Have the server asked by then what it grants."""
        self._books.inquire_at = min(self._books.inquire_at, clock() + seconds)
        self._ring()

    def inquired(self, *, has_room: bool, again: float | None) -> None:
        """The server has just told what it grants; *has_room* tells whether that is enough. It is
        to be asked *again* after so many seconds, or not before there is a reason."""
        self._books.inquired(clock(), again)
        if has_room and self._books.outage.refused:
            self._books.outage.ended()
        self._ring()

    def _note_silence(self) -> None:
        """Where no connection is ever at hand to ask with, what was learned once ends."""
        if self._books.is_voiceless(clock()) and self._when_voiceless is not None:
            self._when_voiceless()

    def _is_to_inquire(self) -> bool:
        return clock() >= self._books.inquire_at

    def _note_refusal(self) -> None:
        if self._books.outage.refused and self._when_refused is not None:
            self._when_refused()

    def _before_close(self, conn: Any) -> None:
        seat = seat_of(conn)
        if seat is not None and seat.reason is None:
            if self.closed:
                seat.reason = "shutdown"
                self._resized_by(-1)  # psycopg_pool leaves its count as it was when it closes
            else:
                seat.reason = "discarded"

    def _after_close(self, conn: Any) -> None:
        seat = seat_of(conn)
        if seat is not None and not seat.gone:
            seat.hang_up()
            if self._watch.blind:
                self._watch.ring()

    def greeted(self, conn: Any, backend: Backend) -> None:
        """Say which session a connection of this pool is with, as the server tells it: should this
        process die, its slot stays taken until that session is gone."""
        if (seat := seat_of(conn)) is not None:
            self._books.seated(seat, backend)

    @property
    def recovering(self) -> bool:
        """Connecting has failed lately, and has not succeeded since."""
        return self._books.outage.lasts or self._books.outage.refused

    @property
    def starved(self) -> bool:
        """More connections are wanted than the ledger grants."""
        return self._books.lessee.starved

    @property
    def owes(self) -> bool:
        """Siblings lack slots, and this pool holds some."""
        return self._books.lessee.ledger.lacked

    @property
    def leaving(self) -> bool:
        """Nothing is kept warm any more: the process will end."""
        return self._books.leaving

    def leave(self, *, accepts: bool = False) -> None:
        """The process will end: close what nobody uses any more, siblings' needs first.

        Whoever still asks is served. While the process *accepts* requests, the last connection
        stays. Safe in a signal's handler: it takes no lock.
        """
        self._books.accepts = accepts
        self._books.leaving = True
        self._ring()

    def _cut(self, conn: Any) -> None:
        """Have the seat of a dead connection ended, though its server may never answer."""
        seat = seat_of(conn)
        if seat is not None and not seat.gone:
            seat.cut()
            if self._watch.blind:
                self._watch.ring()

    # -- errors --------------------------------------------------------------------------------

    def _explained(self, error: BaseException, began: float) -> BaseException:
        """Count an acquire's failure; returns the error to raise, in psycopg_pool's own family."""
        if self._forked:
            return error
        self._acquires.refused(began, error, self._place)
        if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
            elapsed = clock() - began
            if (borrower := CURRENT.get()) is not None:
                # The queue has not come so far in this time, and hardly will in a shorter one.
                borrower.retry_after = max(borrower.retry_after, math.ceil(elapsed), 1)
            if isinstance(error, psycopg_pool.PoolTimeout):
                return self._books.timeout_error(elapsed, self.counts())
            return self._books.rejected_error(self.counts())
        if isinstance(error, psycopg_pool.PoolClosed):
            return PoolClosed(*error.args)
        return error

    def _place(self) -> Place | None:
        """Where its connections lead: as the last one did, else as the conninfo says."""
        if self._books.place is None:
            self._books.place = place_by(
                self._tried if callable(self.conninfo) else self.conninfo, self.kwargs
            )
        return self._books.place

    def _unopened(self, error: psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed) -> Exception:
        """The error to raise where waiting for the floor, or opening, has ended with *error*."""
        if isinstance(error, psycopg_pool.PoolTimeout):
            return self._books.incomplete_error(error, self.counts())
        return PoolClosed(*error.args)

    # -- fork ----------------------------------------------------------------------------------

    def _refuse_child(self) -> None:
        if self._forked:
            raise ForkError(
                f"the pool {self.name!r} was opened before this process ({os.getpid()}) was "
                f"forked, and its connections belong to the parent. Open the pool in the child: "
                f"under gunicorn, in post_fork or later, which poolguard's hooks do"
            )

    def _disown(self) -> None:
        """In a forked child: this pool is the parent's. No lock is taken, one may be held."""
        self._close_to_child()
        self._books.disown()


def _is_dead(conn: Any) -> bool:
    return bool(getattr(conn, "broken", False))


_open_pools: WeakSet[Shell] = WeakSet()


def remember_open(pool: Shell) -> None:
    """Have *pool* closed to children that are forked from now on."""
    _open_pools.add(pool)


def _after_fork_in_child() -> None:
    for pool in list(_open_pools):
        pool._disown()
    _open_pools.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
