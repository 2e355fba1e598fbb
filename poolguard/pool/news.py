"""What a pool has to tell, kept until no lock is held: events for listeners, and log records.

The records are written under the name of psycopg_pool's logger, so that those who filter or count
its records go on doing so.
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

__all__ = ["News", "logger"]

logger = logging.getLogger("psycopg.pool")


class News:
    """The news of one pool.

    :param listener: told of them; what it raises is logged, and cannot harm the pool.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener if isinstance(listener, Listeners) else Listeners([listener])
        self.telling: list[int] = []
        """The threads that tell of them just now."""
        self._news: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        """There is something to tell."""
        return bool(self._news)

    def add(self, tell: Callable[..., None], *event: object) -> None:
        """Have ``tell(*event)`` called when no lock is held."""
        self._news.append(partial(tell, *event))

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
            while self._news:
                try:
                    news = self._news.popleft()
                except IndexError:
                    return  # another thread tells the rest
                news()
        finally:
            self.telling.pop()
