"""Who holds which slot of the budget: the protocol, and the ledger of one process alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["Ledger", "Slot", "StaticLedger"]


class Slot:
    """The right to hold one physical connection. Worth nothing but its identity."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"<Slot {self.number}>"


class Ledger(Protocol):
    """What a pool asks before it connects. No method blocks."""

    def lease(self, n: int) -> list[Slot]:
        """Take up to *n* free slots; fewer, or none, is an answer and not an error."""

    def release(self, slot: Slot) -> None:
        """Give back a slot whose connection the server has ended."""

    def starving(self, n: int) -> None:
        """Say that *n* more slots are needed and none was free; 0 takes that back."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, when a slot may have become free.

        Returns a function that ends the subscription.
        """

    @property
    def in_use(self) -> int:
        """Slots taken now."""

    @property
    def limit(self) -> int | None:
        """Slots in all; None where nothing bounds them."""


class StaticLedger:
    """A fixed share of the budget, for this process alone: nothing is borrowed or lent.

    ``StaticLedger()`` has no bound and only counts.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._made = 0
        self._callbacks: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"of {self._limit}"
        return f"<StaticLedger {self.in_use} {limit}>"

    @property
    def in_use(self) -> int:
        return self._made - len(self._free)

    @property
    def limit(self) -> int | None:
        return self._limit

    def set_limit(self, limit: int) -> None:
        """Change the share; slots above a lowered one are not taken away, only not leased again."""
        with self._lock:
            self._limit = limit
        self._tell()

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            if self._limit is not None:
                n = min(n, self._limit - self.in_use)
            leased: list[Slot] = []
            for _ in range(n):
                if self._free:
                    leased.append(self._free.pop())
                else:
                    leased.append(Slot(self._made))
                    self._made += 1
            return leased

    def release(self, slot: Slot) -> None:
        with self._lock:
            self._free.append(slot)
        self._tell()

    def starving(self, n: int) -> None:
        """Nobody else can help."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._callbacks.append(callback)

        def unsubscribe() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return unsubscribe

    def _tell(self) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()
