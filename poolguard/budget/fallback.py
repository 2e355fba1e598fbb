"""The ledger of a process that cannot use the one that it is to share."""

from __future__ import annotations

from pathlib import Path

from .host.partitions import Partitions
from .ledger import RECHECK, Say
from .sharing import NOTHING_OWED, Owed
from .slots import Slot
from .static import NoSiblings, StaticLedger
from .terms import Terms

__all__ = ["FallbackLedger"]


class FallbackLedger(StaticLedger):
    """An equal part of the share, as of a static ledger.

    The part is smaller while more processes have one than there are workers: at a reload there are
    twice as many.

    :param path: where the folder is that cannot be used.
    :param name: that of the ledger which is to be shared.
    """

    def __init__(self, path: Path | None, name: str, *, workers: int) -> None:
        super().__init__(1)
        self.siblings = _Unseen(self)
        self._partitions = Partitions(path, name, least=workers)
        self._share: int | None = None

    def __repr__(self) -> str:
        return f"<FallbackLedger {self.in_use} of {self._limit}>"

    @property
    def partitioned(self) -> bool:
        return True

    @property
    def recheck(self) -> float | None:
        return RECHECK

    def agree(self, terms: Terms) -> Terms:
        with self._lock:
            self._share = terms.instance
            self._partitions.least = terms.workers
            self._look()
        self._callbacks.call()
        return terms

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            self._look()
            n = min(n, self._partitions.allows(holds=self.in_use > 0))
        return super().lease(n)

    def maintain(self, say: Say) -> bool:  # noqa: ARG002 - it was said
        with self._lock:
            self._look()
        return False

    def close(self) -> None:
        with self._lock:
            self._partitions.close()

    def _look(self) -> None:
        self._partitions.look(self._fits)

    def _fits(self, parts: int) -> bool:
        if self._share is not None:
            self._limit = max(1, self._share // parts)
        return self.in_use <= (self._limit or 0)


class _Unseen(NoSiblings):
    """Siblings that are not seen: what is held beyond the part may be theirs."""

    def __init__(self, ledger: StaticLedger) -> None:
        self._ledger = ledger

    def owed(self) -> Owed:
        over = self._ledger.in_use - (self._ledger.limit or 0)
        return Owed(over, over) if over > 0 else NOTHING_OWED
