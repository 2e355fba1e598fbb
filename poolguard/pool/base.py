"""What the sync and the async pool share: everything but the waiting and the I/O.

They have psycopg_pool's interface and run nothing of it: of its classes they keep the type, and of
its documentation the meaning of each method and argument.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn
from weakref import WeakSet

import psycopg_pool

from ..budget.slots import Backend
from ..errors import ForkError
from ..settings import RENAMED, warn_of_rename
from ..util.clock import now as clock
from .acquirer import CURRENT, Acquirer
from .core import bounds
from .entry import Entry, entry_of
from .errors import PoolClosed, PoolTimeout, TooManyRequests
from .events import Listener, Outcome, Place
from .fates import Condition, Counts, Waiter
from .keeper import Keeper
from .news import logger
from .report import state_of
from .session import is_dead, place_by
from .sockets import Watch
from .upkeep import Pace

__all__ = ["INFO", "Base", "remember_open"]

INFO = logging.INFO
# What psycopg_pool's classes show, what the upkeep's pace is made of, and what a keeper takes.
_KEPT = {"conninfo", "connection_class", "close_returns", "timeout", "max_waiting"}
_KEPT |= {"max_lifetime", "max_idle", "reconnect_timeout", "num_workers"}
_PACE = ("check_interval", "check_timeout", "max_idle", "check_after_idle")
_KEEPERS = {"max_waiting", "ledger", "max_connecting", "max_lifetime", "reconnect_timeout"}
_KEEPERS |= {"leak_after", "at_once"}

_numbers = count(1)


class Base:
    """The common half of the two pools."""

    name: str
    conninfo: Any
    kwargs: Any
    timeout: float
    close_returns: bool
    _watch: Watch
    _forked = False
    """This is a child of the process that opened the pool."""
    _opens_unasked = False
    """It was opened since nobody has said whether it is to be, which the first acquire warns of."""
    _on_configure: Any
    _on_check: Any
    _on_reset: Any
    _on_reconnect_failed: Any
    _warm_event: Any
    """Set once the floor has been reached."""
    _tried: str | None = None
    """The conninfo with which it was connected last, or tried to be."""
    dial_again: Callable[[Exception], bool] | None = None
    """Told, where a connect fails, of the error; true: it has replaced :attr:`kwargs`, and with
    those the connect is tried again at once."""
    _inquire: Callable[[Any], Any] | None = None
    _when_refused: Callable[[], None] | None = None
    _when_voiceless: Callable[[], None] | None = None

    def _set_up(self, given: dict[str, Any]) -> None:
        """Keep what the constructor was *given*."""
        for former, name in RENAMED.items():
            if given[former] is not None:
                warn_of_rename(former, name)
                given[name] = given[former]
        min_size, max_size = bounds(given["min_size"], given["max_size"])
        if given["num_workers"] < 1:
            raise ValueError(f"num_workers is {given['num_workers']}, and must be at least 1")
        for name in _KEPT:
            setattr(self, name, given[name])
        for name in ("configure", "check", "reset", "reconnect_failed"):
            setattr(self, f"_on_{name}", given[name])
        self.kwargs = given["kwargs"] or {}
        self.name = given["name"] or f"pool-{next(_numbers)}"
        self._keeper = keeper = Keeper(
            min_size,
            max_size,
            pace=Pace(*(given[name] for name in _PACE)),
            listener=given["listener"] or Listener(),
            **{name: given[name] for name in _KEEPERS},
        )
        keeper.named(self.name)
        self._core = keeper.core
        self._core.closed = True
        self._was_opened = False
        self._opens_unasked = given["open"] is None
        self._tells_immediate = keeper.outcomes.heard_immediate
        self._notes_immediate = keeper.outcomes.noted
        self._watches_all = keeper.leaks.all
        self._full: list[Any] = []
        """Events for those who wait until the floor is reached."""
        self._tally: dict[str, float] = {}
        """psycopg_pool's statistics, but for what the core knows."""
        self._popped: tuple[float, ...] = (0, 0, 0.0, 0.0)
        """What the core had counted when the statistics were last taken away."""

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} {self.name!r} at 0x{id(self):x}>"

    @property
    def min_size(self) -> int:
        return self._core.min_size

    @property
    def max_size(self) -> int:
        return self._core.max_size

    @property
    def closed(self) -> bool:
        """True before the pool is opened and once it is closed."""
        return self._core.closed

    def counts(self) -> Counts:
        """How many connections are where."""
        return self._core.counts()

    # -- psycopg_pool's statistics -------------------------------------------------------------

    def _count(self, name: str, n: float = 1) -> None:
        self._tally[name] = self._tally.get(name, 0) + n

    def get_stats(self) -> dict[str, int]:
        """psycopg_pool's statistics: what the pool has, and has counted since they were popped."""
        counts = self._core.counts()
        tally = self._tally
        free, queued, waited, usage = (
            now - then for now, then in zip(self._counted(), self._popped, strict=True)
        )
        counted = {
            **tally,
            "requests_num": free + queued + tally.get("requests_num", 0),
            "requests_queued": queued,
            "requests_wait_ms": 1000.0 * waited,
            "usage_ms": 1000.0 * usage,
        }
        return {name: int(n) for name, n in counted.items() if n > 0} | {
            "pool_min": counts.min_size,
            "pool_max": counts.max_size,
            "pool_size": counts.size,
            "pool_available": counts.idle,
            "requests_waiting": counts.waiting,
        }

    def pop_stats(self) -> dict[str, int]:
        """:meth:`get_stats`, and count anew."""
        stats = self.get_stats()
        self._popped = self._counted()
        self._tally = {}
        return stats

    def _counted(self) -> tuple[float, ...]:
        core = self._core
        return core.taken_free, core.queued, core.waited, core.usage

    # -- acquiring and returning ---------------------------------------------------------------

    def _acquire_in_vain(self, timeout: float) -> None:
        """An acquire of a pool that is not open, or was opened unasked, or that has no time: raise
        what is to be raised."""
        self._count("requests_num")
        self._insist_open()
        if timeout <= 0:
            raise PoolTimeout
        self._count("requests_num", -1)  # it is counted as it is queued, or served
        self._opens_unasked = False
        self._warn_of_opening()

    def _insist_open(self) -> None:
        self._insist_not_forked()
        if self._core.closed:
            state = "already closed" if self._was_opened else "not open yet"
            raise PoolClosed(f"the pool {self.name!r} is {state}")

    def _warn_of_opening(self) -> None:
        raise NotImplementedError

    def _reject(self) -> NoReturn:
        self._count("requests_num")
        raise TooManyRequests(
            f"the pool {self.name!r} has already {len(self._core.waiting)} requests waiting"
            f"{state_of(self._keeper, clock())}"
        )

    def _check_failed(self, waiter: Waiter, entry: Entry, asked_at: float, conn: Any) -> bool:
        """The ``check`` callback, asked at *asked_at*, has refused *conn*. True: the acquire goes
        on at once, for it was an old one that has died, of which there may be more: one that was
        there before the acquire began."""
        dead = is_dead(conn, entry)
        if dead:
            self._core.doubt(asked_at)
        was_free, waiter.free = waiter.free, False
        return dead and was_free and entry.connected_at < waiter.began

    def _lend(self, entry: Entry, began: float, acquirer: Acquirer | None) -> None:
        """An acquire that began at *began* has found a connection."""
        if self._tells_immediate:
            self._keeper.outcomes.ended(began, clock(), entry, was_free=True, taken=1)
        elif acquirer is not None and self._notes_immediate:
            self._keeper.outcomes.note(acquirer)
        if acquirer is not None or self._watches_all:
            self._keeper.leaks.lent(entry, acquirer)

    def _lend_late(self, entry: Entry, waiter: Waiter) -> None:
        """An acquire has been given a connection after all."""
        if waiter.counted > 1:
            self._count("requests_num", 1 - waiter.counted)
        acquirer = CURRENT.get()
        free, taken = waiter.free, waiter.taken
        self._keeper.outcomes.ended(waiter.began, clock(), entry, was_free=free, taken=taken)
        if acquirer is not None or self._watches_all:
            self._keeper.leaks.lent(entry, acquirer)

    def _note_failure(self, error: BaseException, waiter: Waiter) -> None:
        """Count that an acquire has failed, and raise what explains *error* better.

        A variable of the caller's that refers to the error would make a cycle with its traceback,
        and keep a connection that a frame of it refers to.
        """
        if isinstance(error, ForkError):
            return
        outcome: Outcome = "error"
        now, began = clock(), waiter.began
        if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
            outcome = "timeout" if isinstance(error, psycopg_pool.PoolTimeout) else "rejected"
            if (acquirer := CURRENT.get()) is not None:
                # The queue has not come so far in this time, and hardly will in a shorter one.
                acquirer.retry_after = max(acquirer.retry_after, math.ceil(now - began), 1)
        if outcome == "rejected" or waiter.counted > waiter.taken:  # it has waited
            self._count("requests_errors")
        if waiter.counted > 1:
            self._count("requests_num", 1 - waiter.counted)
        self._keeper.outcomes.refused(outcome, began, now, self._place, waiter.taken)
        if outcome == "timeout":
            state = state_of(self._keeper, now)
            text = f"couldn't get a connection after {now - began:.2f} sec{state}"
            raise PoolTimeout(text) from None

    def _refuse(self, conn: Any) -> None:
        """Raise :exc:`ValueError` for a connection that is not lent from here; not where the pool
        itself has taken it back, since the thread that used it had ended."""
        entry = entry_of(conn)
        if entry and entry.unowned_at is not None and entry.state in ("closing", "gone"):
            return
        owner = getattr(conn, "_pool", None)
        why = f"it comes from pool {owner.name!r}" if owner else "it doesn't come from any pool"
        raise ValueError(f"pool {self.name!r} can't take the connection back: {why}: {conn}")

    def _note_return(self, conn: Any, condition: Condition, *, in_acquire: bool) -> None:
        """Log and count, as psycopg_pool does, how a connection comes back that is not clean."""
        if condition in ("closed", "lost") and in_acquire:
            self._count("connections_lost")
            logger.info("not serving connection found broken")
            return
        if condition == "unfit":
            logger.warning("closing returned connection: %s", conn)
        if condition in ("unfit", "closed", "lost"):
            self._note_bad(conn)

    def _note_bad(self, conn: Any) -> None:
        self._count("returns_bad")
        logger.warning("discarding closed connection: %s", conn)

    def _place(self) -> Place | None:
        """Where its connections lead: as the last one did, else as the conninfo says."""
        if self._keeper.connects.place is None:
            self._keeper.connects.place = place_by(
                self._tried if callable(self.conninfo) else self.conninfo, self.kwargs
            )
        return self._keeper.connects.place

    # -- connects ------------------------------------------------------------------------------

    def _may_connect_again(self, entry: Entry, error: Exception, made_with: object) -> bool:
        """Whether a connect is tried again at once, which has failed with *error*.

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

    # -- what a guard asks for -----------------------------------------------------------------

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
        self._keeper.can_inquire = True

    def inquire_after(self, seconds: float) -> None:
        """Have the server asked by then what it grants."""
        self._keeper.inquire_at = min(self._keeper.inquire_at, clock() + seconds)
        self._ring()

    def inquired(self, *, has_room: bool, again: float | None) -> None:
        """The server has just told what it grants; *has_room* tells whether that is enough. It is
        to be asked *again* after so many seconds, or not before there is a reason."""
        self._keeper.inquired(clock(), again)
        if has_room and self._keeper.outage.refused:
            self._keeper.outage.ended()
        self._ring()

    def _note_silence(self) -> None:
        """Where no connection is ever at hand to ask with, what was learned once ends."""
        if self._keeper.is_voiceless(clock()) and self._when_voiceless is not None:
            self._when_voiceless()

    def _is_to_inquire(self) -> bool:
        return self._inquire is not None and clock() >= self._keeper.inquire_at

    def greeted(self, conn: Any, backend: Backend) -> None:
        """Say which session a connection of this pool is with, as the server tells it: should this
        process die, its slot stays taken until that session is gone."""
        if (entry := entry_of(conn)) is not None:
            self._keeper.leases.record_backend(entry, backend)

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
        """Nobody has been given a connection for longer than an acquire may take, and some wait, or
        have waited in vain."""
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
        """The process will end: close what nobody uses any more, siblings' needs first.

        Whoever still asks is served. While the process *accepts* requests, the last connection
        stays. Safe in a signal's handler: it takes no lock.
        """
        self._keeper.accepts = accepts
        self._keeper.leaving = True
        self._ring()

    def _new_watch(self) -> Watch:
        """The watch on the sockets, which hears the siblings too."""
        watch = Watch()
        siblings = self._keeper.leases.ledger.siblings
        if siblings.fileno() >= 0:
            watch.listen(siblings.fileno(), siblings.catch_up)
        return watch

    def _ring(self) -> None:
        """Have the pool looked at now; nothing before it is opened, which looks anyway."""
        if (watch := getattr(self, "_watch", None)) is not None:
            watch.ring()

    def _look_soon(self) -> None:
        self._core.look_due = False
        self._ring()

    def _resize(self, min_size: int, max_size: int | None) -> None:
        sizes = bounds(min_size, max_size)
        logger.info("resizing %r to min_size=%s max_size=%s", self.name, *sizes)
        self._core.min_size, self._core.max_size = sizes
        self._ring()  # those who wait may have a connection opened for them now

    # -- opening, closing, forks ---------------------------------------------------------------

    def _may_open(self) -> bool:
        """Whether there is anything to open; raises where it was closed already."""
        self._insist_not_forked()
        if not self._core.closed:
            return False
        if self._was_opened:
            raise PoolClosed("pool has already been opened/closed and cannot be reused")
        return True

    def _incomplete(self, timeout: float) -> PoolTimeout:
        """The error of a wait for the floor that was in vain."""
        state = state_of(self._keeper, clock())
        return PoolTimeout(f"pool initialization incomplete after {timeout} sec{state}")

    def _insist_not_forked(self) -> None:
        if self._forked:
            raise ForkError(
                f"the pool {self.name!r} was opened before this process ({os.getpid()}) was "
                f"forked, and its connections belong to the parent. Open the pool in the child: "
                f"under gunicorn, in post_fork or later, which poolguard's hooks do"
            )

    def _disown(self) -> None:
        """In a forked child: this pool is the parent's. No lock is taken, one may be held."""
        self._forked = True
        self._keeper.disown()


_open_pools: WeakSet[Base] = WeakSet()


def remember_open(pool: Base) -> None:
    """Have *pool* closed to children that are forked from now on."""
    _open_pools.add(pool)


def _after_fork_in_child() -> None:
    for pool in list(_open_pools):
        pool._disown()
    _open_pools.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
