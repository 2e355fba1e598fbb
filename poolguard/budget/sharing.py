"""What processes that share one limit owe each other. Pure arithmetic on counts of connections.

Each living process has two *rights*, derived from all that live now. It is *guaranteed* one
connection, and its floor as far as the floors of all add up: no other process borrows these,
whether they are used or not. And it has its *fair* share of the whole, floors included, while
others want the rest. The rights of all never add up to more than there is.

Where there are fewer connections than processes, no connection is guaranteed, and they go round: a
process that has none and needs one has a right to one, in the order in which they began to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .terms import Scope, Terms

__all__ = [
    "NOTHING_OWED",
    "Member",
    "Owed",
    "Right",
    "expected",
    "may_take",
    "owed",
    "owed_by_all",
    "owed_their_share",
    "rights",
]


class Member(NamedTuple):
    """One living process, as the others see it."""

    number: int
    terms: Terms | None
    held: int
    starving: int
    """Slots that it needs and has not found."""
    draining: bool
    failing: bool = False
    """It cannot connect."""
    scope: Scope = Scope()
    pid: int = 0
    without_since: float = 0.0
    """Since when it starves and holds none, by the monotonic clock; 0 where that is not so."""
    weight: int = 1
    """How many processes it stands for: a host among hosts is all of its workers."""

    @property
    def floor(self) -> int:
        """What it asks to be guaranteed.

        A process that will end keeps its last connection as long as it has it, or needs it. More
        than one is of no use to a process that cannot connect.
        """
        if self.draining:
            return min(self.weight, self.held + self.starving)
        if self.terms is None or self.failing:
            return self.weight
        return max(self.weight, self.terms.floor)


class Right(NamedTuple):
    """What one process may have, in connections."""

    guaranteed: int
    """At any time, whatever the others do."""
    fair: int
    """Also while others want what it holds."""


class Owed(NamedTuple):
    """How many connections a process is asked to give up for its siblings."""

    idle: int
    """So many idle ones are to be closed now."""
    returned: int
    """And so many more as they come back, before the process' own queue is served."""


NOTHING_OWED = Owed(0, 0)


def rights(limit: int, members: Collection[Member], free: int | None = None) -> Mapping[int, Right]:
    """Each member's right, by its number, where *limit* binds them all.

    Floors that do not fit are cut to one height, in proportion to the members' weights. Where there
    is not one connection for each, those that have waited longest have a right to one: as many as
    are *free*, or *limit* by default.
    """
    floors = [each.floor for each in members]
    if limit < sum(floor > 0 for floor in floors):
        waiting = sorted((each for each in members if each.starving and not each.held), key=_turn)
        first = {each.number for each in waiting[: max(0, limit if free is None else free)]}
        return {each.number: Right(0, int(each.number in first)) for each in members}
    weights = [each.weight for each in members]
    guaranteed = _filled(limit, weights, [min(1, floor) for floor in floors], floors)
    most = [own if each.draining else limit for each, own in zip(members, guaranteed, strict=True)]
    fair = _filled(limit, weights, guaranteed, most)
    return {
        each.number: Right(own, share)
        for each, own, share in zip(members, guaranteed, fair, strict=True)
    }


def _turn(member: Member) -> tuple[bool, float, int]:
    """The order in which processes without a connection get one, where there are not enough."""
    return member.failing, member.without_since, member.number


