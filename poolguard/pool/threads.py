"""What only a sync pool has: the threads in which it works, and the upkeep among them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import ReferenceType, ref

from ..util.clock import now as clock
from ..util.clock import waitable
from .base import remember_open
from .entry import finish
from .housekeeper import Housekeeper
from .jobs import Job, at_once
from .sockets import Watch
from .tending import Tending

__all__ = ["Threads"]

HANGS_AFTER = 0.5
"""Seconds after which closing a pool waits no more for a connect that is under way. The server may
hang; psycopg cannot be told to give a connect up."""


class Threads(Tending):
    """A sync pool, as far as it works in threads of its own."""

    _is_async = False
    _opening_warning = (
        DeprecationWarning,
        "{0} was opened in its constructor, which will not be the default for ever: say open=True "
        "or open=False, or open it with a block: `with {0}(...) as pool:`",
    )

    def _begin_threads(self) -> None:
        self._mutex = threading.RLock()  # reentrant: a signal's handler may come here, too
        self._warm_event = threading.Event()
        self._keeper.watches_owners = True
        self._upkeep: threading.Thread | None = None
        self._jobs: dict[threading.Thread, str] = {}
        """Connects, checks and resets, some of which may have ended."""

    def _begin_upkeep(self) -> None:
        watch = self._watch = self._new_watch()
        remember_open(self)
        self._keeper.opened(self.name, clock(), watch.ring)
        self._upkeep = threading.Thread(
            target=_keep_up,
            # The ring of __del__ comes too early: the pool can still be reached then.
            args=(ref(self, lambda _: watch.ring()), watch, self._keeper, self._mutex),
            name=f"{self.name}-upkeep",
            daemon=True,
        )
        self._upkeep.start()

    def _disown(self) -> None:
        super()._disown()
        self._mutex = threading.RLock()  # the old one may be held, by a thread that is not here

    def _begin(self, what: str, job: Job[None]) -> None:
        try:
            self._in_thread(what, at_once, job)
        except RuntimeError:
            job.close()
            raise

    def _in_thread(self, what: str, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=f"{self.name}-{what}", daemon=True)
        thread.start()
        running = {each: its for each, its in self._jobs.items() if each.is_alive()}
        self._jobs = running | {thread: what}

    def _do(self, job: Job[None] | None) -> None:
        if job is not None:
            at_once(job)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _tell(self) -> None:
        """Have the listeners told in another thread: the upkeep must go on where one blocks."""
        if self._keeper.outbox:
            try:
                self._in_thread("tell", self._keeper.outbox.tell)
            except RuntimeError:  # the process may have no more threads
                self._keeper.outbox.tell()

    def _unfinished(self, waited: float) -> threading.Thread | None:
        """A thread of the closed pool that is about to end, but for that which asks."""
        here = threading.current_thread()
        opening = self._core.counts().opening > 0
        hangs = opening and waited >= HANGS_AFTER
        for job, what in self._jobs.items():
            if job.is_alive() and job is not here and not (hangs and what == "connect"):
                return job
        upkeep = self._upkeep
        if upkeep is None or upkeep is here or not upkeep.is_alive():
            return None
        watch = self._watch
        closing = watch.any_closing()
        stays = not closing and (hangs or (len(watch) > 0 and not opening))
        return None if stays else upkeep

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the floor to be reached; true when it has been.

        Unlike :meth:`wait` it leaves the pool open when it has not. With no time to wait, no lock
        is taken.
        """
        return self._warm_event.is_set() or (
            timeout > 0 and self._warm_event.wait(waitable(timeout))
        )

    def run_task(self, task: Any) -> None:
        """Run a task in a thread, as psycopg_pool does in a worker."""
        self._in_thread("task", task.run)

    def schedule_task(self, task: Any, delay: float) -> None:
        """Run a task in a thread, after so many seconds."""
        timer = threading.Timer(delay, self.run_task, (task,))
        timer.daemon = True
        timer.start()

    def __del__(self) -> None:
        if (watch := getattr(self, "_watch", None)) is not None:
            watch.ring()


def _keep_up(
    pool: ReferenceType[Threads],
    watch: Watch,
    keeper: Housekeeper,
    mutex: AbstractContextManager[Any],
) -> None:
    """The upkeep thread: it holds the pool only while it looks at it.

    Once the pool is closed, or collected, it stays until the last connection has ended, so that
    every slot is given back.
    """
    wake: float | None = 0.0  # the first look is due at once: it begins the warm-up
    while True:
        ended = watch.wait(None if wake is None else max(0.0, wake - clock()))
        this = pool()
        if this is not None and not this.closed:
            wake = this._look_on(ended)
            del this
            continue
        dropped = this is None
        del this
        with mutex:
            idle = keeper.wind_up(clock(), ended, dropped=dropped)
            opening = keeper.core.counts().opening
        for conn in idle:
            finish(conn)
        keeper.outbox.tell()
        wake = clock() + 1.0 if watch.blind or opening else None
        if not len(watch) and not opening:
            keeper.close()
            watch.close()
            return
