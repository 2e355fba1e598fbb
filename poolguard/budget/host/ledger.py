"""The ledger that all processes of one user on one host share for one server.

No slot belongs to a process before it is leased. How many a process may lease follows, at that
moment, from which processes live and what they hold (:mod:`poolguard.budget.sharing`).
"""

from __future__ import annotations

from collections.abc import Callable

from ...util.rundir import RuntimeDir
from ..ledger import RECHECK, Orphans, Say, Siblings, Usage
from ..slots import Backend, Seat, Slot
from ..terms import ANYWHERE, Granted, Scope, Terms
from .access import Access
from .agreement import Agreement
from .held import HeldSlots
from .leasing import Leasing
from .maintenance import Maintenance
from .orphans import HostOrphans
from .siblings import HostSiblings
from .supply import Supply
from .usage import HostUsage
from .view import View

__all__ = ["HostLedger"]


class HostLedger:
    """One process' part in the ledger *name* of *folder*, which it closes in the end.

    :param workers: processes that get a floor. While no process knows any terms (:meth:`agree`), so
        many slots may be leased, one by each: no budget that can be divided at all is smaller.
    :param scope: the database and the role whose limits bind its connections.
    :param supply: where the slots come from, if they are not this host's own.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the file is no ledger.
    """

    def __init__(
        self,
        folder: RuntimeDir,
        name: str,
        *,
        workers: int,
        scope: Scope = ANYWHERE,
        supply: Supply | None = None,
    ) -> None:
        self.scope = scope
        self._access = access = Access(folder, name, scope, supply)
        self._view = view = View(access)
        self._held = held = HeldSlots(access)
        self._agreement = agreement = Agreement(access, view, workers)
        self._usage = HostUsage(access, view)
        orphans = HostOrphans(access, held)
        self._leasing = Leasing(access, view, held, agreement, orphans)
        self._maintenance = Maintenance(access, view, held, agreement, orphans)
        self.siblings: Siblings = HostSiblings(access, view, held)
        self.orphans: Orphans = orphans
        self.usage: Usage = self._usage

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._access.name} {len(self._held)} held, "
            f"{self.in_use} of {self.limit}>"
        )

    # -- terms ---------------------------------------------------------------------------------

    def agree(self, terms: Terms) -> Terms:
        ruling = self._agreement.agree(terms)
        self._access.callbacks.call()
        return ruling

    @property
    def published(self) -> Granted | None:
        return self._agreement.published

    @property
    def partitioned(self) -> bool:
        return self._agreement.partitioned

    @property
    def limit(self) -> int | None:
        return self._view.limit

    # -- slots ---------------------------------------------------------------------------------

    def lease(self, n: int) -> list[Slot]:
        return self._leasing.lease(n)

    def record_backend(self, slot: Slot, backend: Backend) -> None:
        self._leasing.record_backend(slot, backend)

    def release(self, slot: Slot) -> None:
        self._leasing.release(slot)

    def abandon(self, slot: Slot, *, overdue: bool = False) -> None:
        self._leasing.abandon(slot, overdue=overdue)

    def seat(self, slot: Slot) -> Seat | None:  # noqa: ARG002 - the locks of its file are enough
        return None

    def unseated(self, slot: Slot) -> None: ...

    @property
    def end(self) -> int | None:
        return None  # any slot may be given back, since they are counted

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._access.callbacks.add(callback)

    @property
    def in_use(self) -> int:
        return self._usage.in_use

    def explain(self) -> str:
        return self._usage.explain()

    # -- upkeep --------------------------------------------------------------------------------

    @property
    def recheck(self) -> float | None:
        return RECHECK

    def maintain(self, say: Say) -> bool:
        return self._maintenance.maintain(say)

    def close(self) -> None:
        self._access.close()
