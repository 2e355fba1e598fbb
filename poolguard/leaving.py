"""Notices SIGTERM: a worker gives up its floor when it begins to drain, not when it is done.

Servers call no hook between the signal and the end of the last request. The handler found is
called as before; nothing is done in its place.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

from . import registry

__all__ = ["leave_when_told"]

logger = logging.getLogger("poolguard")


def _at_once(leave: Callable[[], Any], handler: Any) -> None:  # noqa: ARG001 - as others do it
    leave()


def leave_when_told(
    tell: Callable[[Callable[[], Any], Any], None] = _at_once,
) -> Callable[[], None]:
    """From now on, have SIGTERM make this process' guards leave, before the handler found acts.

    :param tell: is given a function that does both, and the handler found, and calls that function:
        at once, or when the server will accept no more requests, which need connections.

    Returns a function that takes this back, where nobody has set another handler since.
    """
    before = signal.getsignal(signal.SIGTERM)
    if (
        not callable(before)  # the default ends the process at once
        or getattr(before, "leaves", False)
        or threading.current_thread() is not threading.main_thread()
    ):
        return lambda: None

    def leave(number: int, frame: Any) -> None:
        def leave_and_pass_on() -> None:
            try:
                for guard in registry.guards():
                    guard.leave()
            except Exception:  # whatever happens, the server has to be told
                logger.exception("a guard could not be told that the process will end")
            before(number, frame)

        tell(leave_and_pass_on, before)

    leave.leaves = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, leave)
    # As servers have it: requests under way are not to see interrupted system calls.
    signal.siginterrupt(signal.SIGTERM, False)

    def undo() -> None:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, before)

    return undo
