"""This host, as its keeper sees it: what its processes have and need, and what they are told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic

from ..host.access import Access
from ..ledger import Orphans
from ..sharing import NOTHING_OWED, Owed
from .file import FleetFile, Standing
from .grants import GrantedSlots
from .steps import Figures

__all__ = ["OwnHost"]

ENDED = Figures(0, 0, 0, 0, 0, 0, 0, draining=True)
ORDERED_FOR = 1.0
"""Seconds for which the host's processes go by what is owed, unless it is told again."""


class OwnHost:
    """What the host's processes share. It takes the ledger's lock by itself.

    :param orphans: the slots of owners that have died, where the keeper is to ask about them.
    :param figures: what they have and need; None once this process has no part in it any more.
    :param catch_up: has this process see anew what it has a right to, and its pools look at that.
    """

    def __init__(
        self,
        access: Access,
        file: FleetFile,
        slots: GrantedSlots,
        *,
        orphans: Orphans | None,
        figures: Callable[[], Figures | None],
        catch_up: Callable[[], None],
    ) -> None:
        self.file = file
        self.orphans = orphans
        self.folder = access.folder
        self.name = access.name
        self._access = access
        self._slots = slots
        self._figures = figures
        self._catch_up = catch_up
        self._ordered = NOTHING_OWED
        self._known: Figures | None = None

    def __repr__(self) -> str:
        return f"<OwnHost {self.name} {self.figures()}>"

    # -- its processes -------------------------------------------------------------------------

    def figures(self) -> Figures:
        """What they have and need, as it was when that was last looked at."""
        if self._known is None:
            self._known = self._figures() or ENDED
        return self._known

    def look(self) -> Figures:
        """What they have and need now."""
        self._known = None
        return self.figures()

    def others_live(self) -> bool:
        """Whether another process takes part."""
        with self._access.lock:
            if self._access.closed:
                return False
            return bool(self._access.members.others_now())

    def may_keep(self) -> bool:
        """Whether this process may be the keeper: one that will end only where all will."""
        with self._access.lock:
            if self._access.closed:
                return False
            members = self._access.members
            return not members.me.draining or all(each.draining for each in members.siblings())

    def ring_siblings(self) -> None:
        """Wake the others."""
        with self._access.lock:
            if not self._access.closed:
                members = self._access.members
                members.ring(members.others_now())

    def ring_all(self) -> None:
        """Wake them, and this process' own pools."""
        self.ring_siblings()
        self._catch_up()

    # -- its slots -----------------------------------------------------------------------------

    def taken(self) -> set[int]:
        """Those that are in use."""
        with self._access.lock:
            return {*self._slots.taken(1, self._slots.size)}

    def granted(self) -> set[int]:
        """Those that were granted, in use or not."""
        return self._slots.granted()

    def lost(self) -> set[int]:
        """Those that are in use, and are not granted: what granted them has ended."""
        return self.taken() - self.granted()

    def granted_free(self) -> frozenset[int]:
        """Those that were granted, and that no process uses."""
        return frozenset(self.granted() - self.taken())

    def grant(self, slots: Collection[int]) -> None:
        """Have its processes use these from now on."""
        if slots:
            self._known = None
            for slot in slots:
                self._slots.grant(slot)
            self.ring_all()

    def withhold(self, n: int) -> set[int]:
        """Have them use up to *n* free ones no more: those with the highest numbers, so that what
        is beyond the budget goes first."""
        withheld: set[int] = set()
        self._known = None
        with self._access.lock:
            for slot in sorted(self._slots.granted(), reverse=True):
                if len(withheld) == n:
                    break
                if self._slots.withhold(slot):
                    withheld.add(slot)
        return withheld

    # -- what they are told --------------------------------------------------------------------

    def order(self, order: Owed) -> None:
        """Have them give up what other hosts are owed."""
        if order == self._ordered and not any(order):
            return
        news = order != self._ordered
        self._ordered = order
        self.file.write_ordered(order, monotonic() + ORDERED_FOR)
        if news and any(order):
            self.ring_all()

    def tell(self, standing: Standing) -> None:
        """Tell how the fleet stands."""
        self.file.write_standing(standing._replace(written_at=monotonic()))
