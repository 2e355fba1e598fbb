"""What only an async pool has: its loop, the tasks in which it works, and what wakes its upkeep."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from contextvars import Context
from weakref import ref

from ..util.clock import now as clock
from ..util.logs import logger as ours
from .base import remember_open
from .entry import Entry, finish
from .jobs import Job, Jobs
from .keeper import Keeper
from .leaks import by_task_of
from .sockets import Watch

__all__ = ["Tasks"]


class Tasks(Jobs):
    """An async pool, as far as it works in tasks of its own."""

    _is_async = True
    _mutex = nullcontext()

    def _begin_tasks(self) -> None:
        self._warm_event = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], str] = {}
        """The tasks that have not ended, with what each does."""

    def _begin_upkeep(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watch = self._new_watch()
        self._keeper.leaks.taker = by_task_of(self._loop)
        self._clock = _Clock(self, self._watch, self._keeper)
        remember_open(self)
        self._keeper.opened(self.name, clock(), self._clock.ring)
        self._clock.start()

    def _begin(self, what: str, job: Job[None]) -> asyncio.Task[None]:
        # In an empty context: what a pool does is no part of the request that has set it off.
        task = Context().run(self._loop.create_task, job, name=f"{self.name}-{what}")
        self._under_way[task] = what
        task.add_done_callback(self._under_way.pop)
        return task

    def _do(self, job: Job[None]) -> None:
        self._begin("close", job)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _tell(self) -> None:
        self._keeper.news.tell()

    async def _end_tasks(self, until: float) -> None:
        """Give up what is being opened, wait for what is being closed, and see the server end its
        sides."""
        # A callback that closes the pool runs in one of these tasks itself.
        tasks = {t: what for t, what in self._under_way.items() if t is not asyncio.current_task()}
        for task, what in tasks.items():
            if what in ("connect", "verify"):
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, until - clock()))
        while self._watch.any_closing() and clock() < until:
            # The reader wakes the loop when a socket ends; a short sleep sees what it has booked.
            await asyncio.sleep(0.002)
        self._clock.look()


class _Clock:
    """What wakes the upkeep of an async pool: the watch, the ledger, or the time.

    It holds the pool only while that looks at itself. Once the pool is closed, or collected, it
    stays until the last connection has ended, so that every slot is given back.
    """

    def __init__(self, pool: Tasks, watch: Watch, keeper: Keeper) -> None:
        self._pool = ref(pool, lambda _: self.ring())
        self._watch = watch
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # An empty one: what a pool does of itself is no part of the trace in which it was opened,
        # or in which somebody has returned a connection.
        self._context = Context()

    def start(self) -> None:
        if self._watch.sees_sockets:
            self._context.run(self._loop.add_reader, self._watch.fileno(), self.look)
        else:
            self._watch.on_ring = self.ring
        self._loop.call_soon(self.look, context=self._context)

    def ring(self) -> None:
        """From any thread: look soon."""
        with suppress(RuntimeError):  # the loop is closed, and nobody will look any more
            self._loop.call_soon_threadsafe(self.look, context=self._context)

    def look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch.closed:
            return  # a call that was on its way when the last connection ended
        ended = self._watch.wait(0)
        pool = self._pool()
        if pool is not None and not pool.closed:
            try:
                wake = pool._look(ended)
            except Exception:  # the upkeep must not end before the pool does
                ours.exception("the upkeep of pool %r failed; it goes on", pool.name)
                wake = clock() + 1.0
        else:
            wake = self._wind_up(ended, dropped=pool is None)
        if wake is not None:
            delay = max(0.0, wake - clock())
            self._timer = self._loop.call_later(delay, self.look, context=self._context)

    def _wind_up(self, ended: list[Entry], *, dropped: bool) -> float | None:
        for conn in self._keeper.wind_up(clock(), ended, dropped=dropped):
            finish(conn)
        self._keeper.news.tell()
        if not len(self._watch) and not self._keeper.core.counts().opening:
            self._keeper.close()
            if self._watch.sees_sockets:
                self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
        return clock() + 1.0 if self._watch.blind else None
