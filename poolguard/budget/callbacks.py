"""The functions that are called when a slot may have become free."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..util.logs import logger

__all__ = ["Callbacks"]


class Callbacks:
    """A list of subscribers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Subscribe *callback*; returns a function that ends the subscription."""
        with self._lock:
            self._all.append(callback)

        def remove() -> None:
            with self._lock:
                if callback in self._all:
                    self._all.remove(callback)

        return remove

    def call(self) -> None:
        """Call all subscribers, after the slot is free. No lock of the ledger may be held.

        An exception in one of them is logged, and does not stop the rest.
        """
        with self._lock:
            callbacks = list(self._all)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("telling of a free slot failed; the ledger goes on")
