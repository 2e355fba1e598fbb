"""What one process tells its siblings on the host, and what they want of it."""

from __future__ import annotations

from time import monotonic

from ..ledger import RECHECK
from ..quotas import owed_under
from ..sharing import NOTHING_OWED, Owed
from .access import Access
from .held import HeldSlots
from .view import View

__all__ = ["HostSiblings"]

RING_AGAIN = 0.2
"""Seconds between two rings for the same need."""


class HostSiblings:
    """Implements :class:`.Siblings` by the records and the bells of the ledger."""

    def __init__(self, access: Access, view: View, held: HeldSlots) -> None:
        self._access = access
        self._lock = access.lock
        self._file = access.file
        self._members = access.members
        self._view = view
        self._held = held
        self._rang_at = 0.0

    left_alone = 30.0  # whoever needs a slot looks by itself for those of the dead

    def fileno(self) -> int:
        return -1 if self._access.closed else self._members.bell

    def catch_up(self) -> None:
        with self._lock:
            if self._access.closed:
                return
            self._members.empty_bell()
            self._view.look(within=0)
            self._members.tell()
        self._access.callbacks.call()

    def report_starving(self, n: int) -> None:
        if n == 0 and self._members.me.starving == 0:
            return
        with self._lock:
            if self._access.closed:
                return
            begins = self._members.me.starving == 0
            self._members.tell(starving=n)
            now = monotonic()
            if n and (begins or now - self._rang_at >= RING_AGAIN):
                self._rang_at = now
                self._view.look(within=0)
                self._members.ring()

    def report_failing(self, fails: bool) -> None:
        if fails == self._members.me.failing:
            return
        with self._lock:
            if not self._access.closed:
                self._members.tell(failing=fails)
                self._view.look(within=0)

    def drain(self) -> None:
        with self._lock:
            if self._access.closed or self._members.me.draining:
                return
            held = len(self._held)
            if held > self._view.past_use():  # one that does little says nothing of the others
                self._file.write_past(self._access.scope.database, held, monotonic())
            self._members.tell(draining=True)
            self._view.look(within=0)
            self._members.ring()

    def guaranteed(self, floor: int) -> int:
        terms, guaranteed = self._members.me.terms, self._view.guaranteed
        if terms is None or guaranteed >= terms.floor:
            return floor
        return min(floor, guaranteed)

    def owed(self) -> Owed:
        with self._lock:
            me = self._members.me
            if self._access.closed or me.terms is None or not self._view.quotas:
                return NOTHING_OWED
            to_hosts = self._view.owed_to_hosts()
            if not (self._members.starving() or self._view.is_over() or any(to_hosts)):
                return NOTHING_OWED
            self._view.look(within=RECHECK / 2)
            return owed_under(self._view.quotas_now(), me.number, to_hosts)

    @property
    def could_help(self) -> bool:
        with self._lock:
            quotas = self._view.quotas
            if self._access.closed or not self._held or not quotas:
                return False
            starving = [self._file.member(number) for number in self._members.starving()]
            needed = sum(each.starving for each in starving if not each.draining)
            return needed > max(0, quotas[0].limit - self._view.count_taken(None))
