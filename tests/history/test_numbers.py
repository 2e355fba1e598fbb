"""The numbers to configure: against weeks that are made up, and against the plain definition."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from poolguard.history.minutes import DAY, HOUR, NOTHING, WEEK, Demand
from poolguard.history.numbers import COVERED, UNUSED, Numbers, cost, numbers
from tests.history.past import MONDAY, MadeUp, minute, week


def of(past: MadeUp, instances: int = 1, *, since: int = MONDAY) -> Numbers:
    found = numbers(past.read(since, MONDAY + WEEK), instances)
    assert found is not None
    return found


def test_an_incident_of_minutes_raises_the_limits_and_not_the_floor() -> None:
    calm, struck = of(week(incident=False), 4), of(week(), 4)
    assert (calm.floor.floor, calm.max_size, calm.budget) == (13, 13, 4 * 37)
    assert (struck.floor.floor, struck.max_size, struck.budget) == (13, 31, 4 * 87)
    assert (calm.created, struck.created) == (0, 160)
    assert (calm.floor.minutes, struck.floor.minutes) == (0, 6)


def test_what_lasts_longer_than_one_minute_in_a_thousand_raises_the_floor() -> None:
    past = week()
    for at in range(MONDAY, MONDAY + 5):
        past[at] = minute(20)
    assert of(past).floor.floor == 20
    assert COVERED <= of(past).covered < 1


@pytest.mark.parametrize("seed", range(20))
def test_the_floor_is_the_least_that_covers_as_much(seed: int) -> None:
    """Of any number of minutes, a few or many, some unknown."""
    random.seed(seed)
    count = random.choice([1, 10, 999, 1000, 1001, 5000])
    minutes = [
        None if random.random() < 0.2 else minute(int(random.expovariate(0.2)))
        for _ in range(count - 1)
    ]
    found = numbers([*minutes, minute(3)])
    assert found is not None

    def covered(floor: int) -> float:
        known = [each.one for each in [*minutes, minute(3)] if each is not None]
        return sum(one <= floor for one in known) / len(known)

    assert covered(found.floor.floor) >= COVERED
    assert found.floor.floor == 1 or covered(found.floor.floor - 1) < COVERED


def test_a_lower_floor_costs_more() -> None:
    lower = of(week()).lower
    assert [each.floor for each in lower] == sorted({each.floor for each in lower}, reverse=True)
    assert lower[0].floor == 12
    assert len(lower) > 3
    for higher, less in pairwise(lower):
        assert less.minutes > higher.minutes
        assert less.created >= higher.created


def test_what_was_used_within_half_an_hour_is_warm_and_later_it_is_created_again() -> None:
    up, down = minute(5), minute(1)
    at_once = [down, up, up, *[down] * (UNUSED - 1), up]
    later = [down, up, up, *[down] * UNUSED, up]
    assert cost(at_once, 2) == (2, 3, 3)
    assert cost(later, 2) == (2, 3, 6)


def test_only_what_is_missing_is_created() -> None:
    assert cost([minute(n) for n in (1, 4, 6, 5, 7)], 3) == (3, 4, 4)


def test_minutes_of_which_nothing_is_known_are_neither_covered_nor_not() -> None:
    """The service may not have run, so what was warm before is not any more."""
    found = numbers([None, None, minute(5), *[None] * UNUSED, minute(5), None])
    assert found is not None
    assert (found.known, found.asked, found.span) == (2, UNUSED + 5, UNUSED + 3)
    assert found.floor == (5, 0, 0)
    assert cost([minute(5), *[None] * UNUSED, minute(5)], 1) == (1, 2, 8)


def test_nothing_known_has_no_numbers() -> None:
    assert numbers([]) is None
    assert numbers([None] * DAY) is None


def test_a_service_that_lent_nothing_needs_one_of_each() -> None:
    found = numbers([NOTHING] * HOUR, 3)
    assert found is not None
    assert (found.floor.floor, found.max_size, found.budget) == (1, 1, 3)
    assert (found.lower, found.max_sizes, found.budgets) == ((), (), ())


def test_who_waited_for_a_return_wanted_one_more() -> None:
    found = numbers([Demand(20, 60, 10, 0, 20), Demand(3, 9, 0, 0, 20)], 2)
    assert found is not None
    assert (found.floor.floor, found.max_size, found.budget) == (20, 30, 140)


def test_who_waited_for_one_that_was_created_is_counted_once() -> None:
    """A cold worker that is asked for 40 at once: 39 wait, and then 40 are lent."""
    found = numbers([Demand(40, 40, 39, 39, 1)])
    assert found is not None
    assert found.max_size == 40


def test_lower_limits_say_in_how_many_minutes_something_would_have_waited() -> None:
    found = of(week(), 2)
    assert found.max_sizes[0] == (30, 6)
    assert found.budgets[0] == (2 * 86, 6)
    for limits in (found.max_sizes, found.budgets):
        values = [each.limit for each in limits]
        assert values == sorted(set(values), reverse=True)
    for each in found.max_sizes:
        assert each.minutes == sum(demand.one > each.limit for demand in week().values())
