"""Waits for guards to be warm, within their time, and as long as nobody stops the server.

A worker that is not warm by then serves anyway, or ends where ``on_warmup_failure`` says so. The
two functions differ in how they wait.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from ..errors import PoolguardError
from ..worker import context
from .guards import Guard
from .prewarm import is_due, prewarm
from .readying import Readying
from .status import not_warm

__all__ = ["await_warm", "wait_warm"]

SOONEST_POLL = 0.002
"""Seconds between two looks at first, where a thread waits."""
POLL = 0.05
"""Seconds between two looks at whether the server was told to stop, where a task waits."""
SYNC_POLL = 0.005
"""Seconds between two looks of a task at a pool that a thread opens."""


def wait_warm(guard: Guard, began: float, stops: Callable[[], bool], log: Any) -> None:
    """Wait for the sync *guard*, since *began* on the monotonic clock, unless the worker *stops*.

    Raises :exc:`~poolguard.errors.PoolguardError` where it is late and that ends the worker.
    """
    wait = _patience(guard)
    dials = False
    # Asked again and again instead of waited for: Ctrl-C has two signals raise SystemExit here, and
    # the second would come while the first leaves a lock.
    while not guard.wait_warm(0):
        if stops():
            return
        if monotonic() >= began + wait:
            _be_late(guard, wait, log)
            return
        if is_due():
            if dials:
                prewarm()  # all that could be done is: the network's answer takes its time
            # A look later: a thread that has just begun to dial would wait for the interpreter.
            dials = guard.status()["opening"] > 0
        # Many workers that wait for long would take the processors from each other, so it becomes
        # rarer: never more than a fiftieth too late. gevent has put its own sleep there by now.
        time.sleep(max(SOONEST_POLL, (monotonic() - began) / 50))
    readying = Readying(guard, log)
    while readying.is_due and not stops() and monotonic() < began + wait:
        time.sleep(SOONEST_POLL)
    log.info(
        "poolguard %r is warm: %s connections, waited for %.0f ms",
        guard.name,
        guard.status()["idle"],
        (monotonic() - began) * 1e3,
    )


async def await_warm(
    guard: Guard,
    began: float,
    stops: Callable[[], bool],
    log: Any,
    pause: Callable[[float], Awaitable[None]],
) -> None:
    """As :func:`wait_warm`, for a guard of either kind in a lifespan.

    :param pause: sleeps for so many seconds on the loop that runs, whichever that is.
    """
    wait = _patience(guard)
    until = began + wait
    while not await _is_warm(guard, min(POLL, until - monotonic()), pause):
        if stops():
            return
        if monotonic() >= until:
            _be_late(guard, wait, log)
            return
    readying = Readying(guard, log)
    while readying.is_due and not stops() and monotonic() < until:
        await pause(SOONEST_POLL)


async def _is_warm(guard: Guard, wait: float, pause: Callable[[float], Awaitable[None]]) -> bool:
    if guard.mode != "sync":
        return await guard.wait_warm_async(wait)
    if not guard.wait_warm(0):  # a thread opens it, and the loop has to go on meanwhile
        await pause(min(SYNC_POLL, max(0.0, wait)))
    return guard.wait_warm(0)


def _patience(guard: Guard) -> float:
    """Seconds that a worker waits for this guard at most."""
    return min(guard.settings.warmup_timeout, context.current().longest_wait)


def _be_late(guard: Guard, waited: float, log: Any) -> None:
    said = not_warm(guard.status(), waited)
    if guard.settings.on_warmup_failure == "exit" and context.current().first_generation:
        raise PoolguardError(said)
    log.warning("%s. It serves anyway, and keeps trying", said)
