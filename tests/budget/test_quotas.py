"""Limits of the server, of a database and of a role, and whom each binds: pure arithmetic."""

from __future__ import annotations

from poolguard.budget.quotas import Quota, lowered, quotas
from poolguard.budget.sharing import Member
from poolguard.budget.terms import Scope, Terms

TERMS = Terms(None, 16, 4, 2)


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
