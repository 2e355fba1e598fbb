"""What others leave to this host, where that is less than the plan counts on. Time is an argument.

Sessions of other services, and of other hosts, can take what the plan has promised. The server then
refuses connects; asked, it tells how many there are, and from that follows what can be had.
"""

from __future__ import annotations

import random
from typing import Any

from ..budget.plan import Plan

__all__ = ["ASK_AGAIN_WHEN_SHORT", "SIBLINGS_LEARN", "Room"]

ASK_AGAIN_WHEN_SHORT = 5.0
"""Seconds until the server is asked again what it grants, while that is less than is needed."""
ASK_AGAIN_WHEN_MOVING = 1.0
"""The same just after it has changed: some that count yet may be closing."""
ASK_AGAIN_CALMLY = 60.0
"""The same otherwise. Nobody tells when a limit was changed, or when other sessions have gone."""
SIBLINGS_LEARN = 60.0
"""Seconds after a change within which a sibling that goes by less is not said to disagree."""


class Room:
    """How many connections this host can have, as far as others leave less than its share."""

    def __init__(self) -> None:
        self.limit: int | None = None
        """So many can be had in all; None while others leave the whole share."""
        self.refused = False
        """The server has lately had no room for a connection that the plan allows."""
        self.others: list[dict[str, Any]] = []
        """Who held how many connections when there was no room; empty once there is some."""
        self.learning_until = 0.0
        """Until then siblings may not know yet what the server grants now."""
        self._noted_at = 0.0
        self._moves = False
        """The limit was another one before."""

    def __repr__(self) -> str:
        return f"<Room {'for the whole share' if self.limit is None else self.limit}>"

    def note(self, room: int, share: int, now: float, *, felt: bool) -> None:
        """This host can have *room* connections; its *share* is so many.

        Only what was *felt* counts, as a refusal or a smaller limit: other sessions come and go.
        """
        before, self.limit = self.limit, None
        if felt and room < share:
            self.limit = max(1, room)
        self._moves = self.limit != before
        self._noted_at = now
        if self._moves:
            self.learning_until = now + SIBLINGS_LEARN
        if self.limit is None:
            self.refused, self.others = False, []

    def forget_if_old(self, now: float) -> None:
        """What a pooler has room for is found out by trying, since it cannot be asked."""
        if now >= self._noted_at + ASK_AGAIN_WHEN_SHORT:
            self.limit = None

    def of(self, share: int) -> int:
        """What can be had of a *share*."""
        return share if self.limit is None else min(share, self.limit)

    def ask_again_after(self, plan: Plan | None, *, can_change: bool) -> float | None:
        """Seconds until the server is to be asked again; None where it need not be.

        :param can_change: the budget follows what the server says.
        """
        if self.limit is not None and self._moves:
            return ASK_AGAIN_WHEN_MOVING
        if self.limit is not None or (plan is not None and plan.short):
            return ASK_AGAIN_WHEN_SHORT
        return ASK_AGAIN_CALMLY * random.uniform(0.8, 1.0) if can_change else None
