"""What one process knows of all that share the ledger: the limits that bind it, and what is taken.

Some of it is as of the last look, which costs a lock for each process. The rest is read from the
file when it is asked for.
"""

from __future__ import annotations

from time import monotonic

from ..quotas import Constraint, Quota, constraints, counted, quotas
from ..sharing import NOTHING_OWED, Member, Owed
from ..slots import CONNECTING
from ..terms import Scope
from .access import Access
from .file import MOST_SLOTS
from .members import FRESH

__all__ = ["PAST", "View"]

PAST = 600.0
"""Seconds for which it matters what a process held that has ended: a service that is started again
has the load that it had."""


class View:
    """What this process sees of the others. Not thread-safe: the ledger's lock must be held."""

    def __init__(self, access: Access) -> None:
        self._file = access.file
        self._slots = access.file.slots
        self._members = access.members
        self._scope = access.scope
        self._supply = access.supply
        self.quotas: list[Quota] = []
        """All quotas, by the last look; none until any process knows any terms."""
        self.constraints: list[Constraint] = []
        """The limits that bind this process, by the last look."""
        self.is_scarce = False
        """There are no more connections than processes, by the last look. Then the rights depend on
        which processes wait at the moment."""
        self.guaranteed = MOST_SLOTS
        """What was guaranteed to this process at the last look."""

    def look(self, within: float = FRESH) -> bool:
        """See anew which processes live, and what they tell.

        Returns False where that was done less than *within* seconds ago, and is not done again.
        """
        if not self._members.look(within):
            return False
        self.quotas = quotas(self.everybody())
        stocked = self._stocked(self.quotas, self._withdrawn())
        self.constraints = constraints(self._members.me.number, counted(stocked, self.count_taken))
        self.guaranteed = min(
            (each.mine.guaranteed for each in self._guaranteeing()), default=self.guaranteed
        )
        self.is_scarce = any(quota.limit <= len(quota.members) for quota in stocked)
        return True

    def _stocked(self, found: list[Quota], withdrawn: int = 0) -> list[Quota]:
        """The quotas *found*, where no more is divided than there is at this host, less what is
        *withdrawn* from it."""
        if self._supply is None or not found:
            return found
        whole = found[0]
        limit = max(0, self._supply.stock() - withdrawn)
        return [whole._replace(limit=min(whole.limit, limit)), *found[1:]]

    def _withdrawn(self) -> int:
        """What this host owes to others: one of its processes is not to take what another one has
        given up for them."""
        owed = self.owed_to_hosts()
        return owed.returned if self._members.starving() else max(owed)

    def _guaranteeing(self) -> list[Constraint]:
        """The limits under which this process has its guaranteed connections. What other hosts have
        yet to give up is guaranteed, too."""
        if self._supply is None or not self.quotas:
            return self.constraints
        whole = self.quotas[0]
        ordered = max(self._supply.owed())
        limit = max(self._supply.guaranteed(), self._supply.stock() - ordered)
        wanted = [whole._replace(limit=min(whole.limit, limit)), *self.quotas[1:]]
        return constraints(self._members.me.number, counted(wanted, self.count_taken))

    def owed_to_hosts(self) -> Owed:
        """What all of this host's processes together owe to other hosts."""
        return NOTHING_OWED if self._supply is None else self._supply.owed()

    # -- as of now -----------------------------------------------------------------------------

    def everybody(self) -> list[Member]:
        """This process and its siblings, with what they tell now."""
        return [self._members.me, *self._members.siblings()]

    def living(self) -> list[Member]:
        """The same without a look: what has changed since the last one is still news."""
        others = self._members.others_now()
        return [self._members.me, *(self._file.member(number) for number in others)]

    def quotas_now(self) -> list[Quota]:
        """All quotas as their members are now, with the slots that are taken."""
        return counted(self._stocked(quotas(self.everybody())), self.count_taken)

    def constraints_now(self) -> list[Constraint]:
        """The limits that bind this process, as the members are now."""
        found = self._stocked(quotas(self.everybody()), self._withdrawn())
        return constraints(self._members.me.number, counted(found, self.count_taken))

    def starving_siblings(self) -> list[Member]:
        """The siblings that starve, for no more than all limits that bind them leave to them."""
        starving = self._members.starving()
        if starving and len(self.quotas) > 1:
            members = [each for quota in self.quotas_now()[:1] for each in quota.members]
            return [each for each in members if each.number in starving]
        return [self._file.member(number) for number in starving]

    def count_taken(self, scope: Scope | None) -> int:
        """Slots that are taken within the *scope* of a limit."""
        if scope is None:
            return self._slots.count()
        records = (self._file.slot(number) for number in self._slots.taken(0, MOST_SLOTS))
        return sum(record.scope.is_within(scope) for record in records)

    def count_connecting(self, scope: Scope | None) -> int:
        """Slots within the *scope* of a limit whose living owners have no session yet."""
        records = [self._file.slot(number) for number in self._slots.taken(0, MOST_SLOTS)]
        return sum(
            record.backend == CONNECTING and not record.dead_since and record.scope.is_within(scope)
            for record in records
        )

    def is_over(self) -> bool:
        """Whether more slots are taken than some limit allows."""
        return any(
            sum(self._file.member(each.number).held for each in quota.members) > quota.limit
            if quota.scope
            else self._slots.count() > quota.limit
            for quota in self.quotas
        )

    def past_use(self) -> int:
        """The most that a process of this database held which was told to end lately."""
        held, at = self._file.past(self._scope.database)
        return held if 0 <= monotonic() - at < PAST else 0  # a reboot sets the clock back

    # -- by the last look ----------------------------------------------------------------------

    @property
    def limit(self) -> int | None:
        """The least of the limits that bind this process; None where none is known."""
        mine = self._members.me.number
        return min((quota.limit for quota in self.quotas if quota.binds(mine)), default=None)

    @property
    def least_scope(self) -> Scope | None:
        """The scope of the least limit that binds this process."""
        least = min(self.constraints, key=lambda each: each.limit, default=None)
        return least.scope if least else None

    @property
    def has_one_database(self) -> bool:
        """All processes use the same database as this one."""
        members = self.quotas[0].members if self.quotas else ()
        return all(each.scope.database == self._scope.database for each in members)
