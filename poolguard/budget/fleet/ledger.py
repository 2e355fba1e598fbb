"""The ledger of a fleet: the host's, whose slots are leased from a budget that all hosts share.

What a host was granted its processes divide among them as any host's do
(:mod:`poolguard.budget.host`), by locks of the kernel. So no acquire, and almost no connect, asks
anybody beyond the host.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from weakref import WeakSet

from ...settings import MOST_SLOTS
from ...util.rundir import RuntimeDir
from ..host.ledger import HostLedger
from ..host.locktable import LockTable
from ..host.sharedfile import SharedFile
from ..ledger import TEND_EVERY, Say, Siblings
from ..quotas import Quota
from ..sharing import Member, Owed, rights
from ..slots import Seat, Slot
from ..terms import ANYWHERE, Scope, Terms
from .file import FleetFile, Standing
from .grants import GrantedSlots
from .keeper import FleetSettings, Keeper
from .steps import Figures

__all__ = ["FleetLedger", "wanted"]


class _Grants:
    """Implements :class:`~poolguard.budget.host.supply.Supply` by what the host was granted."""

    def __init__(self, file: FleetFile, *, asks: bool) -> None:
        self.file = file
        self.asks = asks
        self.table: GrantedSlots | None = None

    def slots(self, file: SharedFile, offset: int, n: int, /) -> LockTable:
        self.table = GrantedSlots(file, offset, n, self.file)
        return self.table

    def stock(self) -> int:
        return 0 if self.table is None else self.table.stock()

    def guaranteed(self) -> int:
        standing = self.file.standing()
        # Until the fleet's board was read, a process wants what its own settings say.
        return standing.guaranteed if standing.budget else 1 << 20

    def owed(self) -> Owed:
        return self.file.ordered()


class FleetLedger(HostLedger):
    """One process' part in the ledger *name* of *folder*, which it closes in the end.

    :param fleet: how the fleet's ledger is reached.
    :param seats: whether the pooled sessions are of the very database that has the fleet's ledger,
        where they occupy their slots by locks of their own.

    The others are as :class:`.HostLedger`'s. Raises :exc:`~poolguard.errors.RuntimeDirError` where
    the files are no ledger.
    """

    def __init__(
        self,
        folder: RuntimeDir,
        name: str,
        *,
        workers: int,
        fleet: FleetSettings,
        scope: Scope = ANYWHERE,
        seats: bool = True,
    ) -> None:
        self._file = FleetFile(folder, f"{name}.fleet")
        self._seats = seats
        grants = _Grants(self._file, asks=seats)
        try:
            super().__init__(folder, name, workers=workers, scope=scope, supply=grants)
        except BaseException:
            self._file.close()
            raise
        assert grants.table is not None
        self._table: GrantedSlots = grants.table
        self._keeper = Keeper(
            self._access,
            self._file,
            self._table,
            fleet,
            orphans=self.orphans if seats else None,
            figures=self.figures,
            catch_up=self.siblings.catch_up,
        )
        self.siblings: Siblings = _FleetSiblings(self.siblings, self._keeper)
        self._disowned = False
        _open.add(self)
        self._keeper.consider()

    def agree(self, terms: Terms) -> Terms:
        ruling = super().agree(terms)
        self._keeper.ring()  # the host may be guaranteed more now, or less
        return ruling

    # -- slots ---------------------------------------------------------------------------------

    def lease(self, n: int) -> list[Slot]:
        self._access.insist_open()
        if not self._keeper.is_granting():
            return []
        return super().lease(n)

    def release(self, slot: Slot) -> None:
        super().release(slot)
        self._keeper.ring()  # it may be owed to another host, or be one too many

    def explain(self) -> str:
        if trouble := self._file.trouble:
            return (
                f"The fleet's ledger cannot be used ({trouble}), and this host opens no "
                f"connection until it can"
            )
        fleet = self.standing
        return (
            f"{super().explain()}. The fleet: {fleet.used} of {fleet.budget} connections are used "
            f"by {fleet.hosts} hosts, and {fleet.fair} are this host's fair share"
        )

    def seat(self, slot: Slot) -> Seat | None:
        kind = self._file.standing().seat if self._seats else 0
        return Seat(kind, slot.number) if kind else None

    def unseated(self, slot: Slot) -> None:
        self._file.write_tag(slot.number, b"\0")

    @property
    def end(self) -> int | None:
        return self._file.standing().budget or None

    # -- the fleet -----------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """How the fleet stands, this host included: the others as its keeper last saw them, and
        this one as it is now. Zeros once this ledger is closed."""
        figures = self.figures()
        with self._access.lock:
            if figures is None or self._access.closed:
                return Standing()
            others = self._file.standing()
        return others._replace(
            granted=others.granted + figures.granted,
            used=others.used + figures.used,
            need=others.need + figures.need,
        )

    @property
    def trouble(self) -> str | None:
        """Why the fleet's ledger cannot be reached; None where it can, and once this is closed."""
        with self._access.lock:
            return None if self._access.closed else self._file.trouble or None

    def figures(self) -> Figures | None:
        """What the host's processes have and need; None once this ledger is closed."""
        with self._access.lock:
            if self._access.closed:
                return None
            members = self._view.living()
            starving = any(each.starving for each in members)
            quotas = self._quotas_now() if starving else []
            granted = self._table.granted()
            taken = {*self._table.taken(0, self._table.size)}
        terms = [each.terms for each in members if each.terms is not None]
        budget = min((each.server for each in terms if each.server is not None), default=0)
        end = min((n for n in (budget, self._file.standing().budget) if n), default=MOST_SLOTS)
        living = [each for each in members if not each.draining]
        free = granted - taken
        return Figures(
            budget=budget,
            workers=len(living or members),
            floors=sum(each.floor for each in members),
            granted=len(granted),
            used=len(taken),
            free=len(free),
            need=max(0, wanted(members) - max(0, len(free) - _kept(quotas))),
            draining=not living,
            beyond=sum(slot >= end for slot in free),
        )

    def _quotas_now(self) -> list[Quota]:
        self._view.look(within=0)
        return self._view.quotas_now()

    # -- upkeep --------------------------------------------------------------------------------

    def maintain(self, say: Say) -> bool:
        if not self._access.closed:
            self._keeper.consider()
        return super().maintain(say)

    def close(self) -> None:
        if self._disowned or self._access.closed:
            return
        _open.discard(self)  # a child that is forked from now on has nothing of it
        self._keeper.stop()
        super().close()
        self._keeper.close()
        self._file.close()

    def __del__(self) -> None:
        if getattr(self, "_keeper", None) is not None:
            self.close()

    def disown(self) -> None:
        """In a forked child: all of it is the parent's."""
        self._disowned = True
        self._keeper.disown()
        self._file.close()


