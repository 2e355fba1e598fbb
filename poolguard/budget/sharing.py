"""What processes that share a budget owe each other. Pure arithmetic.

Each living process has two *rights*, derived from who lives now. It is *sure* of one connection,
and of its floor as far as the floors of all add up: nobody borrows these, whether they are used or
not. And it has its *fair* share of the whole, floors included, while others want the rest. The
rights of all never add up to more than there is.

Where there are fewer connections than processes, nobody is sure of any, and they go round: who has
none and needs one has a right to one, in the order in which they began to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .ledger import Scope, Terms, Wanted

__all__ = [
    "Circle",
    "Member",
    "Right",
    "asked_of",
    "bound",
    "circles",
    "explained",
    "may_take",
    "rights",
    "unknown",
    "urgent_of",
    "usual",
]

MOST_NAMED = 8
"""Processes that an error names."""


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

    @property
    def floor(self) -> int:
        """What it asks to be sure of. One that will end keeps its last as long as it has it, or
        needs it; more than one is of no use to one that cannot connect."""
        if self.draining:
            return min(1, self.held + self.starving)
        if self.terms is None or self.failing:
            return 1
        return max(1, self.terms.floor)


class Right(NamedTuple):
    """What one process may have, in connections."""

    sure: int
    """At any time, whatever the others do."""
    fair: int
    """Also while others want what it holds."""


def rights(limit: int, members: Collection[Member], free: int | None = None) -> Mapping[int, Right]:
    """Each member's right, by its number, where *limit* binds them all.

    Floors that do not fit are cut to one height. Where there is not one connection for each, and no
    more than *free* are there to be taken, that is the turn of so many of those who wait.
    """
    floors = [each.floor for each in members]
    if limit < sum(floor > 0 for floor in floors):
        waiting = sorted((each for each in members if each.starving and not each.held), key=_turn)
        first = {each.number for each in waiting[: max(0, limit if free is None else free)]}
        return {each.number: Right(0, int(each.number in first)) for each in members}
    height = _height(limit, [0] * len(floors), floors)
    sure = [min(floor, height) for floor in floors]
    most = [one if each.draining else limit for each, one in zip(members, sure, strict=True)]
    height = _height(limit, sure, most)
    return {
        each.number: Right(one, max(one, min(bound, height)))
        for each, one, bound in zip(members, sure, most, strict=True)
    }


def _turn(member: Member) -> tuple[bool, float, int]:
    """In which order those have a connection who have none, where there are not enough."""
    return member.failing, member.without_since, member.number


def _height(limit: int, least: Sequence[int], most: Sequence[int]) -> int:
    """To what height all can be filled, each between its bounds, so that *limit* is enough."""
    low, high = 0, limit
    while low < high:
        height = (low + high + 1) // 2
        if sum(max(a, min(b, height)) for a, b in zip(least, most, strict=True)) <= limit:
            low = height
        else:
            high = height - 1
    return low


class Circle(NamedTuple):
    """Those whom one limit binds: all who use the server, or a database, or a role."""

    limit: int
    members: tuple[Member, ...]
    within: Scope | None = None
    """Of which database, or role, it is; None for the whole server."""


def circles(members: Sequence[Member]) -> list[Circle]:
    """The circles that matter, the whole server's first; none where nobody knows any terms.

    A database's or a role's limit is a circle of its own where it does not bind all members anyway.
    In the server's circle nobody asks for more than the others allow it.
    """
    known = [(each, each.terms) for each in members if each.terms is not None]
    if not known:
        return []
    of_database: dict[int, int] = {}
    of_role: dict[int, int] = {}
    for each, terms in known:
        if terms.database is not None or terms.server is None:
            share = terms.instance if terms.database is None else terms.database
            _lower(of_database, each.scope.database, share)
        if terms.role is not None:
            _lower(of_role, each.scope.role, terms.role)
    by_server = [terms.server for _, terms in known if terms.server is not None]
    limit = min(by_server) if by_server else sum(of_database.values())
    narrower: list[Circle] = []
    for one, shares in enumerate((of_database, of_role)):
        for key, share in shares.items():
            inside = tuple(each for each in members if each.scope[one] == key)
            if len(inside) == len(members):
                limit = min(limit, share)
            else:
                narrower.append(Circle(share, inside, Scope(*((key, 0), (0, key))[one])))
    narrower = [each for each in narrower if each.limit < limit]
    return [Circle(limit, tuple(members)), *narrower]


def _lower(shares: dict[int, int], key: int, share: int) -> None:
    shares[key] = min(share, shares.get(key, share))


def bound(members: Sequence[Member], narrower: Iterable[tuple[Circle, int]]) -> list[Member]:
    """The *members* as the server's circle sees them, each narrower circle with what is free in it:
    none asks for more there than it can have in all the others."""
    at_most: dict[int, tuple[int, int]] = {}
    for circle, free in narrower:
        for number, right in rights(circle.limit, circle.members).items():
            floor, starving = at_most.get(number, (circle.limit, circle.limit))
            at_most[number] = (min(floor, right.sure), min(starving, max(0, free)))

    def lowered(member: Member) -> Member:
        if member.number not in at_most:
            return member
        floor, starving = at_most[member.number]
        terms = member.terms and member.terms._replace(floor=min(member.terms.floor, floor))
        return member._replace(terms=terms, starving=min(member.starving, starving))

    return [lowered(member) for member in members]


def asked_of(
    limit: int, me: Member, siblings: Collection[Member], over: int = 0, free: int = 0
) -> Wanted:
    """What starving siblings may want of *me*: of what can be lent my part, and not more.

    An idle connection beyond what one is sure of helps whoever starves. One that comes back is
    taken from one's own queue only for a sibling below its fair share, and only while one is above
    one's own. So many as *over* are held beyond the limit; *free* slots are there to be taken.
    """
    right = rights(limit, [me, *siblings])

    def beyond(member: Member, level: int) -> int:
        return max(0, member.held - level)

    needed, urgent = _needed(right, me, siblings, free)
    lenders = [me, *(each for each in siblings if not each.starving)]
    lendable = sum(beyond(each, right[each.number].sure) for each in lenders)
    above = sum(beyond(each, right[each.number].fair) for each in (me, *siblings))
    mine = right[me.number]
    return Wanted(
        idle=_part(over + needed, beyond(me, mine.sure), lendable),
        returned=_part(over + urgent, beyond(me, mine.fair), above),
    )


def _needed(
    right: Mapping[int, Right], me: Member, siblings: Collection[Member], free: int
) -> tuple[int, int]:
    """What the siblings starve for that is not free, and how much of that is theirs by right."""
    kept = sum(max(0, right[each.number].sure - each.held) for each in (me, *siblings))
    sure = fair = whole = 0
    for each in siblings:
        if each.starving:
            mine = right[each.number]
            owed = min(each.starving, max(0, mine.sure - each.held))
            sure += owed
            fair += min(each.starving, max(0, mine.fair - each.held)) - owed
            whole += 0 if each.draining else each.starving - owed
    spare = max(0, free - kept)
    missing = max(0, sure - max(0, free))
    return missing + max(0, whole - spare), missing + max(0, fair - spare)


def may_take(mine: Right, held: int, *, free: int, kept: int, urgent: int = 0) -> int:
    """How many slots more one may take that has *held* so many; below 0, it has so many too many.

    Of the *free* ones those are *kept* that others are sure of. Who has a fair share leaves to
    siblings below theirs what they starve for, too (:func:`urgent_of`): the giver of a slot would
    otherwise be the first to take it again.
    """
    short = mine.sure - held
    spare = free - kept - max(0, short)
    if urgent and spare > 0:
        spare = min(spare, max(0, mine.fair - max(held, mine.sure), spare - urgent))
    return spare if short < 0 else min(free, short) + max(0, spare)


def urgent_of(right: Mapping[int, Right], siblings: Iterable[Member]) -> int:
    """What *siblings* starve for, of their fair shares beyond what they are sure of."""
    known = [(each, right[each.number]) for each in siblings if each.number in right]
    return sum(
        min(each.starving, max(0, its.fair - max(each.held, its.sure))) for each, its in known
    )


def usual(limit: int, me: Member, siblings: Collection[Member], past: int = 0) -> int:
    """How many connections *me* will use, by what its siblings hold: its fair share at most.

    At a reload it is those told to end who know: the others are as new as *me*. *past* is what one
    held that has ended since.
    """
    known = [member for member in siblings if member.draining] or siblings
    held = sum(member.held for member in known) // len(known) if known else 0
    living = sum(not member.draining for member in siblings) + (not me.draining)
    return min(max(held, past), limit // max(1, living))


def _part(whole: int, mine: int, everybody: int) -> int:
    """My part of *whole* in proportion, rounded up, and at most what I have."""
    return min(mine, -(-whole * mine // everybody)) if everybody else 0


def unknown(me: Member, siblings: Collection[Member]) -> str:
    """For errors: why *me* has no connection while nobody has learned what the server grants."""
    holders = _named(me, siblings)
    return (
        f"nobody has learned yet what the server grants ({holders}). Look for what keeps those "
        f"from connecting, or set budget to a number"
    )


def explained(circle: Circle, me: Member, siblings: Collection[Member], in_use: int) -> str:
    """For errors: who holds the *in_use* slots of *circle* while *me* starves, and what helps."""
    if circle.within is None:
        whose = "that this host's processes may have"
    else:
        whose = "that this role may have" if circle.within.role else "for this database"
    dead = max(0, in_use - sum(each.held for each in (me, *siblings)))
    text = f"of the {circle.limit} connections {whose}, {_named(me, siblings, dead)}"
    right = rights(circle.limit, [me, *siblings])[me.number]
    processes = len(siblings) + 1
    if processes > circle.limit:
        return (
            f"{text}. There are {processes} pools for {circle.limit} connections: raise budget to "
            f"{processes} at least, or run fewer"
        )
    if me.held < right.fair and dead >= in_use - dead:
        return f"{text}. Wait until the server has ended the sessions of those that have ended"
    if me.held < right.fair:
        return (
            f"{text}. Of these {right.fair} are this one's by right, and the others return none: "
            f"have them hold connections shorter, or raise budget"
        )
    return f"{text}. Raise budget, or hold connections shorter"


def _named(me: Member, siblings: Collection[Member], dead: int = 0) -> str:
    """Who holds how many."""
    holding = sorted((each for each in siblings if each.held), key=lambda each: -each.held)
    named = [f"this pool holds {me.held}"]
    for each in holding[:MOST_NAMED]:
        who = "another pool of this process" if each.pid == me.pid else f"process {each.pid}"
        named.append(f"{who} {each.held}")
    if others := holding[MOST_NAMED:]:
        named.append(f"{len(others)} others {sum(each.held for each in others)}")
    if dead:
        named.append(f"and {dead} are kept for processes that have ended")
    return ", ".join(named)
