"""What adapters do with a warm pool before the worker serves, as asking what a dialect must know.

The wait for it may be over before that is done. Then the request that needs it does it.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ..util.escape import escaped
from .guards import Guard

__all__ = ["Readying"]

_tasks: set[asyncio.Task[None]] = set()  # the loop itself would let a task go


class Readying:
    """The jobs of one warm guard, begun as this is made: in a thread, or in a task of its loop."""

    def __init__(self, guard: Guard, log: Any) -> None:
        self._guard = guard
        self._log = log
        self.is_due = bool(guard.when_warm)
        """It has not ended."""
        if not self.is_due:
            return
        if guard.mode == "async":
            task = asyncio.get_running_loop().create_task(self._do_async())
            _tasks.add(task)
            task.add_done_callback(self._end)
        else:
            # gevent may have put a class of its own in the place of the one that there was when
            # this file was imported, and the former never says that a greenlet has ended.
            name = f"poolguard-{guard.name}-ready"
            threading.Thread(target=self._do, name=name, daemon=True).start()

    def __repr__(self) -> str:
        return f"<Readying {self._guard.name!r}{'' if self.is_due else ' done'}>"

    def _end(self, task: asyncio.Task[None]) -> None:
        self.is_due = False
        _tasks.discard(task)

    def _do(self) -> None:
        try:
            for job in [*self._guard.when_warm]:
                try:
                    job()
                except Exception as error:  # noqa: BLE001 - an adapter's, or its framework's
                    self._say(error)
        finally:
            self.is_due = False

    async def _do_async(self) -> None:
        for job in [*self._guard.when_warm]:
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - the same
                self._say(error)

    def _say(self, error: Exception) -> None:
        self._log.warning(
            "poolguard %r is warm, but what a request would do first with a new connection has "
            "failed (%s: %s): the first request does it",
            self._guard.name,
            type(error).__name__,
            escaped(str(error)),
        )
