"""What a host of a fleet owes to others: so many connections, for a short while."""

from __future__ import annotations

from ..sharing import NOTHING_OWED, Owed

__all__ = ["ASKED_FOR", "Debts"]

ASKED_FOR = 1.0
"""Seconds for which what others were asked for is owed: who needs more asks again."""


class Debts:
    """What others have asked one host for, and not been given yet."""

    def __init__(self) -> None:
        self._orders: dict[int, tuple[Owed, float]] = {}

    def __repr__(self) -> str:
        return f"<Debts {self._orders}>"

    def owe(self, now: float, asker: int, order: Owed) -> None:
        """An *asker*, by its control session, has asked for so many."""
        self._orders[asker] = order, now + ASKED_FOR

    def owed(self, now: float) -> Owed:
        """All of it."""
        # Each asker counts what all hosts need.
        orders = [order for order, until in self._orders.values() if now < until]
        return Owed(*map(max, zip(*orders, strict=True))) if orders else NOTHING_OWED

    def paid(self, n: int) -> None:
        """So many slots were given back."""
        for asker, (order, until) in self._orders.items():
            self._orders[asker] = Owed(*(max(0, owed - n) for owed in order)), until

    def end(self, now: float) -> float:
        """When nothing is owed any more, unless something is asked for until then."""
        return max((until for order, until in self._orders.values() if any(order)), default=now)

    def clear(self) -> None:
        """All of that was owed by a session that has ended."""
        self._orders.clear()
