"""A listener that remembers what has happened in a pool, and waits for what is to happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..pool.events import (
    AcquireEnded,
    Closed,
    Connected,
    ConnectFailed,
    Leak,
    Listener,
    Outcome,
    Warmed,
)

__all__ = ["RecordingListener"]

E = TypeVar("E")


class RecordingListener(Listener):
    """Remembers every event of the pools that it is given to, in order.

    A pool tells of an acquire before that returns, and of the rest from threads of its own: a test
    waits for those with :meth:`wait`, and sleeps for none. Any thread may call in.

    :param returns: whether connections that come back are events, too.
    """

    def __init__(self, *, returns: bool = False) -> None:
        self.events: list[Any] = []
        """All so far."""
        self._changed = threading.Condition()
        if returns:
            self.returned = self._remember  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.events)} events>"

    def _remember(self, event: Any, /) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    acquire_ended = connected = connect_failed = closed = warmed = leak = _remember

    def of(self, kind: type[E]) -> list[E]:
        """The events of that class of :mod:`poolguard.pool.events`."""
        return [event for event in [*self.events] if isinstance(event, kind)]

    def wait(self, kind: type[E], timeout: float = 10.0, *, n: int = 1) -> list[E]:
        """The events of that class, once there are *n* of them.

        Raises :exc:`TimeoutError`, with all that has happened, after *timeout* seconds.
        """
        self.wait_for(lambda: len(self.of(kind)) >= n, timeout)
        return self.of(kind)

    def wait_for(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until *condition* is true, which is asked again after each event.

        Raises :exc:`TimeoutError`, with all that has happened, after *timeout* seconds.
        """
        until = time.monotonic() + timeout
        with self._changed:
            while not condition():
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    if condition():
                        return
                    happened = "".join(f"\n  {event}" for event in self.events) or " nothing"
                    raise TimeoutError(f"not within {timeout:g} s; what has happened:{happened}")

    def clear(self) -> None:
        """Forget what has happened."""
        with self._changed:
            self.events.clear()

    @property
    def outcomes(self) -> list[Outcome]:
        """What each acquire was."""
        return [event.outcome for event in self.of(AcquireEnded)]

    @property
    def created(self) -> list[str]:
        """Why each connection was opened."""
        return [event.reason for event in self.of(Connected)]

    @property
    def closes(self) -> list[str]:
        """Why each connection that is gone was closed."""
        return [event.reason for event in self.of(Closed)]

    @property
    def leaks(self) -> list[Leak]:
        """Connections that somebody has in a way that can empty the pool."""
        return self.of(Leak)

    @property
    def failures(self) -> list[ConnectFailed]:
        """Connects that have failed."""
        return self.of(ConnectFailed)

    @property
    def warmups(self) -> list[Warmed]:
        """The pools that have reached their floors."""
        return self.of(Warmed)
