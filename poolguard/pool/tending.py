"""How a pool of either kind tends itself: one round of its upkeep, and its end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ..util.clock import now as clock
from ..util.logs import logger as ours
from .acquiring import Acquiring
from .checking import Checking
from .connecting import Connecting
from .entry import Entry
from .errors import PoolClosed

__all__ = ["Tending"]


class Tending(Acquiring, Checking, Connecting):
    """A pool of either kind, but for the threads or tasks in which it works."""

    _tell: Callable[[], None]

    def _look_on(self, ended: Collection[Entry]) -> float | None:
        """:meth:`_look`, whatever that raises: the upkeep must not end before the pool does."""
        try:
            return self._look(ended)
        except Exception:
            ours.exception("the upkeep of pool %r failed; it goes on", self.name)
            return clock() + 1.0

    def _look(self, ended: Collection[Entry]) -> float | None:
        """One round of upkeep; returns when the next is due, by the monotonic clock."""
        with self._mutex:
            todo = self._keeper.look(clock(), ended)
            counts = self._core.counts()
            full: list[Any] = []
            if counts.size - counts.opening >= counts.min_size:
                full, self._full = self._full, []
        for event in full:
            event.set()
        if self._keeper.warm_after is not None:
            self._warm_event.set()
        self._note_silence()
        if todo.asked is not None and self._keeper.expected.tell(todo.asked):
            self._ring()
        for opening in todo.openings:
            try:
                self._begin("connect", self._open_one(opening))
            except RuntimeError as error:
                self._do(self._not_opened(opening, error))
        for conn in todo.dead:
            self._statistics.count("connections_lost")
            self._bury(conn)
        for conn in todo.surplus:
            self._do(self._discard(conn))
        for entry, conn, ask in todo.checks:
            self._begin_check(conn, entry, ask)
        self._tell()
        return todo.wake

    def _shut(self) -> list[Any]:
        """Refuse all acquires from now on, and return the connections that are to be closed."""
        with self._mutex:
            waiting, conns = self._core.shut(clock())
        for waiter in waiting:
            waiter.error = PoolClosed(f"the pool {self.name!r} is closed")
            waiter.wake()
        return conns

    async def _drain(self) -> None:
        with self._mutex:
            conns = self._core.drain(clock())
        for conn in conns:
            await self._discard(conn)
        self._ring()