def _filled(
    limit: int, weights: Sequence[int], least: Sequence[int], most: Sequence[int]
) -> list[int]:
    """What each gets where all are filled to one height, each between its bounds, so that *limit*
    is enough. What one of weight 2 gets counts half as high."""
    unit = max(weights, default=1)  # the height of one connection for who weighs most

    def at(height: int) -> list[int]:
        return [
            max(a, min(b, height * weight // unit))
            for a, b, weight in zip(least, most, weights, strict=True)
        ]

    low, high = 0, limit * unit
    while low < high:
        height = (low + high + 1) // 2
        if sum(at(height)) <= limit:
            low = height
        else:
            high = height - 1
    return at(low)


def may_take(mine: Right, held: int, *, free: int, kept: int, urgent: int = 0) -> int:
    """How many slots more a process may take that holds *held*; below 0, how many it has too many.

    :param free: slots that are free.
    :param kept: how many of these are guaranteed to others.
    :param urgent: what siblings below their fair share starve for (:func:`owed_their_share`). A
        process that has its fair share leaves these alone, too: the giver of a slot would otherwise
        be the first to take it again.
    """
    short = mine.guaranteed - held
    spare = free - kept - max(0, short)
    if urgent and spare > 0:
        spare = min(spare, max(0, mine.fair - max(held, mine.guaranteed), spare - urgent))
    return spare if short < 0 else min(free, short) + max(0, spare)


def owed_their_share(right: Mapping[int, Right], siblings: Iterable[Member]) -> int:
    """What *siblings* starve for of their fair shares, beyond what they are guaranteed."""
    known = [(each, right[each.number]) for each in siblings if each.number in right]
    return sum(
        min(each.starving, max(0, its.fair - max(each.held, its.guaranteed))) for each, its in known
    )


def owed(
    limit: int, me: Member, siblings: Collection[Member], over: int = 0, free: int = 0
) -> Owed:
    """What *me* owes its starving siblings: its part of what all can lend, and not more.

    An idle connection beyond what is guaranteed to its holder helps any sibling that starves. A
    connection that comes back is taken from the holder's own queue only for a sibling below its
    fair share, and only while the holder is above its own.

    :param over: how many connections are held beyond the limit: these are to be given up, too.
    :param free: how many slots are free: no connection need be given up for these.
    """
    right = rights(limit, [me, *siblings])
    needed, urgent = _needed(right, [me, *siblings], siblings, free)
    lenders = [me, *(each for each in siblings if not each.starving)]
    lendable = sum(_beyond(each, right[each.number].guaranteed) for each in lenders)
    above = sum(_beyond(each, right[each.number].fair) for each in (me, *siblings))
    mine = right[me.number]
    return Owed(
        idle=_part(over + needed, _beyond(me, mine.guaranteed), lendable),
        returned=_part(over + urgent, _beyond(me, mine.fair), above),
    )


def owed_by_all(limit: int, members: Collection[Member], over: int = 0) -> Mapping[int, Owed]:
    """What each of *members* owes the others, by its number, as :func:`owed` says for one.

    Here the parts add up to what is needed, and not to more: one is asked for one connection, and
    not each of many for its part of one, rounded up.
    """
    right = rights(limit, members)
    needed, urgent = _needed(right, members, members, free=0)
    lendable = {
        each.number: 0 if each.starving else _beyond(each, right[each.number].guaranteed)
        for each in members
    }
    above = {each.number: _beyond(each, right[each.number].fair) for each in members}
    idle, returned = _divided(over + needed, lendable), _divided(over + urgent, above)
    return {each.number: Owed(idle[each.number], returned[each.number]) for each in members}


def _beyond(member: Member, level: int) -> int:
    return max(0, member.held - level)


def _needed(
    right: Mapping[int, Right], everybody: Iterable[Member], siblings: Iterable[Member], free: int
) -> tuple[int, int]:
    """What the siblings starve for that is not free, and how much of that is theirs by right."""
    kept = sum(max(0, right[each.number].guaranteed - each.held) for each in everybody)
    guaranteed = fair = whole = 0
    for each in siblings:
        if each.starving:
            mine = right[each.number]
            due = min(each.starving, max(0, mine.guaranteed - each.held))
            guaranteed += due
            of_share = min(each.starving, max(0, mine.fair - each.held)) - due
            fair += of_share
            # One that will end needs no more than its share, but that, for the clients it has.
            whole += of_share if each.draining else each.starving - due
    spare = max(0, free - kept)
    missing = max(0, guaranteed - max(0, free))
    return missing + max(0, whole - spare), missing + max(0, fair - spare)


def _part(whole: int, mine: int, everybody: int) -> int:
    """The part of *whole* in proportion to *mine*, rounded up, and at most *mine*."""
    return min(mine, -(-whole * mine // everybody)) if everybody else 0


def _divided(whole: int, parts: Mapping[int, int]) -> Mapping[int, int]:
    """Parts of *whole* in proportion to *parts*, none of them larger, that add up to *whole* where
    there is so much. What is left by rounding falls to the largest."""
    everybody, divided = sum(parts.values()), {}
    for number, mine in sorted(parts.items(), key=lambda part: part[1], reverse=True):
        divided[number] = given = _part(whole, mine, everybody)
        whole, everybody = whole - given, everybody - mine
    return divided


def expected(limit: int, me: Member, siblings: Collection[Member], past: int = 0) -> int:
    """How many connections *me* will use, by what its siblings hold: its fair share at most.

    At a reload the processes that are to end know the load: the others are as new as *me*.

    :param past: what a process held that has ended since.
    """
    known = [member for member in siblings if member.draining] or siblings
    held = sum(member.held for member in known) // len(known) if known else 0
    living = sum(not member.draining for member in siblings) + (not me.draining)
    return min(max(held, past), limit // max(1, living))
