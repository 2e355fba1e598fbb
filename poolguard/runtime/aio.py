"""An async pool while it is open, on the event loop that ran then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..pool.arguments import PoolArguments
from ..settings import Settings
from .runtime import CLOSE_TIMEOUT, Runtime
from .sizing import Bounds

if TYPE_CHECKING:
    from ..pool.aio import AsyncGuardedPool

__all__ = ["AsyncRuntime"]


class AsyncRuntime(Runtime):
    """Opens an async pool on the running loop."""

    mode = "async"
    pool: AsyncGuardedPool[Any] | None

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        from ..pool.aio import AsyncGuardedPool
        from ..pool.jobs import at_once

        super().__init__(name, settings, given)
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself would let a task go
        try:
            pool = self._assembled(AsyncGuardedPool, lambda job: job)
        except BaseException:
            self._let_go()
            raise
        self._have(pool)
        # In an empty context: the pool's tasks are no part of the trace that is current here. At
        # once, so that it is open when this returns: opening a pool only begins tasks.
        Context().run(at_once, pool.open())

    @property
    def alive(self) -> bool:
        """Its loop is still there, too."""
        return super().alive and not self.loop.is_closed()

    @property
    def ended(self) -> bool:  # type: ignore[override]
        return self.loop.is_closed()

    @property
    def usable(self) -> AsyncGuardedPool[Any] | None:
        """The pool where its loop runs: in this thread, where no other can at the same time. (To
        ask which loop runs costs more, where Python is older than 3.12.)"""
        here = threading.get_ident() == self._thread and self.loop.is_running()
        return self.pool if here else None

    def built(self, timeout: float) -> AsyncGuardedPool[Any] | None:  # noqa: ARG002 - it is there
        return None if self.loop.is_closed() else self.pool

    def is_elsewhere(self) -> bool:
        try:
            return self.alive and self.loop is not asyncio.get_running_loop()
        except RuntimeError:  # no loop runs here
            return False

    async def wait_warm(self, timeout: float) -> bool:
        """As that of a sync one."""
        pool = self.pool
        return pool is not None and await pool.wait_warm(timeout)

    async def close(self, timeout: float) -> None:
        """Close the pool, within *timeout* seconds."""
        self.closed = True
        if self.loop.is_closed():
            self.abandon()
        elif self.pool is not None:
            await self.pool.close(timeout)

    def shut(self, timeout: float) -> None:  # noqa: ARG002 - nothing is waited for
        self.abandon()

    def abandon(self) -> None:
        """Let go of a pool whose loop may be gone, where nothing of it can be awaited any more."""
        self.closed = True
        pool = self.pool
        if pool is not None:
            if self.loop.is_closed():
                pool.abandon()
            self._left, self.pool = pool.status(), None

    def close_soon(self) -> None:
        self._soon(lambda: self.close(CLOSE_TIMEOUT))

    def _resize_soon(self, bounds: Bounds) -> None:
        if (pool := self.pool) is not None:
            self._soon(lambda: pool.resize(*bounds))

    def _soon(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """From any thread: begin a task on its loop."""

        def begin() -> None:
            task = self.loop.create_task(job())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.loop.call_soon_threadsafe(begin)