def wanted(members: Sequence[Member]) -> int:
    """How many slots more the processes of a host want. One that will end, while others will not,
    is sure of its last connection, and wants no more than that."""
    go_on = any(not each.draining for each in members)
    return sum(
        min(each.starving, max(0, each.floor - each.held))
        if each.draining and go_on
        else each.starving
        for each in members
    )


def _kept(quotas: Sequence[Quota]) -> int:
    """Free slots that those who starve do not get: they are guaranteed to others of the host."""
    if not quotas:
        return 0
    right = rights(quotas[0].limit, quotas[0].members)
    idle = [each for each in quotas[0].members if not each.starving]
    return sum(max(0, right[each.number].guaranteed - each.held) for each in idle)


class _FleetSiblings:
    """The host's other processes, and beyond them the keeper, who speaks for all hosts."""

    def __init__(self, siblings: Siblings, keeper: Keeper) -> None:
        self._siblings = siblings
        self._keeper = keeper
        self._starved = False
        self.fileno = keeper.fileno
        self.report_failing = siblings.report_failing
        self.guaranteed = siblings.guaranteed
        self.owed = siblings.owed

    @property
    def left_alone(self) -> float:
        # Where the keeper dies, other hosts wait for what this one can give.
        return self._siblings.left_alone if self._keeper.is_heard else TEND_EVERY

    def catch_up(self) -> None:
        self._siblings.catch_up()
        self._keeper.hear()
        if self._keeper.reigns:
            self._keeper.ring()  # a process may have come or gone

    def report_starving(self, n: int) -> None:
        self._siblings.report_starving(n)
        if n:
            self._keeper.ask()
        elif self._starved:
            self._keeper.ring()  # others may have what it does not need any more
        self._starved = n > 0

    def drain(self) -> None:
        self._siblings.drain()
        self._keeper.drain()

    @property
    def could_help(self) -> bool:
        return self._siblings.could_help


_open: WeakSet[FleetLedger] = WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_open):
        ledger.disown()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
