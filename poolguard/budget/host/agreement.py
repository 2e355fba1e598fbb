"""The terms that one process goes by, and what of them counts while not all share one file."""

from __future__ import annotations

import threading
from time import monotonic

from ..terms import Granted, Terms, learned
from .access import Access
from .view import View

__all__ = ["Agreement"]

PARTITIONED_FOR = 2.0
"""Seconds after which the last sibling has noticed, too, that there is one partition again."""


class Agreement:
    """This process' terms, divided by the number of partitions.

    :param workers: processes that get a floor, until there are terms.
    """

    def __init__(self, access: Access, view: View, workers: int) -> None:
        self._access = access
        self._lock: threading.Lock = access.lock
        self._members = access.members
        self._partitions = access.partitions
        self._view = view
        self.workers = workers
        self._agreed: Terms | None = None
        """The terms as they were given. Those of this partition are what siblings are told."""
        self._partitioned_at = -PARTITIONED_FOR

    def agree(self, terms: Terms) -> Terms:
        """Implements :meth:`.Ledger.agree`, but for the callbacks."""
        with self._lock:
            self._access.insist_open()
            self.workers = terms.workers
            self._agreed = terms
            self.divide()
            self._members.tell()
            self._view.look(within=0)
            self._members.ring()
            ruling = self._view.limit
        if ruling is None or self.partitioned:
            return terms
        return terms._replace(instance=min(terms.instance, ruling))

    @property
    def published(self) -> Granted | None:
        """Implements :attr:`.Ledger.published`."""
        with self._lock:
            if self._access.closed:
                return None
            self._view.look(within=0)
            known = [
                (each.scope, each.terms.granted)
                for each in self._members.siblings()
                if each.terms is not None and each.terms.granted is not None
            ]
        return learned(known, self._access.scope)

    @property
    def partitioned(self) -> bool:
        """Implements :attr:`.Ledger.partitioned`."""
        with self._lock:
            if not self._access.closed:
                self.divide()
            return monotonic() - self._partitioned_at < PARTITIONED_FOR

    # -- with the lock held --------------------------------------------------------------------

    def divide(self) -> None:
        """Look for other partitions, and go by this one's share while there are some."""
        self._partitions.look(self._fits)
        if self._partitions.count > 1:
            self._partitioned_at = monotonic()

    def allows(self, *, holds: bool) -> int:
        """How many slots more this process may take, as far as other partitions matter.

        :param holds: whether it holds any.
        """
        allowed = self._partitions.allows(holds=holds)
        if not allowed:  # they may have made room just now
            self.divide()
            allowed = self._partitions.allows(holds=holds)
        return allowed

    def _fits(self, parts: int) -> bool:
        if self._agreed is None:
            return True
        terms = self._agreed.divided(parts)
        if terms != self._members.me.terms:
            self._members.tell(terms=terms)
            self._view.look(within=0)
        return not self._view.is_over()
