"""What processes that share a budget owe each other. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .ledger import Terms, Wanted

__all__ = ["Member", "asked_of", "is_scarce", "may_take", "usual"]


class Member(NamedTuple):
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


def asked_of(
    limit: int, me: Member, siblings: Collection[Member], over: int, free: int = 0
) -> Wanted:
    """What starving siblings may want of *me*: of what can be lent my part, and not more.

    An idle connection beyond one's floor helps whoever starves. One that comes back is taken from
    one's own queue only for a sibling below its fair share (*limit* ÷ living processes), and only
    while one is above one's own, and above one's floor. *over* of my slots are beyond what a
    smaller share allows. *free* shared ones are there to be taken already.
    """
    living = _living(siblings)
    if is_scarce(limit, me, siblings):
        # There is not one for each: who has one lends it to who has none, and is lent it again.
        without = sum(member.starving > 0 and not member.held for member in living)
        lent = me.held + sum(member.held for member in siblings if not member.starving)
        mine = _part(max(0, without - free), me.held, lent)
        return Wanted(idle=max(over, mine), returned=mine)
    fair = _fair(limit, me, living)
    need = max(0, sum(member.starving for member in living) - free)
    urgent = max(0, _urgent(fair, living) - free)
    lendable = me.borrowed + sum(member.borrowed for member in siblings if not member.starving)
    above = _above(me, fair) + sum(_above(member, fair) for member in siblings)
    return Wanted(
        idle=max(over, _part(need, me.borrowed, lendable)),
        returned=_part(urgent, _above(me, fair), above),
    )


def may_take(limit: int, me: Member, siblings: Collection[Member], free: int) -> int:
    """How many slots more *me* may take while *free* shared ones are left.

    Who has a fair share leaves to siblings below theirs what they starve for: the giver of a slot
    would otherwise be the first to take it again.
    """
    living = _living(siblings)
    if is_scarce(limit, me, siblings):
        before = sum(member.starving > 0 and not member.held for member in living)
        return max(0, free - (0 if me.starving else before))
    fair = _fair(limit, me, living)
    urgent = _urgent(fair, living)
    if not urgent:
        return limit
    # One is always allowed: somebody may wait for it in a process that will end, too.
    floor = 0 if me.terms is None else me.terms.floor
    own = 1 if me.draining else max(1, fair, floor)
    return max(0, own - me.held, free - urgent)


def is_scarce(limit: int, me: Member, siblings: Collection[Member]) -> bool:
    """Whether there is less than one for each: nobody is sure of any then."""
    return limit < len(_living(siblings)) + (not me.draining)


def usual(limit: int, me: Member, siblings: Collection[Member], past: int = 0) -> int:
    """How many connections *me* will use, by what its siblings hold: its fair share at most.

    At a reload it is those told to end who know: the others are as new as *me*. *past* is what one
    held that has ended since.
    """
    known = [member for member in siblings if member.draining] or siblings
    held = sum(member.held for member in known) // len(known) if known else 0
    return min(max(held, past), _fair(limit, me, _living(siblings)))


def _living(siblings: Collection[Member]) -> list[Member]:
    """Those who have a right to something."""
    return [member for member in siblings if not member.draining]


def _fair(limit: int, me: Member, living: Collection[Member]) -> int:
    return limit // max(1, len(living) + (not me.draining))


def _above(member: Member, fair: int) -> int:
    """What it holds beyond its fair share and its floor, whose slots nobody else can lease: closed
    for a sibling's sake it would help nobody, and be opened again."""
    floor = 0 if member.terms is None else member.terms.floor
    return member.above(max(fair, floor))


def _urgent(fair: int, living: Collection[Member]) -> int:
    """What those below their fair share starve for, as far as it is theirs."""
    return sum(min(member.starving, max(0, fair - member.held)) for member in living)


def _part(whole: int, mine: int, everybody: int) -> int:
    """My part of *whole* in proportion, rounded up, and at most what I have."""
    return min(mine, -(-whole * mine // everybody)) if everybody else 0
