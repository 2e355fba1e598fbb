"""The ledger of one process alone: a fixed share of the budget, and no siblings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from .callbacks import Callbacks
from .ledger import TEND_EVERY, Orphans, Say, Siblings, Usage
from .sharing import NOTHING_OWED, Owed
from .slots import Backend, Orphan, Seat, Slot
from .terms import Granted, Terms

__all__ = ["NoOrphans", "NoSiblings", "StaticLedger"]


class StaticLedger:
    """A fixed share of the budget, for this process alone: nothing is borrowed or lent.

    :param limit: slots that it has; by default it has no bound and only counts.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._made = 0
        self._callbacks = Callbacks()
        self.siblings: Siblings = NoSiblings()
        self.orphans: Orphans = NoOrphans()
        self.usage: Usage = _OwnUsage(self)

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"of {self._limit}"
        return f"<StaticLedger {self.in_use} {limit}>"

    def agree(self, terms: Terms) -> Terms:
        """Take an equal part of the share.

        Slots above a lowered limit are not taken away, only not leased again.
        """
        with self._lock:
            self._limit = max(1, terms.instance // terms.workers)
        self._callbacks.call()
        return terms

    @property
    def published(self) -> Granted | None:
        return None

    @property
    def partitioned(self) -> bool:
        return False

    @property
    def limit(self) -> int | None:
        return self._limit

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

    def record_backend(self, slot: Slot, backend: Backend) -> None:
        slot.backend = backend

    def release(self, slot: Slot) -> None:
        with self._lock:
            slot.backend = None
            self._free.append(slot)
        self._callbacks.call()

    def abandon(self, slot: Slot, *, overdue: bool = False) -> None:  # noqa: ARG002
        """Release it: there is no other process that could ask about it."""
        self.release(slot)

    def seat(self, slot: Slot) -> Seat | None:  # noqa: ARG002 - nobody else has it
        return None

    def unseated(self, slot: Slot) -> None: ...

    @property
    def end(self) -> int | None:
        return None  # slots have no place here: any of them may be given back

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._callbacks.add(callback)

    @property
    def in_use(self) -> int:
        return self._made - len(self._free)

    def explain(self) -> str:
        return "raise budget, or hold connections shorter"

    @property
    def recheck(self) -> float | None:
        return None

    def maintain(self, say: Say) -> bool:  # noqa: ARG002 - nothing happens to it
        return False

    def close(self) -> None: ...


class NoSiblings:
    """No other process can help or be helped."""

    left_alone = TEND_EVERY

    def fileno(self) -> int:
        return -1

    def catch_up(self) -> None: ...

    def report_starving(self, n: int) -> None: ...

    def report_failing(self, fails: bool) -> None: ...

    def drain(self) -> None: ...

    def guaranteed(self, floor: int) -> int:
        return floor

    def owed(self) -> Owed:
        return NOTHING_OWED

    @property
    def could_help(self) -> bool:
        return False


class NoOrphans:
    """No other process can die and leave a slot."""

    def claim(self) -> list[Orphan]:
        return []

    def resolve(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None: ...

    @property
    def has_taken_over(self) -> bool:
        return False


class _OwnUsage:
    """What this process alone has of its own ledger."""

    def __init__(self, ledger: StaticLedger) -> None:
        self._ledger = ledger

    @property
    def processes(self) -> int:
        return 1

    @property
    def established(self) -> int:
        return self._ledger.in_use

    @property
    def database_share(self) -> int | None:
        return self._ledger.limit

    def expected(self) -> int:
        return 0
