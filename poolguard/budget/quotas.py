"""Several limits at once, the server's, a database's and a role's, and what they leave a process.

Pure: the counts of taken slots are arguments. Under each limit alone :mod:`.sharing` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .sharing import NOTHING_OWED, Member, Owed, Right, may_take, owed, rights
from .terms import Scope

__all__ = [
    "Constraint",
    "Quota",
    "constraints",
    "counted",
    "fair_to_database",
    "lowered",
    "owed_under",
    "quotas",
    "room",
    "tightest",
]


class Quota(NamedTuple):
    """One limit, and the processes that it binds."""

    limit: int
    members: tuple[Member, ...]
    scope: Scope | None = None
    """The database, or the role, whose limit it is; None for the whole server."""
    taken: int = 0
    """Slots that are taken within the scope; known only once they were :func:`counted`."""

    @property
    def free(self) -> int:
        """Slots that are free; below 0 where more are taken than a lowered limit allows."""
        return self.limit - self.taken

    def binds(self, number: int) -> bool:
        """Whether it binds the process of this *number*."""
        return any(each.number == number for each in self.members)

    def apart(self, number: int) -> tuple[Member, list[Member]]:
        """The member of this *number*, and the others."""
        me = next(each for each in self.members if each.number == number)
        return me, [each for each in self.members if each.number != number]


class Constraint(NamedTuple):
    """One limit as a process sees it that is bound by it."""

    limit: int
    scope: Scope | None
    mine: Right
    others: Mapping[int, Right]
    """The rights of the others that it binds, by their numbers."""


def quotas(members: Sequence[Member]) -> list[Quota]:
    """The quotas that matter, the whole server's first; none where no process knows any terms.

    The limit of a database or a role is a quota of its own where it does not bind all members
    anyway, and is lower than the whole server's.
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
    of_server = [terms.server for _, terms in known if terms.server is not None]
    limit = min(of_server) if of_server else sum(of_database.values())
    narrower: list[Quota] = []
    for one, shares in enumerate((of_database, of_role)):
        for key, share in shares.items():
            inside = tuple(each for each in members if each.scope[one] == key)
            if len(inside) == len(members):
                limit = min(limit, share)
            else:
                narrower.append(Quota(share, inside, Scope(*((key, 0), (0, key))[one])))
    narrower = [each for each in narrower if each.limit < limit]
    return [Quota(limit, tuple(members)), *narrower]


def _lower(shares: dict[int, int], key: int, share: int) -> None:
    shares[key] = min(share, shares.get(key, share))


def counted(found: Sequence[Quota], taken: Callable[[Scope | None], int]) -> list[Quota]:
    """The quotas *found*, each with the slots that are *taken* within its scope.

    In the whole server's quota no member asks for more than the narrower quotas allow it.
    """
    if not found:
        return []
    narrower = [
        Quota(each.limit, each.members, each.scope, taken(each.scope)) for each in found[1:]
    ]
    members = found[0].members
    if narrower:
        members = tuple(lowered(members, narrower))
    return [Quota(found[0].limit, members, None, taken(None)), *narrower]


def lowered(members: Sequence[Member], narrower: Sequence[Quota]) -> list[Member]:
    """The *members*, with floors and needs lowered to what the *narrower* quotas leave them."""
    at_most: dict[int, tuple[int, int]] = {}
    for quota in narrower:
        for number, right in rights(quota.limit, quota.members).items():
            floor, starving = at_most.get(number, (quota.limit, quota.limit))
            at_most[number] = (min(floor, right.guaranteed), min(starving, max(0, quota.free)))

    def lower(member: Member) -> Member:
        if member.number not in at_most:
            return member
        floor, starving = at_most[member.number]
        terms = member.terms and member.terms._replace(floor=min(member.terms.floor, floor))
        return member._replace(terms=terms, starving=min(member.starving, starving))

    return [lower(member) for member in members]


def constraints(number: int, found: Sequence[Quota]) -> list[Constraint]:
    """Each of the counted quotas *found* that binds the process of this *number*."""
    binding: list[Constraint] = []
    for quota in found:
        others = {**rights(quota.limit, quota.members, quota.free)}
        mine = others.pop(number, None)
        if mine is not None:
            binding.append(Constraint(quota.limit, quota.scope, mine, others))
    return binding


def room(
    constraint: Constraint, held: int, *, taken: int, held_by: Sequence[int], urgent: int
) -> int:
    """How many slots more a process may take under one limit; below 0, it has so many too many.

    :param held: slots that it holds.
    :param taken: slots that are taken within the limit's scope.
    :param held_by: how many slots each process holds, by its number.
    :param urgent: as in :func:`~poolguard.budget.sharing.may_take`.
    """
    kept = sum(
        max(0, right.guaranteed - max(0, held_by[number]))
        for number, right in constraint.others.items()
    )
    free = constraint.limit - taken
    return may_take(constraint.mine, held, free=free, kept=kept, urgent=urgent)


def owed_under(found: Sequence[Quota], number: int, to_hosts: Owed = NOTHING_OWED) -> Owed:
    """What the process of this *number* owes its siblings under all counted quotas *found*, and its
    part of what all of them owe *to_hosts* beside this one."""
    each = [
        _owed(quota, number, NOTHING_OWED if quota.scope else to_hosts)
        for quota in found
        if quota.binds(number)
    ]
    if not each:
        return NOTHING_OWED
    return Owed(max(under.idle for under in each), max(under.returned for under in each))


def _owed(quota: Quota, number: int, to_hosts: Owed) -> Owed:
    me, siblings = quota.apart(number)

    def less(n: int) -> Owed:
        """What is owed under a limit that is lower by *n*."""
        left = quota._replace(limit=max(0, quota.limit - n))
        return owed(left.limit, me, siblings, max(0, -left.free), left.free)

    if not any(to_hosts):
        return less(0)
    return Owed(less(to_hosts.idle).idle, less(to_hosts.returned).returned)


def tightest(found: Sequence[Quota], number: int) -> Quota | None:
    """Of the counted quotas that bind the process of this *number*, the one with least room."""
    binding = [quota for quota in found if quota.binds(number)]
    return min(binding, key=lambda quota: (quota.free, quota.limit), default=None)


def fair_to_database(quota: Quota, database: int) -> int:
    """The fair shares of all members of a *database* together."""
    fair = rights(quota.limit, quota.members)
    return sum(fair[each.number].fair for each in quota.members if each.scope.database == database)
