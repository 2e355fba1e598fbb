"""Notices SIGTERM: a worker gives up its floor at once, and ends when others serve in its place.

Servers call no hook between the signal and the end of the last request. The handler found is called
as before, though not always at once. gunicorn's reload tells the old workers to end while the new
ones boot, and nobody would accept meanwhile.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Literal

from ..util.logs import logger
from . import context, registry

__all__ = ["at_once", "leave_when_told"]

POLL = 0.01
"""Seconds between two looks at whether the successors serve."""
STARVES = 0.1
"""Seconds for which siblings may lack what this process holds, before it stays no longer."""


def at_once(end: Callable[[], Any], handler: Any) -> None:  # noqa: ARG001 - as others do it
    """Pass a signal on to a server that has to be told of nothing before."""
    end()


def leave_when_told(
    tell: Callable[[Callable[[], Any], Any], None] = at_once,
) -> Callable[[], None]:
    """From now on, have SIGTERM make this process' guards leave, and the handler found act when
    the successors serve.

    :param tell: is given a function that calls the handler found, and that handler, and calls the
        function: at once, or when the server has read what it accepted.

    Returns a function that takes this back, where nobody has set another handler since.
    """
    before = signal.getsignal(signal.SIGTERM)
    if (
        not callable(before)  # the default ends the process at once
        or isinstance(before, _Leave)
        or threading.current_thread() is not threading.main_thread()
    ):
        return lambda: None
    leave = _Leave(before, tell)
    signal.signal(signal.SIGTERM, leave)
    # As servers have it: requests under way are not to see interrupted system calls.
    signal.siginterrupt(signal.SIGTERM, False)

    def undo() -> None:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, before)

    return undo


class _Leave:
    """The handler of SIGTERM. gunicorn repeats the signal every second, so it counts once."""

    def __init__(
        self,
        before: Callable[[int, Any], Any],
        tell: Callable[[Callable[[], Any], Any], None],
    ) -> None:
        self._before = before
        self._tell = tell
        self._state: Literal["serves", "stays", "ends", "tells", "told"] = "serves"
        """*stays* for its successors; *tells* while ``tell`` has not called back."""

    def __call__(self, number: int, frame: Any) -> None:
        if self._state == "serves":
            self._leave()
        if self._state == "ends":
            self._state = "tells"
            context.current().stays = False
            self._tell(partial(self._pass_on, number, frame), self._before)
        elif self._state == "told":
            self._before(number, frame)

    def _pass_on(self, number: int, frame: Any) -> None:
        self._state = "told"
        self._before(number, frame)

    def _leave(self) -> None:
        self._state = "ends"
        try:
            worker, guards = context.current(), registry.guards()
            stays = worker.stays = worker.successors_boot()  # first: it is ready where it stays
            for guard in guards:
                guard.leave(accepts=stays)
            if stays:
                self._state = "stays"
                # Not threading's: what this has interrupted may hold its locks.
                _thread.start_new_thread(self._wait, (guards,))
        except Exception:  # whatever happens, the server has to be told
            self._state = "ends"
            logger.exception("a guard could not be told that the process will end")

    def _wait(self, guards: list[registry.Registered]) -> None:
        try:
            now, worker = monotonic(), context.current()
            until, fed = now + worker.longest_stay, now
            while worker.successors_boot() and now < until and now - fed < STARVES:
                time.sleep(POLL)
                now = monotonic()
                if not any(guard.owes for guard in registry.guards()):
                    fed = now
            for guard in guards:
                guard.leave()
        except Exception:
            logger.exception("it cannot be told whether other workers serve: this one ends now")
        finally:
            self._state = "ends"
            os.kill(os.getpid(), signal.SIGTERM)  # handlers are the main thread's business
