"""What a pool of either kind is made of, and what it shows; how it is opened, resized and forked.

Both have psycopg_pool's interface and run nothing of it: of its classes they keep the type, and of
its documentation the meaning of each method and argument.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager
from inspect import signature
from itertools import count
from typing import Any
from weakref import WeakSet

from ..errors import ForkError
from ..settings import RENAMED, warn_of_rename
from ..util.clock import now as clock
from .core import bounds
from .errors import PoolClosed, PoolTimeout
from .events import Listener
from .housekeeper import Housekeeper
from .outbox import logger
from .snapshot import Counts
from .sockets import Watch
from .statistics import Statistics
from .status import state_of, status_of
from .upkeep import Pace

__all__ = ["INFO", "Base", "remember_open"]

INFO = logging.INFO
# What psycopg_pool's classes show, and what a housekeeper takes.
_KEPT = {"conninfo", "connection_class", "close_returns", "timeout", "max_waiting"}
_KEPT |= {"max_lifetime", "max_idle", "reconnect_timeout", "num_workers"}
_KEEPERS = signature(Housekeeper).parameters.keys() - {"min_size", "max_size", "listener", "pace"}

_numbers = count(1)


class Base:
    """A pool of either kind: its parts, its attributes and its life."""

    name: str
    conninfo: Any
    kwargs: Any
    timeout: float
    close_returns: bool
    _mutex: AbstractContextManager[Any]
    """What the core is read and changed under."""
    _watch: Watch
    _forked = False
    """This is a child of the process that opened the pool."""
    _on_configure: Any
    _on_check: Any
    _on_reset: Any
    _on_reconnect_failed: Any
    _warm_event: Any
    """Set once the floor has been reached."""
    _opening_warning: tuple[type[Warning], str]
    _tried: str | None = None
    """The conninfo with which it was connected last, or tried to be."""

    def _set_up(self, given: dict[str, Any]) -> None:
        """Keep what the constructor was *given*."""
        for former, name in RENAMED.items():
            if given[former] is not None:
                if given[name] != signature(type(self)).parameters[name].default:
                    raise ValueError(f"{former} is the former name of {name}: drop it")
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
        self._keeper = keeper = Housekeeper(
            min_size,
            max_size,
            pace=Pace(*(given[name] for name in Pace._fields)),
            listener=given["listener"] or Listener(),
            **{name: given[name] for name in _KEEPERS},
        )
        keeper.named(self.name)
        self._core = keeper.core
        self._core.closed = True
        self._was_opened = False
        self._opens_unasked = given["open"] is None
        """It was opened without being told to, of which the first acquire warns."""
        self._tells_immediate = keeper.outcomes.heard_immediate
        self._notes_immediate = keeper.outcomes.noted
        self._watches_all = keeper.leaks.all
        self._full: list[Any] = []
        """Events that :meth:`wait` waits for, until the floor is reached."""
        self._statistics = Statistics(self._core)

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

    @property
    def warm(self) -> bool:
        """The floor has been reached at least once."""
        return bool(self._warm_event.is_set())

    def counts(self) -> Counts:
        """How many connections are where."""
        return self._core.counts()

    def status(self) -> dict[str, Any]:
        """The pool's counts, outcomes and last failure: plain data."""
        with self._mutex:
            return status_of(self._keeper)

    def get_stats(self) -> dict[str, int]:
        """psycopg_pool's statistics: what the pool has, and has counted since they were popped."""
        return self._statistics.get()

    def pop_stats(self) -> dict[str, int]:
        """:meth:`get_stats`, and count anew."""
        return self._statistics.pop()

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
        self._ring()  # a connection may be opened now for an acquire that waits

    def _may_open(self) -> bool:
        """Whether there is anything to open; raises where it was closed already."""
        self._insist_not_forked()
        if not self._core.closed:
            return False
        if self._was_opened:
            raise PoolClosed("pool has already been opened/closed and cannot be reused")
        return True

    def _insist_open(self) -> None:
        self._insist_not_forked()
        if self._core.closed:
            state = "already closed" if self._was_opened else "not open yet"
            raise PoolClosed(f"the pool {self.name!r} is {state}")

    def _warn_of_opening(self) -> None:
        category, text = self._opening_warning
        warnings.warn(text.format(type(self).__name__), category, stacklevel=4)

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
