"""What processes owe each other: pure arithmetic."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from poolguard.budget.sharing import (
    Member,
    Owed,
    Right,
    expected,
    may_take,
    owed,
    owed_by_all,
    owed_their_share,
    rights,
)
from poolguard.budget.terms import Terms

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
    assert rights(16, [*siblings, of_floor(9, 4)])[9].guaranteed == 3
    assert rights(5, [*siblings, of_floor(9, 4)])[9].guaranteed == 1


def test_who_will_end_is_sure_of_its_last_while_it_needs_it() -> None:
    living = [of_floor(0, 4)]
    assert rights(8, [*living, of_floor(1, 4, held=3, draining=True)])[1] == Right(1, 1)
    done = of_floor(1, 4, draining=True)
    assert rights(8, [*living, done]) == {0: Right(4, 8), 1: Right(0, 0)}
    assert rights(8, [*living, done._replace(starving=2)])[1] == Right(1, 1)


def test_nobody_keeps_a_floor_for_whoever_cannot_connect() -> None:
    given = rights(8, [of_floor(0, 6), of_floor(1, 6, failing=True)])
    assert given == {0: Right(6, 6), 1: Right(1, 2)}


# st.builds() would look at the signature for each of the thousands that are made.
members = st.tuples(
    st.integers(0, 500),
    st.none() | st.integers(1, 30).map(lambda floor: TERMS._replace(floor=floor)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
).map(lambda parts: Member(*parts))


@given(st.integers(1, 60), st.lists(members, min_size=1, max_size=20, unique_by=lambda m: m.number))
def test_the_rights_of_all_add_up(limit: int, all_: list[Member]) -> None:
    given = rights(limit, all_)
    assert sum(right.guaranteed for right in given.values()) <= limit
    assert sum(right.fair for right in given.values()) <= limit
    asking = [given[member.number].guaranteed for member in all_ if member.floor]
    assert all(asking) if limit >= len(asking) else not any(asking)
    for member in all_:
        right = given[member.number]
        assert right.guaranteed <= min(member.floor, right.fair)


@given(st.integers(1, 60), st.lists(members, min_size=1, max_size=20, unique_by=lambda m: m.number))
def test_what_others_are_sure_of_is_there_when_one_has_taken_all_it_may(
    limit: int, all_: list[Member]
) -> None:
    given = rights(limit, all_)
    free = limit - sum(member.held for member in all_)
    me, *others = all_
    kept = sum(max(0, given[each.number].guaranteed - each.held) for each in others)
    taken = may_take(given[me.number], me.held, free=free, kept=kept)
    if taken > 0 and me.held + taken > given[me.number].guaranteed:
        assert free - taken >= kept


# --- members that stand for several processes


def weighing(number: int, weight: int, floor: int, **how: Any) -> Member:
    return of_floor(number, floor, weight=weight, **how)


def test_one_that_stands_for_more_processes_has_as_much_more() -> None:
    given = rights(34, [weighing(0, 1, 1), weighing(1, 16, 16)])
    assert given == {0: Right(1, 2), 1: Right(16, 32)}


def test_floors_that_do_not_fit_are_cut_in_proportion_to_the_weights() -> None:
    given = rights(12, [weighing(0, 1, 8), weighing(1, 2, 8), weighing(2, 1, 8)])
    assert given == {0: Right(3, 3), 1: Right(6, 6), 2: Right(3, 3)}


def test_the_smallest_member_is_sure_of_one_beside_the_largest() -> None:
    given = rights(5, [weighing(0, 1, 1), weighing(1, 64, 64)])
    assert given == {0: Right(1, 1), 1: Right(4, 4)}


def test_one_that_will_end_is_sure_of_one_for_each_of_its_processes() -> None:
    """As long as it has or needs them."""
    ending = weighing(1, 4, 16, draining=True)
    assert rights(30, [weighing(0, 4, 8), ending._replace(held=9)])[1] == Right(4, 4)
    assert rights(30, [weighing(0, 4, 8), ending._replace(starving=2)])[1] == Right(2, 2)


weighing_members = st.tuples(members, st.integers(1, 64)).map(
    lambda both: both[0]._replace(weight=both[1])
)
several = st.lists(weighing_members, min_size=1, max_size=20, unique_by=lambda m: m.number)


@given(st.integers(1, 400), several)
def test_the_rights_of_members_of_any_weight_add_up(limit: int, all_: list[Member]) -> None:
    """And where there is one for each process, each member has as many."""
    given = rights(limit, all_)
    assert sum(right.guaranteed for right in given.values()) <= limit
    assert sum(right.fair for right in given.values()) <= limit
    asking = [member for member in all_ if member.floor]
    if limit >= sum(member.weight for member in all_):
        for member in asking:
            assert given[member.number].guaranteed >= min(member.weight, member.floor)
    elif limit >= len(asking):
        assert all(given[member.number].guaranteed for member in asking)


# --- what is asked of whom


def test_nobody_starves_and_nobody_is_asked() -> None:
    assert owed(16, member(0, held=10), [member(1), member(2)], 0) == Owed(0, 0)


def test_idle_borrowed_ones_help_a_sibling_above_its_fair_share_too() -> None:
    """It holds 4 of 16 among 4, which is fair, and needs 3 more: idle ones are of no other use."""
    siblings = [member(1, held=4, starving=3), member(2), member(3)]
    asked = owed(16, member(0, held=8), siblings, 0)
    assert asked == Owed(idle=3, returned=0)


def test_nobody_gives_of_the_floor() -> None:
    asked = owed(16, member(0, held=3), [member(1, held=13, starving=9)], 0)
    assert asked.idle == 1


def test_returned_ones_go_to_a_sibling_below_its_fair_share_only() -> None:
    """16 among 4 is 4 each: the sibling lacks 2 of its share, we are 6 above ours."""
    siblings = [member(1, held=2, starving=5), member(2), member(3)]
    assert owed(16, member(0, held=10, starving=9), siblings, 0).returned == 2


def test_who_starves_itself_at_its_fair_share_gives_nothing() -> None:
    siblings = [member(1, held=2, starving=5), member(2), member(3)]
    assert owed(16, member(0, held=4, starving=9), siblings, 0).returned == 0


def test_lenders_share_the_need_in_proportion() -> None:
    """One lender has borrowed twice what the other has."""
    hungry = member(2, held=2, starving=6)
    one, other = member(0, held=6), member(1, held=4)
    assert owed(16, one, [other, hungry], 0).idle == 4
    assert owed(16, other, [one, hungry], 0).idle == 2


def test_a_draining_process_owes_all_it_holds_but_one() -> None:
    """It may still accept, and whom it accepts it has to serve."""
    draining = member(0, held=4, draining=True)
    assert owed(16, draining, [member(1, held=0, starving=2)], 0) == Owed(2, 2)
    assert owed(16, draining, [member(1, held=0, starving=9)], 0) == Owed(3, 3)


def test_a_draining_process_has_no_share() -> None:
    """7 are left to one living process, not to two: it may have 6 and is owed the rest."""
    hungry = member(1, held=6, starving=2)
    assert owed(8, member(0, held=2, draining=True), [hungry], 0).returned == 1


def test_where_there_are_fewer_connections_than_processes_one_that_ends_has_its_turn() -> None:
    """Clients wait at the old workers, and those that a reload has begun lie idle: nothing comes
    back to them that they could give up."""
    terms = TERMS._replace(instance=2, workers=1, floor=1)
    idle = [Member(n, terms, 1, 0, draining=False) for n in (2, 3)]
    old = [Member(n, terms, 0, 2, draining=True, without_since=1.0 + n) for n in (0, 1)]
    assert owed(2, idle[0], [idle[1], *old]).idle == 1
    assert owed(2, idle[1], [idle[0], *old]).idle == 1


@given(st.integers(1, 60), several, st.integers(0, 9))
def test_what_all_owe_adds_up_to_what_is_needed(limit: int, all_: list[Member], over: int) -> None:
    """Asked for their parts one by one, as processes of one host are, each rounds up."""
    given = owed_by_all(limit, all_, over)
    right = rights(limit, all_)
    for member in all_:
        mine, its = given[member.number], right[member.number]
        alone = owed(limit, member, [each for each in all_ if each is not member], over)
        assert mine.idle <= max(0, member.held - its.guaranteed)
        assert mine.returned <= max(0, member.held - its.fair)
        assert mine.returned <= alone.returned + 1
        if member.starving:
            assert mine.idle == 0
    needed = sum(each.starving for each in all_)
    assert sum(each.idle for each in given.values()) <= over + needed
    urgent = sum(min(each.starving, max(0, right[each.number].fair - each.held)) for each in all_)
    above = sum(max(0, each.held - right[each.number].fair) for each in all_)
    assert sum(each.returned for each in given.values()) == min(above, over + urgent)


def test_one_is_asked_for_one() -> None:
    lenders = [member(n, held=4) for n in range(9)]
    given = owed_by_all(40, [member(9, held=2, starving=1), *lenders])
    assert [each.idle for each in given.values()].count(1) == 1
    assert sum(each.idle for each in given.values()) == 1


def test_slots_beyond_a_smaller_share_are_given_up() -> None:
    assert owed(8, member(0, held=9), [member(1)], over=5).idle == 5


def test_another_worker_will_use_what_its_siblings_hold() -> None:
    assert expected(16, member(9), []) == 0
    assert expected(16, member(9), [member(0, held=4), member(1, held=3)]) == 3


def test_one_that_has_ended_had_the_load_that_another_will_have() -> None:
    assert expected(16, member(9), [], past=6) == 6
    assert expected(16, member(9), [member(0, held=1)], past=6) == 6
    assert expected(16, member(9), [member(0, held=7)], past=6) == 7
    assert expected(16, member(9), [member(0)], past=99) == 8


def test_at_a_reload_those_know_that_are_told_to_end() -> None:
    """The others are as new as we are, and have no right that would lower our share."""
    old = [member(0, held=7, draining=True), member(1, held=5, draining=True)]
    assert expected(16, member(9), [*old, member(2, held=1)]) == 6


def test_more_than_a_fair_share_is_expected_of_nobody() -> None:
    assert expected(16, member(9), [member(0, held=12)]) == 8
    assert expected(16, member(9), [member(0, held=12, draining=True)]) == 12


# -- fewer connections than processes


def waiting(number: int, since: float, **how: Any) -> Member:
    return of_floor(number, 1, starving=1, without_since=since, **how)


def test_where_there_is_not_one_for_each_who_has_one_lends_it_to_who_has_none() -> None:
    """Idle or in use, and the last one too."""
    me, *others = [of_floor(0, 1, held=1), of_floor(2, 1, held=1), of_floor(3, 1)]
    assert owed(2, me, [waiting(1, 5.0), *others]) == Owed(idle=1, returned=1)
    assert owed(2, me, [of_floor(1, 1), *others]) == Owed(0, 0)
    assert owed(2, me, [waiting(1, 5.0), *others], free=1) == Owed(0, 0)
    enough = owed(4, me, [waiting(1, 5.0), *others])
    assert enough == Owed(0, 0)


def test_where_there_is_not_one_for_each_they_go_round() -> None:
    """Who waits longest comes first; who cannot connect, or has one, comes last."""
    ill, second, first = waiting(0, 1.0, failing=True), waiting(1, 9.0), waiting(2, 5.0)
    members = [ill, second, first, of_floor(3, 1, held=1), of_floor(4, 1)]
    given = rights(2, members)
    assert {number for number, right in given.items() if right.fair} == {1, 2}
    assert not any(right.guaranteed for right in given.values())
    given = rights(1, members)
    assert {number for number, right in given.items() if right.fair} == {2}
    assert may_take(given[2], 0, free=1, kept=0, urgent=owed_their_share(given, [ill, second])) == 1
    for each in (ill, second, members[4]):
        others = [other for other in members if other is not each]
        urgent = owed_their_share(given, others)
        assert may_take(given[each.number], 0, free=1, kept=0, urgent=urgent) == 0
