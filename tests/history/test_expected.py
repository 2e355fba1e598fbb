"""What is expected of a minute: plain minutes in, a level out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolguard.history.expected import (
    AHEAD,
    EVERY,
    LAST,
    Expected,
    decide,
    decide_again,
    local_offset,
)
from poolguard.history.minutes import DAY, HOUR, NOTHING, WEEK, Demand

MOST = 100
MONDAY = 4 * DAY + 2000 * WEEK
"""Midnight: 1970 began on a Thursday."""
TEN = 10 * HOUR


class Recorded:
    """A past of which each minute is what a function says of it, up to *now*."""

    def __init__(self, now: int, of: Callable[[int], int | None]) -> None:
        self.now, self.of = now, of

    def read(self, first: int, end: int) -> Sequence[Demand | None]:
        return [self._minute(at) for at in range(first, end)]

    def _minute(self, at: int) -> Demand | None:
        need = None if at > self.now else self.of(at)
        return None if need is None else NOTHING._replace(one=need)


def level(
    now: int,
    of: Callable[[int], int | None],
    *,
    floor: int = 1,
    most: int = MOST,
    before: int = 1,
    decided: int | None = None,
    offset: Callable[[int], int] = lambda _: 0,
) -> Expected:
    """What is expected *now*, where the level was so high *before*."""
    past = Recorded(now, of)
    return decide(now, past, floor=floor, most=most, level=before, decided=decided, offset=offset)


def by_day(
    days: Mapping[int, int], *, elsewhere: int | None = None, first: int = TEN, end: int = 18 * HOUR
) -> Callable[[int], int | None]:
    """So many are needed on each of these days, counted from the Monday, in the middle of it."""

    def need(minute: int) -> int | None:
        day, at = divmod(minute - MONDAY, DAY)
        if day not in days:
            return elsewhere
        return days[day] if first <= at < end else 1

    return need


def daily(n: int, days: range = range(40)) -> Callable[[int], int | None]:
    return by_day(dict.fromkeys(days, n))


def test_without_data_it_is_the_floor() -> None:
    assert level(MONDAY + TEN, lambda _: None, floor=3) == Expected(3, "floor")
    assert level(MONDAY + TEN, lambda _: 0, floor=3) == Expected(3, "floor")


def test_the_first_hours_of_a_new_deployment_keep_what_the_last_hour_needed() -> None:
    """So what comes at each full hour is met."""
    begun = MONDAY + TEN

    def need(minute: int) -> int | None:
        if minute < begun:
            return None
        return 16 if minute < begun + 3 else 2

    assert level(begun, need) == Expected(20, "hour")
    assert level(begun + HOUR, need, before=20) == Expected(20, "hour")
    assert level(begun + HOUR + 5, need, before=20) == Expected(12, "held")


def test_the_second_day_opens_in_the_morning_what_the_first_one_needed() -> None:
    """From 1 to 40 within a second, and nothing was lent at night."""
    one_day = by_day({0: 40, 1: 40}, elsewhere=None)
    ahead = level(MONDAY + DAY + TEN - AHEAD + 1, one_day)
    assert ahead.reason == "day"
    assert 40 <= ahead.level < 55
    assert level(MONDAY + DAY + TEN - AHEAD, one_day).level == 1


@pytest.mark.parametrize("hour", range(24))
def test_a_ramp_is_met_ahead_and_never_by_less_than_the_day_before_needed(hour: int) -> None:
    def ramp(minute: int) -> int | None:
        return 2 + (minute - MONDAY) % DAY // 30 if minute >= MONDAY else None

    now = MONDAY + DAY + hour * HOUR
    soon = [ramp(at) or 0 for at in range(now, now + AHEAD)]
    assert level(now, ramp).level >= max(soon)


def test_one_that_does_one_thing_after_the_other_is_never_given_a_second() -> None:
    busier_today = by_day({0: 0, 1: 1})
    for of in (daily(1), busier_today, lambda minute: minute % 2):
        for day in range(1, 15):
            assert level(MONDAY + day * DAY + TEN + HOUR, of).level == 1


def test_a_saturday_is_not_a_friday_once_one_saturday_is_known() -> None:
    of = by_day({day: 10 if day % 7 > 4 else 50 for day in range(21)})
    friday, saturday, monday = MONDAY + 11 * DAY, MONDAY + 12 * DAY, MONDAY + 14 * DAY
    assert level(friday + TEN, of).level >= 50
    assert 10 <= level(saturday + TEN - 5, of).level < 20
    assert level(monday + TEN - 5, of).level >= 50


def test_the_first_saturday_is_as_a_friday_until_it_is_seen_to_be_quieter() -> None:
    of = by_day({day: 10 if day % 7 > 4 else 50 for day in range(7)})
    saturday = MONDAY + 5 * DAY
    assert level(saturday + TEN - 5, of).level >= 50
    assert level(saturday + TEN + HOUR, of).level < 50


def test_a_holiday_is_not_taken_for_what_that_day_of_the_week_is_like() -> None:
    """There were two of them, and but two weeks before are known."""
    of = by_day({day: 10 if day % 7 > 4 or day in (14, 17) else 50 for day in range(1, 21)})
    assert level(MONDAY + 21 * DAY + TEN - 5, of).level >= 50


def test_what_comes_each_week_is_expected_once_it_has_come_twice() -> None:
    of = by_day({day: 40 if day % 7 == 6 else 2 for day in range(20)})
    found = level(MONDAY + 20 * DAY + TEN - 5, of)
    assert 40 <= found.level < 50
    assert found.reason == "week"


def test_an_incident_is_believed_for_three_days_and_not_again_after_a_week() -> None:
    incident, calm = 20, 10
    of = by_day({day: 90 if day == incident else calm for day in range(40)})
    levels = [level(MONDAY + (incident + n) * DAY + TEN - 5, of).level for n in range(1, 9)]
    assert levels[0] >= 90
    assert all(n < 2 * calm for n in levels[3:])


def test_a_day_without_data_leaves_the_others() -> None:
    of = by_day({day: 30 for day in range(14) if day != 13})
    assert 30 <= level(MONDAY + 14 * DAY + TEN, of).level < 40


def test_a_day_of_which_little_is_known_counts_little() -> None:
    at = MONDAY + 10 * DAY + TEN

    def gap(minute: int) -> int | None:
        if at - DAY <= minute < at - DAY + HOUR:
            return 80 if minute < at - DAY + 2 else None
        return 20

    assert level(at, gap).level < 30


@pytest.mark.parametrize("later", [60, -60])
def test_after_a_change_of_clocks_the_morning_is_when_the_clock_says_so(later: int) -> None:
    changed = MONDAY + 10 * DAY

    def offset(minute: int) -> int:
        return 120 + (later if minute >= changed else 0)

    def need(minute: int) -> int | None:
        return 40 if (minute + offset(minute)) % DAY >= TEN else 1

    morning = changed + TEN - offset(changed)
    assert level(morning - AHEAD, need, offset=offset).level < 40
    assert level(morning - AHEAD + 1, need, offset=offset).level >= 40


@pytest.mark.parametrize("later", [60, -60])
def test_a_host_in_utc_is_wrong_about_the_morning_for_one_day(later: int) -> None:
    def need(minute: int) -> int | None:
        changed = minute >= MONDAY + 10 * DAY
        return 40 if (minute - later * changed) % DAY >= TEN else 1

    assert level(MONDAY + 11 * DAY + TEN + later - 5, need).level >= 40


@pytest.mark.parametrize(("times", "morning"), [(2, 32), (4, 20)])
def test_today_goes_on_as_it_has_begun_up_to_twice_an_earlier_day(times: int, morning: int) -> None:
    """Each day more come after noon."""

    def need(minute: int) -> int | None:
        day, at = divmod(minute - MONDAY, DAY)
        if day < 0:
            return None
        return (times if day == 10 else 1) * (40 if at >= 12 * HOUR else morning)

    assert 80 <= level(MONDAY + 10 * DAY + 12 * HOUR - 5, need).level <= 90


def test_what_exceeds_all_that_is_known_is_kept_for_half_an_hour() -> None:
    of = by_day({day: 20 if day < 10 else 90 for day in range(11)})
    assert level(MONDAY + 10 * DAY + TEN + HOUR, of) == Expected(99, "hour")


def test_a_worker_that_has_just_begun_expects_what_earlier_days_needed() -> None:
    now = MONDAY + 10 * DAY + TEN

    def need(minute: int) -> int | None:
        if minute >= now - 1:
            return 0
        return 20 if minute < now - HOUR else None

    assert 20 <= level(now, need).level < 30


def test_the_more_days_are_known_the_less_headroom_is_kept() -> None:
    levels = [level(MONDAY + day * DAY + TEN - 5, daily(40)).level for day in (1, 4, 36)]
    assert 45 < levels[0] < 55
    assert levels[0] > levels[1] > levels[2] > 40


def test_a_busy_night_does_not_tell_of_the_morning() -> None:
    def need(minute: int) -> int | None:
        day, at = divmod(minute - MONDAY, DAY)
        return 40 if at >= TEN else (3 if day == 10 else 1)

    assert level(MONDAY + 10 * DAY + TEN - 5, need).level < 50


def test_a_day_on_which_nothing_more_came_from_now_on_expects_nothing() -> None:
    now = MONDAY + 10 * DAY + TEN
    assert level(now, lambda minute: 7 if (minute - MONDAY) % DAY < TEN - 10 else 0) == (1, "floor")


def test_acquires_that_waited_were_needed_too() -> None:
    class Waited(Recorded):
        def _minute(self, at: int) -> Demand | None:
            return Demand(one=3, host=3, waiting=30, created=0, level=1) if at < MONDAY else None

    of = Waited(MONDAY, lambda _: None)
    found = decide(MONDAY, of, floor=1, most=MOST, level=1, offset=lambda _: 0)
    assert found.level >= 30


def test_it_falls_late_and_by_steps_that_all_workers_take_in_the_same_minutes() -> None:
    of, end = daily(40, range(10)), MONDAY + 9 * DAY + 18 * HOUR
    now, kept, levels = end, level(end - 1, of).level, list[int]()
    full = kept
    for minute in range(now, now + HOUR):
        kept, reason = level(minute, of, before=kept)
        levels.append(kept)
        assert reason in ("day", "week", "held", "hour", "floor")
    assert levels[:EVERY] == [full] * EVERY
    assert levels[EVERY] < full
    falls = [at for at, (a, b) in enumerate(pairwise(levels), 1) if b < a]
    assert len(falls) >= 5
    assert all((now + at) % EVERY == 0 for at in falls)
    assert levels[-1] == 1


def test_it_falls_too_where_no_decision_was_made_in_the_very_minute() -> None:
    """A worker at rest is not looked at by the minute."""
    now = MONDAY + 1
    assert level(now, lambda _: 1, before=40, decided=None) == Expected(40, "held")
    assert level(now, lambda _: 1, before=40, decided=now - 2).level < 40


def test_it_rises_at_once() -> None:
    assert level(MONDAY + 9 * DAY + TEN + 1, daily(40), before=1).level >= 40


def test_a_level_above_what_is_allowed_by_now_is_given_up_at_once() -> None:
    assert level(MONDAY + 1, lambda _: 1, most=8, before=40).level == 1


@given(
    needs=st.dictionaries(st.integers(-40, 0), st.integers(0, 300), max_size=45),
    hour=st.integers(0, 23),
    floor=st.integers(1, 20),
    more=st.integers(0, 80),
    before=st.integers(0, 120),
)
def test_it_is_never_below_the_floor_nor_above_what_is_allowed(
    needs: dict[int, int], hour: int, floor: int, more: int, before: int
) -> None:
    now = MONDAY + hour * HOUR
    found = level(now, by_day(needs), floor=floor, most=floor + more, before=before + floor)
    assert floor <= found.level <= floor + more


@given(
    one=st.integers(0, 80),
    two=st.integers(0, 80),
    more=st.integers(0, 80),
    minute=st.integers(0, LAST),
)
def test_of_more_today_it_expects_no_less(one: int, two: int, more: int, minute: int) -> None:
    """And of more on the only day that is known."""
    now = MONDAY + DAY

    def of(extra_at: int) -> Callable[[int], int | None]:
        def need(at: int) -> int | None:
            if at < now - DAY - HOUR:
                return None
            return (one if at < now - HOUR else two) + (more if at == extra_at else 0)

        return need

    plain = level(now, of(-1))
    assert level(now, of(now - minute)).level >= plain.level
    assert level(now, of(now - DAY + minute % AHEAD)).level >= plain.level


def test_few_minutes_are_read_on_an_ordinary_day() -> None:
    class Counted(Recorded):
        n = 0

        def read(self, first: int, end: int) -> Sequence[Demand | None]:
            self.n += end - first
            return super().read(first, end)

    past = Counted(MONDAY + 36 * DAY + TEN, daily(40))
    decide(past.now, past, floor=1, most=MOST, level=1, offset=lambda _: 0)
    assert past.n < 650


def test_it_is_decided_each_minute_while_any_is_lent_and_else_every_five() -> None:
    assert decide_again(MONDAY + 3, lent=1) == MONDAY + 4
    assert [decide_again(MONDAY + n, lent=0) - MONDAY for n in (0, 1, 4, 5)] == [5, 5, 5, 10]


def test_this_hosts_clocks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert local_offset(1_760_000_000 // 60) == 120  # in October 2025
        assert local_offset(1_765_000_000 // 60) == 60  # in December
    finally:
        monkeypatch.undo()
        time.tzset()
