"""What only an async pool has: its loop, the tasks in which it works, and what wakes its upkeep."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from contextvars import Context
from typing import Any
from weakref import ref

from ..errors import PoolguardError
from ..util.clock import now as clock
from .base import remember_open
from .entry import Entry, finish
from .housekeeper import Housekeeper
from .jobs import Job
from .owners import by_task_of
from .sockets import Watch
from .tending import Tending

__all__ = ["Tasks"]


class Tasks(Tending):
    """An async pool but for what its users await: its tasks, and its event loop."""

    _is_async = True
    _opening_warning = (
        RuntimeWarning,
        "{0} was opened in its constructor, which a pool of asyncio's should not be: say "
        "open=False and `await pool.open()`, or open it with a block: "
        "`async with {0}(...) as pool:`",
    )
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

    def _do(self, job: Job[None] | None) -> None:
        if job is not None:
            self._begin("close", job)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _tell(self) -> None:
        self._keeper.outbox.tell()

    async def _end_tasks(self, until: float) -> None:
        """Give up connects and checks, and wait until the server has ended what is being closed."""
        await asyncio.sleep(0)  # one that is cancelled before it has begun would tidy nothing up
        # A callback that closes the pool runs in one of these tasks itself.
        tasks = {t: what for t, what in self._under_way.items() if t is not asyncio.current_task()}
        for task, what in tasks.items():
            if what in ("connect", "verify"):
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, until - clock()))
        while self._watch.any_closing() and clock() < until:
            # The reader wakes the loop when a socket ends; a short sleep sees what it has noted.
            await asyncio.sleep(0.002)
        self._clock.look()

    def abandon(self) -> None:
        """Close a pool whose loop has ended without closing it: nothing can be awaited any more.

        Its slots are given back, also those of connections that are still in use somewhere.
        """
        if self.closed:
            return
        for conn in self._core.shut(clock())[1]:
            self._bury(conn)
        for entry in self._watch.take_all():
            entry.severed = True  # nothing will tell when the server has ended its side
            self._keeper.lifecycle.ended(entry, clock())
        self._keeper.outbox.tell()
        self._keeper.close()
        self._watch.close()

    def _insist_on_its_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise PoolguardError(
                f"the pool {self.name!r} is open on another event loop, and its connections belong "
                f"to that: use it there, or open another pool on this loop"
            )

    def run_task(self, task: Any) -> None:
        """Run a task on the loop, as psycopg_pool does in a worker."""
        self._begin("task", task.run())

    async def schedule_task(self, task: Any, delay: float) -> None:
        """Run a task on the loop, after so many seconds."""
        self._loop.call_later(delay, self.run_task, task)


class _Clock:
    """What wakes the upkeep of an async pool: the watch, the ledger, or the time.

    It holds the pool only while that looks at itself. Once the pool is closed, or collected, it
    stays until the last connection has ended, so that every slot is given back.
    """

    def __init__(self, pool: Tasks, watch: Watch, keeper: Housekeeper) -> None:
        self._pool = ref(pool, lambda _: self.ring())
        self._watch = watch
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # An empty one: what a pool does of itself is no part of the trace of a request.
        self._context = Context()

    def start(self) -> None:
        if self._watch.sees_sockets:
            self._context.run(self._loop.add_reader, self._watch.fileno(), self.look)
        else:
            self._watch.on_ring = self.ring
        self._loop.call_soon(self.look, context=self._context)

    def ring(self) -> None:
        """From any thread: look soon."""
        with suppress(RuntimeError):  # the loop is closed: there will be no look any more
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
            wake = pool._look_on(ended)
        else:
            wake = self._wind_up(ended, dropped=pool is None)
        if wake is not None:
            delay = max(0.0, wake - clock())
            self._timer = self._loop.call_later(delay, self.look, context=self._context)

    def _wind_up(self, ended: list[Entry], *, dropped: bool) -> float | None:
        for conn in self._keeper.wind_up(clock(), ended, dropped=dropped):
            finish(conn)
        self._keeper.outbox.tell()
        if not len(self._watch) and not self._keeper.core.counts().opening:
            self._keeper.close()
            if self._watch.sees_sockets:
                self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
        return clock() + 1.0 if self._watch.blind else None
