"""Limits of the server, of a database and of a role, and whom each binds: pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable

from poolguard.budget.quotas import (
    Quota,
    constraints,
    counted,
    fair_to_database,
    lowered,
    owed_under,
    quotas,
    room,
    tightest,
)
from poolguard.budget.sharing import Member, Owed, Right
from poolguard.budget.terms import Scope, Terms

TERMS = Terms(None, 16, 4, 2)


def member(number: int, scope: Scope, held: int = 0, starving: int = 0) -> Member:
    """One that knows of the server's 12 and of its role's 4."""
    terms = TERMS._replace(server=12, role=4 if scope.role == 2 else None)
    return Member(number, terms, held, starving, draining=False, scope=scope)


def taking(members: list[Member]) -> Callable[[Scope | None], int]:
    """The slots that these hold within a scope."""
    return lambda scope: sum(each.held for each in members if each.scope.is_within(scope))


def test_capacity_is_the_servers_whatever_the_database() -> None:
    one = Member(0, TERMS._replace(server=16), 0, 0, draining=False, scope=Scope(1, 1))
    other = one._replace(number=1, scope=Scope(2, 1))
    assert quotas([one, other]) == [Quota(16, (one, other))]


def test_budgets_that_are_numbers_are_each_databases_own() -> None:
    one = Member(0, TERMS, 0, 0, draining=False, scope=Scope(1, 1))
    other = Member(1, TERMS._replace(instance=5), 0, 0, draining=False, scope=Scope(2, 1))
    whole, *narrower = quotas([one, other, one._replace(number=2)])
    assert whole.limit == 21
    assert [(each.limit, each.scope) for each in narrower] == [
        (16, Scope(1, 0)),
        (5, Scope(2, 0)),
    ]


def test_a_roles_limit_binds_its_own_alone() -> None:
    big = Member(0, TERMS._replace(server=50, floor=9), 0, 0, draining=False, scope=Scope(1, 1))
    small = TERMS._replace(instance=2, server=50, role=2)
    one = Member(1, small, 2, 0, draining=False, scope=Scope(1, 2))
    other = Member(2, small, 0, 3, draining=False, scope=Scope(1, 2))
    whole, role = quotas([big, one, other])
    assert (whole.limit, role) == (50, Quota(2, (one, other), Scope(0, 2)))
    # What starves for the role's limit alone is nothing that the others could help with.
    seen = lowered(whole.members, [role._replace(taken=2)])
    assert [each.starving for each in seen] == [0, 0, 0]
    assert [each.floor for each in seen] == [9, 1, 1]
    assert quotas([one, other]) == [Quota(2, (one, other))]


def test_nobody_knows_any_limit_before_there_are_terms() -> None:
    assert quotas([Member(0, None, 1, 0, draining=False)]) == []


# -- one process under all of them


RICH, POOR = Scope(1, 1), Scope(1, 2)


def test_each_limit_that_binds_a_process_is_counted_within_its_own_scope() -> None:
    members = [member(0, RICH, held=5), member(1, POOR, held=1), member(2, POOR, held=2)]
    found = counted(quotas(members), taking(members))
    assert [(each.limit, each.taken, each.free) for each in found] == [(12, 8, 4), (4, 3, 1)]
    assert [each.scope for each in constraints(0, found)] == [None]
    whole, role = constraints(1, found)
    assert (whole.scope, role.scope) == (None, Scope(0, 2))
    assert (role.mine, role.others) == (Right(2, 2), {2: Right(2, 2)})


def test_the_room_under_a_limit_leaves_what_is_guaranteed_to_others() -> None:
    members = [member(0, POOR, held=1), member(1, POOR)]
    [role] = constraints(0, counted(quotas(members), taking(members)))
    assert room(role, 1, taken=1, held_by=[1, 0], urgent=0) == 1
    assert room(role, 1, taken=3, held_by=[1, 2], urgent=0) == 1
    assert room(role, 2, taken=4, held_by=[2, 2], urgent=0) == 0
    assert room(role, 3, taken=5, held_by=[3, 2], urgent=0) == -1


def test_what_is_owed_under_any_limit_is_owed() -> None:
    """The server has room; the role has none."""
    members = [member(0, RICH), member(1, POOR, held=4), member(2, POOR, starving=2)]
    found = counted(quotas(members), taking(members))
    assert owed_under(found, 1) == Owed(2, 2)
    assert owed_under(found, 0) == owed_under(found, 99) == Owed(0, 0)


def test_the_tightest_limit_is_the_one_with_least_room() -> None:
    members = [member(0, RICH, held=9), member(1, POOR, held=1)]
    found = counted(quotas(members), taking(members))
    assert tightest(found, 1) == found[0], "2 are free, of the role's 3"
    assert tightest(found[1:], 0) is None


def test_the_processes_of_a_database_have_a_share_together() -> None:
    members = [member(0, Scope(1, 1)), member(1, Scope(1, 1)), member(2, Scope(2, 1))]
    [whole] = quotas(members)
    assert [fair_to_database(whole, database) for database in (1, 2, 3)] == [8, 4, 0]


def test_without_terms_nothing_is_counted() -> None:
    """The last one that knew any may have ended since."""
    assert counted([], taking([])) == []
