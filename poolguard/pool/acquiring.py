"""How an acquire ends, in a pool of either kind: with a connection, or with an error.

The ordinary one, which finds a connection free, comes here only where it is to be told of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import psycopg_pool

from ..errors import ForkError
from ..util.clock import now as clock
from .acquirer import CURRENT, Acquirer
from .entry import Entry
from .errors import PoolTimeout, TooManyRequests
from .events import Outcome, Place
from .jobs import done
from .outbox import logger
from .returning import Returning
from .session import is_dead, place_by
from .status import state_of
from .waiter import Waiter

__all__ = ["Acquiring"]


class Acquiring(Returning):
    """A pool of either kind, as far as it lends connections."""

    _sleep: Callable[[float], Any]
    _obtain: Callable[[Any, float], Any]

    def _acquire_in_vain(self, timeout: float) -> None:
        """Raise what an acquire meets in a pool that is not open, or that has no time.

        Warn where the pool was opened in its constructor without being told to.
        """
        self._statistics.count("requests_num")
        self._insist_open()
        if timeout <= 0:
            raise PoolTimeout
        self._statistics.count("requests_num", -1)  # it is counted as it is queued, or served
        self._opens_unasked = False
        self._warn_of_opening()

    def _reject(self) -> NoReturn:
        self._statistics.count("requests_num")
        raise TooManyRequests(
            f"the pool {self.name!r} has already {len(self._core.waiting)} requests waiting"
            f"{state_of(self._keeper, clock())}"
        )

    def _lend(self, entry: Entry, began: float, acquirer: Acquirer | None) -> None:
        """An acquire that began at *began* has found a connection."""
        if self._tells_immediate:
            self._keeper.outcomes.ended(began, clock(), entry, was_free=True, taken=1)
        elif acquirer is not None and self._notes_immediate:
            self._keeper.outcomes.note(acquirer)
        if acquirer is not None or self._watches_all:
            self._keeper.leaks.lent(entry, acquirer)

    def _lend_late(self, entry: Entry, waiter: Waiter) -> None:
        """An acquire that found no connection free at first has been given one."""
        if waiter.counted > 1:
            self._statistics.count("requests_num", 1 - waiter.counted)
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
                # The queue took longer than this, and will hardly be faster next time.
                acquirer.retry_after = max(acquirer.retry_after, math.ceil(now - began), 1)
        if outcome == "rejected" or waiter.counted > waiter.taken:  # it has waited
            self._statistics.count("requests_errors")
        if waiter.counted > 1:
            self._statistics.count("requests_num", 1 - waiter.counted)
        self._keeper.outcomes.refused(outcome, began, now, self._place, waiter.taken)
        if outcome == "timeout":
            state = state_of(self._keeper, now)
            text = f"couldn't get a connection after {now - began:.2f} sec{state}"
            raise PoolTimeout(text) from None

    def _place(self) -> Place | None:
        """Where the pool's connections lead: as the last one did, else as the conninfo says."""
        if self._keeper.lifecycle.place is None:
            self._keeper.lifecycle.place = place_by(
                self._tried if callable(self.conninfo) else self.conninfo, self.kwargs
            )
        return self._keeper.lifecycle.place

    async def _obtain_checked(self, conn: Any, waiter: Waiter) -> Any:
        """The first connection from *conn* on that the ``check`` callback does not refuse."""
        while True:
            entry: Entry = conn._poolguard_entry
            asked_at = clock()
            is_refused = True
            try:
                await done(self._on_check(conn))
                is_refused = False
            except Exception as error:  # noqa: BLE001 - whatever it is, it refuses this one
                logger.info("connection failed check: %s", error)
            finally:
                if is_refused:
                    with self._mutex:
                        again = self._check_failed(waiter, entry, asked_at, conn)
                    self._do(self._put(conn, entry, in_acquire=True))
            if not is_refused:
                return conn
            await done(self._sleep(waiter.pause(clock(), at_once=again)))
            if (now := clock()) >= waiter.until:
                raise PoolTimeout
            conn = await done(self._obtain(waiter, now))

    def _check_failed(self, waiter: Waiter, entry: Entry, asked_at: float, conn: Any) -> bool:
        """The ``check`` callback, asked at *asked_at*, has refused *conn*.

        True: the acquire tries another at once. The connection was there before the acquire began
        and has died, and there may be more of its kind.
        """
        dead = is_dead(conn, entry)
        if dead:
            self._core.doubt(asked_at)
        was_free, waiter.free = waiter.free, False
        return dead and was_free and entry.connected_at < waiter.began
