"""The guards that a server's lifespan opens, waits for, and closes at its end.

Nothing of a protocol is here: the ASGI door says when a lifespan begins and ends. It may run on
asyncio or on trio.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic
from typing import Any

from ..util.logs import logger
from ..worker import context
from ..worker.drain import at_once, leave_when_told
from ..worker.uvicorn import tell_when_read
from .guards import Guard
from .lifecycle import AnyRuntime
from .lookup import guards_to_open
from .prewarm import prewarm
from .usage import announce
from .warmup import await_warm

__all__ = ["Held"]

TURNS = 10
"""Turns of the event loop after which the first connects of a pool that opens are under way."""


class Held:
    """The guards that one lifespan has opened, or shares with another, and lets go of."""

    def __init__(self) -> None:
        self._held: list[tuple[Guard, AnyRuntime]] = []
        self._stop_listening: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Held {' '.join(guard.name for guard, _ in self._held) or 'nothing'}>"

    @classmethod
    async def open(cls, given: Guard | None) -> Held:
        """Open the guards that are not open yet, and wait for them to be warm.

        Raises :exc:`~poolguard.errors.PoolguardError` where the settings cannot work, or where a
        guard is late and that ends the worker.
        """
        self = cls()
        try:
            with _listening() as told:
                announce(given)
                to_warm = self._hold(given)
                began = monotonic()
                for _ in range(TURNS):
                    await _pause(0)
                prewarm()
                for each in to_warm:
                    await await_warm(each, began, told, logger, _pause)
        except BaseException as error:
            await self.close()
            stop_server = context.current().stop_server
            if stop_server is not None and isinstance(error, Exception):
                await stop_server(error)
            raise
        read = tell_when_read(asyncio.get_running_loop()) if _on_asyncio() else at_once
        self._stop_listening = leave_when_told(read)
        return self

    def _hold(self, given: Guard | None) -> list[Guard]:
        """Hold the guards; returns those that have to warm up."""
        to_warm = []
        for each in guards_to_open(given):
            kind = each.mode or "async"
            if kind == "async" and not _on_asyncio():
                _say_that_asyncio_is_needed(each)
                continue
            if not each.opened:
                to_warm.append(each)
            if (runtime := each.hold(kind)) is not None:
                self._held.append((each, runtime))
        return to_warm

    async def close(self) -> None:
        """Let go of the guards, and close those that no other lifespan holds."""
        held, self._held = self._held, []
        self._stop_listening()
        last = [guard for guard, runtime in held if guard.let_go(runtime)]
        # In threads: what closes a sync pool may wait for a server that does not answer.
        closing = [Thread(target=each.shut) for each in last if each.mode == "sync"]
        for thread in closing:
            thread.start()
        for each in last:
            if each.mode != "sync":
                await each.ashut()
        while any(thread.is_alive() for thread in closing):
            await _pause(0.002)


def _on_asyncio() -> bool:
    """Whether asyncio runs what calls this; ASGI servers may run it on trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _pause(seconds: float) -> None:
    if _on_asyncio():
        await asyncio.sleep(seconds)
    else:
        await sys.modules["trio"].sleep(seconds)


def _say_that_asyncio_is_needed(guard: Guard) -> None:
    logger.warning(
        "poolguard %r is not opened: an async pool needs asyncio, and this server runs on another "
        "event loop. Run it on asyncio, or use a guard with mode='sync' in threads",
        guard.name,
    )


@contextmanager
def _listening() -> Iterator[Callable[[], bool]]:
    """Whether a signal to end has come since: while the lifespan starts up, servers only note it.

    Not SIGTERM alone: Ctrl-C reaches the workers too, and gunicorn's master passes on SIGQUIT.
    """
    told = False
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        nonlocal told
        told = True
        before[number](number, frame)

    # The event loop's own handlers hang on a file descriptor and go on working.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            handler = signal.getsignal(number)
            if callable(handler):  # the default ends the process at once
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: told or context.current().told_to_stop()
    finally:
        for noted, handler in before.items():
            if signal.getsignal(noted) is note:
                signal.signal(noted, handler)
