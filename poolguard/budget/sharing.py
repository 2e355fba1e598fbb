"""What processes that share a budget owe each other. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .ledger import Terms, Wanted

__all__ = ["Member", "asked_of"]


@dataclass(frozen=True, slots=True)
class Member:
    """One living process, as the others see it."""

    number: int
    terms: Terms | None
    held: int
    starving: int
    """Slots that it needs and has not found."""
    draining: bool

    @property
    def borrowed(self) -> int:
        """What it holds beyond its floor."""
        return self.above(0 if self.terms is None else self.terms.floor)

    def above(self, level: int) -> int:
        """What it holds beyond *level*; one that will end has a right to nothing."""
        return max(0, self.held - (0 if self.draining else level))


def asked_of(limit: int, me: Member, siblings: Collection[Member], over: int) -> Wanted:
    """What starving siblings may want of *me*: of what can be lent my part, and not more.

    An idle connection beyond one's floor helps whoever starves. One that comes back is taken from
    one's own queue only for a sibling below its fair share (*limit* ÷ living processes), and only
    while one is above one's own. *over* of my slots are beyond what a smaller share allows.
    """
    living = [member for member in siblings if not member.draining]
    fair = limit // max(1, len(living) + (not me.draining))
    need = sum(member.starving for member in living)
    urgent = sum(min(member.starving, max(0, fair - member.held)) for member in living)
    lendable = me.borrowed + sum(member.borrowed for member in siblings if not member.starving)
    above = me.above(fair) + sum(member.above(fair) for member in siblings)
    return Wanted(
        idle=max(over, _part(need, me.borrowed, lendable)),
        returned=_part(urgent, me.above(fair), above),
    )


def _part(whole: int, mine: int, everybody: int) -> int:
    """My part of *whole* in proportion, rounded up, and at most what I have."""
    return min(mine, -(-whole * mine // everybody)) if everybody else 0
