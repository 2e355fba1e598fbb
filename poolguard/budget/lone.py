"""The ledger of a process that cannot use the one which it was to share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .ledger import NOTHING_WANTED, Slot, StaticLedger, Terms, Wanted
from .presence import Presence

__all__ = ["LoneLedger"]

RECHECK = 0.25
"""Seconds after which it is looked again whether others have made room."""


class LoneLedger(StaticLedger):
    """An equal part of the share, as of a static ledger, and a smaller one while more processes
    have a part of it than there are workers: at a reload there are twice as many.

    :param path: where the folder is that cannot be used.
    :param name: that of the ledger which is to be shared.
    """

    def __init__(self, path: Path | None, name: str, *, workers: int) -> None:
        super().__init__(1)
        self._presence = Presence(path, name, least=workers)
        self._share: int | None = None

    def __repr__(self) -> str:
        return f"<LoneLedger {self.in_use} of {self._limit}>"

    @property
    def parted(self) -> bool:
        return True

    @property
    def recheck(self) -> float | None:
        return RECHECK

    def agree(self, terms: Terms) -> Terms:
        with self._lock:
            self._share = terms.instance
            self._presence.least = terms.workers
            self._look()
        self._callbacks.call()
        return terms

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            self._look()
            n = min(n, self._presence.allows(holds=self.in_use > 0))
        return super().lease(n)

    def tend(self, say: Callable[[int, str], None]) -> bool:  # noqa: ARG002 - it was said
        with self._lock:
            self._look()
        return False

    def wanted(self) -> Wanted:
        over = self.in_use - (self._limit or 0)
        return Wanted(over, over) if over > 0 else NOTHING_WANTED

    def close(self) -> None:
        with self._lock:
            self._presence.close()

    def _look(self) -> None:
        self._presence.look(self._fits)

    def _fits(self, parts: int) -> bool:
        if self._share is not None:
            self._limit = max(1, self._share // parts)
        return self.in_use <= (self._limit or 0)
