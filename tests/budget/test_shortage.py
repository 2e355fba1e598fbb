"""What an error says of the slots that a pool does not get."""

from __future__ import annotations

from poolguard.budget.quotas import Quota
from poolguard.budget.sharing import Member
from poolguard.budget.shortage import before_any_terms, explained
from poolguard.budget.terms import Scope, Terms


def member(number: int, held: int = 2) -> Member:
    return Member(number, Terms(None, 16, 4, 2), held, 0, draining=False)


def test_who_starves_is_told_who_holds_what_and_what_would_help() -> None:
    me, *siblings = [member(0, held=1)._replace(pid=7), member(1, held=6)._replace(pid=8)]
    siblings.append(member(2, held=2)._replace(pid=7))
    said = explained(Quota(9, (), taken=9), me, siblings)
    assert said == (
        "of the 9 connections that this host's processes may have, this pool holds 1, process 8 6, "
        "another pool of this process 2. Of these 3 are this one's by right, and the others return "
        "none: have them hold connections shorter, or raise budget"
    )
    said = explained(Quota(9, (), taken=9), member(0, held=7), [member(1)])
    assert said.endswith("Raise budget, or hold connections shorter")
    said = explained(Quota(2, (), Scope(0, 5), 2), member(0, held=0), [member(1), member(2)])
    assert "of the 2 connections that this role may have" in said
    assert said.endswith(
        "There are 3 pools for 2 connections: raise budget to 3 at least, or run fewer"
    )
    said = explained(Quota(9, (), Scope(5, 0), 9), member(0, held=0), [])
    assert "for this database, this pool holds 0, and 9 are kept for processes that" in said
    assert said.endswith("Wait until the server has ended the sessions of those that have ended")
    many = [member(n, held=n)._replace(pid=n) for n in range(1, 12)]
    assert "process 11 11, process 10 10" in before_any_terms(member(0), many)
    assert "3 others 6" in before_any_terms(member(0), many)
    assert "set budget to a number" in before_any_terms(member(0), many)
