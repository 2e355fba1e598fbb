"""What processes owe each other: pure arithmetic."""

from __future__ import annotations

from poolguard.budget.ledger import Terms, Wanted
from poolguard.budget.sharing import Member, asked_of, is_scarce, may_take, usual

TERMS = Terms(None, 16, 4, 2)


def member(number: int, held: int = 2, starving: int = 0, *, draining: bool = False) -> Member:
    return Member(number, TERMS, held, starving, draining)


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


def test_a_draining_process_owes_all_it_holds() -> None:
    draining = member(0, held=4, draining=True)
    assert asked_of(16, draining, [member(1, held=0, starving=2)], 0) == Wanted(2, 2)
    assert draining.borrowed == 4


def test_a_draining_process_has_no_share() -> None:
    """8 are left to one living process, not to two: it may have 6 and is owed the rest."""
    hungry = member(1, held=6, starving=2)
    assert asked_of(8, member(0, held=2, draining=True), [hungry], 0).returned == 2


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


# -- less than one for each


def test_where_there_is_less_than_one_for_each_who_has_one_lends_it() -> None:
    without, others = member(1, held=0, starving=1), [member(2, held=1), member(3, held=0)]
    me = member(0, held=1)
    assert is_scarce(2, me, [without, *others])
    assert not is_scarce(4, me, [without, *others])
    assert asked_of(2, me, [without, *others], 0) == Wanted(idle=1, returned=1)
    assert asked_of(2, me, [member(1, held=0), *others], 0) == Wanted(0, 0)
    assert asked_of(2, me, [without, *others], 0, free=1) == Wanted(0, 0)


def test_who_has_lent_the_last_one_does_not_take_it_back_first() -> None:
    without, others = member(1, held=0, starving=1), [member(2, held=1), member(3, held=0)]
    assert may_take(2, member(0, held=0), [without, *others], free=1) == 0
    assert may_take(2, member(0, held=0, starving=1), [without, *others], free=1) == 1
    assert may_take(2, member(0, held=0), others, free=1) == 1
