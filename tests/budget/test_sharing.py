"""What processes owe each other: pure arithmetic."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from poolguard.budget.ledger import Scope, Terms, Wanted
from poolguard.budget.sharing import (
    Circle,
    Member,
    Right,
    asked_of,
    bound,
    circles,
    explained,
    may_take,
    rights,
    unknown,
    urgent_of,
    usual,
)

TERMS = Terms(None, 16, 4, 2)


def member(number: int, held: int = 2, starving: int = 0, *, draining: bool = False) -> Member:
    return Member(number, TERMS, held, starving, draining)


def of_floor(number: int, floor: int, held: int = 0, **how: Any) -> Member:
    one = Member(number, TERMS._replace(floor=floor), held, 0, draining=False)
    return one._replace(**how)


# --- rights


def test_floors_that_do_not_fit_are_cut_to_one_height() -> None:
    """And what is left over is divided evenly."""
    given = rights(12, [of_floor(0, 6), of_floor(1, 6), of_floor(2, 1)])
    assert given == {0: Right(5, 5), 1: Right(5, 5), 2: Right(1, 2)}


def test_who_joins_is_sure_of_one_whatever_the_others_floors_are() -> None:
    siblings = [of_floor(n, 4, held=4) for n in range(4)]
    assert rights(16, [*siblings, of_floor(9, 4)])[9].sure == 3
    assert rights(5, [*siblings, of_floor(9, 4)])[9].sure == 1


def test_who_will_end_is_sure_of_its_last_while_it_needs_it() -> None:
    living = [of_floor(0, 4)]
    assert rights(8, [*living, of_floor(1, 4, held=3, draining=True)])[1] == Right(1, 1)
    done = of_floor(1, 4, draining=True)
    assert rights(8, [*living, done]) == {0: Right(4, 8), 1: Right(0, 0)}
    assert rights(8, [*living, done._replace(starving=2)])[1] == Right(1, 1)


def test_nobody_keeps_a_floor_for_whoever_cannot_connect() -> None:
    given = rights(8, [of_floor(0, 6), of_floor(1, 6, failing=True)])
    assert given == {0: Right(6, 6), 1: Right(1, 2)}


members = st.builds(
    Member,
    st.integers(0, 500),
    st.none() | st.builds(TERMS._replace, floor=st.integers(1, 30)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
)


@given(st.integers(1, 60), st.lists(members, min_size=1, max_size=20, unique_by=lambda m: m.number))
def test_the_rights_of_all_add_up(limit: int, all_: list[Member]) -> None:
    given = rights(limit, all_)
    assert sum(right.sure for right in given.values()) <= limit
    assert sum(right.fair for right in given.values()) <= limit
    asking = [given[member.number].sure for member in all_ if member.floor]
    assert all(asking) if limit >= len(asking) else not any(asking)
    for member in all_:
        right = given[member.number]
        assert right.sure <= min(member.floor, right.fair)


@given(st.integers(1, 60), st.lists(members, min_size=1, max_size=20, unique_by=lambda m: m.number))
def test_what_others_are_sure_of_is_there_when_one_has_taken_all_it_may(
    limit: int, all_: list[Member]
) -> None:
    given = rights(limit, all_)
    free = limit - sum(member.held for member in all_)
    me, *others = all_
    kept = sum(max(0, given[each.number].sure - each.held) for each in others)
    taken = may_take(given[me.number], me.held, free=free, kept=kept)
    if taken > 0 and me.held + taken > given[me.number].sure:
        assert free - taken >= kept


# --- circles


def test_capacity_is_the_servers_whatever_the_database() -> None:
    one = Member(0, TERMS._replace(server=16), 0, 0, draining=False, scope=Scope(1, 1))
    other = one._replace(number=1, scope=Scope(2, 1))
    assert circles([one, other]) == [Circle(16, (one, other))]


def test_budgets_that_are_numbers_are_each_databases_own() -> None:
    one = Member(0, TERMS, 0, 0, draining=False, scope=Scope(1, 1))
    other = Member(1, TERMS._replace(instance=5), 0, 0, draining=False, scope=Scope(2, 1))
    whole, *narrower = circles([one, other, one._replace(number=2)])
    assert whole.limit == 21
    assert [(each.limit, each.within) for each in narrower] == [
        (16, Scope(1, 0)),
        (5, Scope(2, 0)),
    ]


def test_a_roles_limit_binds_its_own_alone() -> None:
    big = Member(0, TERMS._replace(server=50, floor=9), 0, 0, draining=False, scope=Scope(1, 1))
    small = TERMS._replace(instance=2, server=50, role=2)
    one = Member(1, small, 2, 0, draining=False, scope=Scope(1, 2))
    other = Member(2, small, 0, 3, draining=False, scope=Scope(1, 2))
    whole, role = circles([big, one, other])
    assert (whole.limit, role) == (50, Circle(2, (one, other), Scope(0, 2)))
    # What starves for the role's limit alone is nothing that the others could help with.
    seen = bound(whole.members, [(role, 0)])
    assert [each.starving for each in seen] == [0, 0, 0]
    assert [each.floor for each in seen] == [9, 1, 1]
    assert circles([one, other]) == [Circle(2, (one, other))]


def test_nobody_knows_any_limit_before_there_are_terms() -> None:
    assert circles([Member(0, None, 1, 0, draining=False)]) == []


# --- words


def test_who_starves_is_told_who_holds_what_and_what_would_help() -> None:
    me, *siblings = [member(0, held=1)._replace(pid=7), member(1, held=6)._replace(pid=8)]
    siblings.append(member(2, held=2)._replace(pid=7))
    said = explained(Circle(9, ()), me, siblings, 9)
    assert said == (
        "of the 9 connections that this host's processes may have, this pool holds 1, process 8 6, "
        "another pool of this process 2. Of these 3 are this one's by right, and the others return "
        "none: have them hold connections shorter, or raise budget"
    )
    said = explained(Circle(9, ()), member(0, held=7), [member(1)], 9)
    assert said.endswith("Raise budget, or hold connections shorter")
    said = explained(Circle(2, (), Scope(0, 5)), member(0, held=0), [member(1), member(2)], 2)
    assert "of the 2 connections that this role may have" in said
    assert said.endswith(
        "There are 3 pools for 2 connections: raise budget to 3 at least, or run fewer"
    )
    said = explained(Circle(9, (), Scope(5, 0)), member(0, held=0), [], 9)
    assert "for this database, this pool holds 0, and 9 are kept for processes that" in said
    assert said.endswith("Wait until the server has ended the sessions of those that have ended")
    many = [member(n, held=n)._replace(pid=n) for n in range(1, 12)]
    assert "process 11 11, process 10 10" in unknown(member(0), many)
    assert "3 others 6" in unknown(member(0), many)
    assert "set budget to a number" in unknown(member(0), many)


# --- what is asked of whom


def test_nobody_starves_and_nobody_is_asked() -> None:
    assert asked_of(16, member(0, held=10), [member(1), member(2)], 0) == Wanted(0, 0)


def test_idle_borrowed_ones_help_a_sibling_above_its_fair_share_too() -> None:
    """It holds 4 of 16 among 4, which is fair, and needs 3 more: idle ones are of no other use."""
    siblings = [member(1, held=4, starving=3), member(2), member(3)]
    asked = asked_of(16, member(0, held=8), siblings, 0)
    assert asked == Wanted(idle=3, returned=0)


def test_nobody_gives_of_the_floor() -> None:
    asked = asked_of(16, member(0, held=3), [member(1, held=13, starving=9)], 0)
    assert asked.idle == 1


def test_returned_ones_go_to_a_sibling_below_its_fair_share_only() -> None:
    """16 among 4 is 4 each: the sibling lacks 2 of its share, we are 6 above ours."""
    siblings = [member(1, held=2, starving=5), member(2), member(3)]
    assert asked_of(16, member(0, held=10, starving=9), siblings, 0).returned == 2


def test_who_starves_itself_at_its_fair_share_gives_nothing() -> None:
    siblings = [member(1, held=2, starving=5), member(2), member(3)]
    assert asked_of(16, member(0, held=4, starving=9), siblings, 0).returned == 0


def test_lenders_share_the_need_in_proportion() -> None:
    """One lender has borrowed twice what the other has."""
    hungry = member(2, held=2, starving=6)
    one, other = member(0, held=6), member(1, held=4)
    assert asked_of(16, one, [other, hungry], 0).idle == 4
    assert asked_of(16, other, [one, hungry], 0).idle == 2


def test_a_draining_process_owes_all_it_holds_but_one() -> None:
    """It may still accept, and whom it accepts it has to serve."""
    draining = member(0, held=4, draining=True)
    assert asked_of(16, draining, [member(1, held=0, starving=2)], 0) == Wanted(2, 2)
    assert asked_of(16, draining, [member(1, held=0, starving=9)], 0) == Wanted(3, 3)


def test_a_draining_process_has_no_share() -> None:
    """7 are left to one living process, not to two: it may have 6 and is owed the rest."""
    hungry = member(1, held=6, starving=2)
    assert asked_of(8, member(0, held=2, draining=True), [hungry], 0).returned == 1


def test_slots_beyond_a_smaller_share_are_given_up() -> None:
    assert asked_of(8, member(0, held=9), [member(1)], over=5).idle == 5


def test_another_worker_will_use_what_its_siblings_hold() -> None:
    assert usual(16, member(9), []) == 0
    assert usual(16, member(9), [member(0, held=4), member(1, held=3)]) == 3


def test_one_that_has_ended_had_the_load_that_another_will_have() -> None:
    assert usual(16, member(9), [], past=6) == 6
    assert usual(16, member(9), [member(0, held=1)], past=6) == 6
    assert usual(16, member(9), [member(0, held=7)], past=6) == 7
    assert usual(16, member(9), [member(0)], past=99) == 8


def test_at_a_reload_those_know_that_are_told_to_end() -> None:
    """The others are as new as we are, and have no right that would lower our share."""
    old = [member(0, held=7, draining=True), member(1, held=5, draining=True)]
    assert usual(16, member(9), [*old, member(2, held=1)]) == 6


def test_more_than_a_fair_share_is_expected_of_nobody() -> None:
    assert usual(16, member(9), [member(0, held=12)]) == 8
    assert usual(16, member(9), [member(0, held=12, draining=True)]) == 12


# -- fewer connections than processes


def waiting(number: int, since: float, **how: Any) -> Member:
    return of_floor(number, 1, starving=1, without_since=since, **how)


def test_where_there_is_not_one_for_each_who_has_one_lends_it_to_who_has_none() -> None:
    """Idle or in use, and the last one too."""
    me, *others = [of_floor(0, 1, held=1), of_floor(2, 1, held=1), of_floor(3, 1)]
    assert asked_of(2, me, [waiting(1, 5.0), *others]) == Wanted(idle=1, returned=1)
    assert asked_of(2, me, [of_floor(1, 1), *others]) == Wanted(0, 0)
    assert asked_of(2, me, [waiting(1, 5.0), *others], free=1) == Wanted(0, 0)
    enough = asked_of(4, me, [waiting(1, 5.0), *others])
    assert enough == Wanted(0, 0)


def test_where_there_is_not_one_for_each_they_go_round() -> None:
    """Who waits longest comes first; who cannot connect, or has one, comes last."""
    ill, second, first = waiting(0, 1.0, failing=True), waiting(1, 9.0), waiting(2, 5.0)
    members = [ill, second, first, of_floor(3, 1, held=1), of_floor(4, 1)]
    given = rights(2, members)
    assert {number for number, right in given.items() if right.fair} == {1, 2}
    assert not any(right.sure for right in given.values())
    given = rights(1, members)
    assert {number for number, right in given.items() if right.fair} == {2}
    assert may_take(given[2], 0, free=1, kept=0, urgent=urgent_of(given, [ill, second])) == 1
    for each in (ill, second, members[4]):
        others = [other for other in members if other is not each]
        urgent = urgent_of(given, others)
        assert may_take(given[each.number], 0, free=1, kept=0, urgent=urgent) == 0
