"""How many connections and processes a host has, as one of the processes counts them."""

from __future__ import annotations

from ..quotas import fair_to_database, tightest
from ..sharing import Member, expected
from ..shortage import before_any_terms, explained
from ..terms import Scope
from .access import Access
from .view import View

__all__ = ["HostUsage"]

NOTICED = 15.0
"""Seconds after which it is told that a process was killed, at the latest. All others say so."""


class HostUsage:
    """Implements :class:`.Usage`, and what :class:`.Ledger` tells of the slots that are taken."""

    def __init__(self, access: Access, view: View) -> None:
        self._access = access
        self._lock = access.lock
        self._members = access.members
        self._scope = access.scope
        self._view = view

    @property
    def processes(self) -> int:
        with self._lock:
            if self._access.closed:
                return 1
            return len(self._sharing()[1])

    @property
    def established(self) -> int:
        with self._lock:
            if self._access.closed:
                return 0
            scope, sharing = self._sharing()
            return sum(each.held for each in sharing) - self._view.count_connecting(scope)

    def _sharing(self) -> tuple[Scope | None, list[Member]]:
        """The scope of the least limit that binds this process, and all that it binds now."""
        self._view.look(within=0)
        scope = self._view.least_scope
        return scope, [each for each in self._view.everybody() if each.scope.is_within(scope)]

    @property
    def database_share(self) -> int | None:
        with self._lock:
            if self._access.closed:
                return None
            self._view.look(within=0 if self._members.changed else NOTICED)
            limit = self._view.limit
            if limit is None or self._view.has_one_database:
                return limit
            return min(limit, fair_to_database(self._view.quotas[0], self._scope.database))

    def expected(self) -> int:
        with self._lock:
            if self._access.closed:
                return 0
            self._view.look(within=0)
            if not self._view.quotas:
                return 0
            siblings = [
                each
                for each in self._members.siblings()
                if each.scope.database == self._scope.database
            ]
            limit = self._view.quotas[0].limit
            return expected(limit, self._members.me, siblings, self._view.past_use())

    @property
    def in_use(self) -> int:
        """Implements :attr:`.Ledger.in_use`."""
        with self._lock:
            if self._access.closed:
                return 0
            scope = self._view.least_scope
            if scope is None and not self._view.has_one_database:
                scope = Scope(self._scope.database)
            return self._view.count_taken(scope)

    def explain(self) -> str:
        """Implements :meth:`.Ledger.explain`."""
        with self._lock:
            if self._access.closed:
                return "The ledger is closed"
            self._view.look(within=0)
            number = self._members.me.number
            quota = tightest(self._view.quotas_now(), number)
            if quota is None:
                return before_any_terms(self._members.me, self._members.siblings())
            return explained(quota, *quota.apart(number))
