"""What a pool has to tell, kept until no lock is held: events for listeners, and log records.

The records are written under the name of psycopg_pool's logger, so that filters and counters of its
records go on working.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from ..util.logs import logger as ours
from .events import Leak, Listener, Listeners
from .leaks import log_leak

__all__ = ["Outbox", "logger"]

logger = logging.getLogger("psycopg.pool")


class Outbox:
    """What one pool has to tell.

    :param listener: told of events; what it raises is logged, and cannot harm the pool.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener if isinstance(listener, Listeners) else Listeners([listener])
        self.telling: list[int] = []
        """The threads that are telling just now."""
        self._untold: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        """There is something to tell."""
        return bool(self._untold)

    def add(self, tell: Callable[..., None], *event: object) -> None:
        """Have ``tell(*event)`` called when no lock is held."""
        self._untold.append(partial(tell, *event))

    def log(self, level: int, text: str, *args: object) -> None:
        """Have a record written that psycopg_pool would write here, too."""
        self.add(logger.log, level, text, *args)

    def say(self, level: int, text: str) -> None:
        """Have a record of ours written."""
        self.add(ours.log, level, "%s", text)

    def leak(self, leak: Leak) -> None:
        """Have a leak told of."""
        self.add(log_leak, leak)
        self.add(self.listener.leak, leak)

    def tell(self) -> None:
        """Tell what came since the last call. Not to be called under a lock."""
        self.telling.append(threading.get_ident())
        try:
            while self._untold:
                try:
                    tell = self._untold.popleft()
                except IndexError:
                    return  # another thread tells the rest
                tell()
        finally:
            self.telling.pop()
