"""The picture of a guard's days: what stands where, by the clock on the wall, in any width."""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from poolguard.cli.history_days import Day, columns_of, days
from poolguard.cli.history_picture import draw, legend, minutes_each
from poolguard.history.minutes import DAY, HOUR, WEEK, Demand
from tests.history.past import MONDAY, MadeUp, minute, week

UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")


def of_week(past: MadeUp | None = None) -> list[Day]:
    return days(week() if past is None else past, MONDAY, MONDAY + WEEK, UTC)


def test_a_small_picture() -> None:
    past = MadeUp()
    for hour, (lent, level) in enumerate(
        [(0, 2), (0, 2), (1, 2), (2, 2), (4, 4), (8, 4), (6, 6), (5, 6), (0, 6), (0, 6)]
    ):
        for at in range(MONDAY + hour * HOUR, MONDAY + (hour + 1) * HOUR):
            past[at] = Demand(lent, lent * 2, 0, 4 if (hour, at % HOUR) == (5, 3) else 0, level)
    assert [*draw(days(past, MONDAY, MONDAY + DAY, UTC), 40)] == [
        "Mon 26 Jan: 8 lent at once in one worker",
        "     8 ┤     ▒",
        "       │     ▒█▄──",
        "     4 ┤    ████",
        "       │──▄█████",
        "       └┴──┴──┴──┴",
        "created      4",
        "        0  3  6  9  12 15 18 21",
    ]


def test_a_small_picture_in_ascii() -> None:
    past = MadeUp({MONDAY + n: Demand(n // HOUR, 9, 0, n // 479, 4) for n in range(8 * HOUR)})
    assert [*draw(days(past, MONDAY, MONDAY + DAY, UTC), 50, unicode=False)] == [
        "Mon 26 Jan: 7 lent at once in one worker",
        "     7 +          %%%%",
        "       |------..%%%%%%",
        "     4 +   ..#########",
        "       | #############",
        "       ++----+----+---",
        "created              1",
        "        0    3    6    9    12   15   18   21",
    ]


@pytest.mark.parametrize("width", [32, 40, 41, 60, 79, 80, 81, 100, 160])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_asked(width: int, unicode: bool) -> None:
    lines = [*draw(of_week(), width, unicode=unicode)]
    assert max(map(len, lines)) <= width
    assert unicode or all(line.isascii() for line in [*lines, *legend(width, unicode=False)])
    assert len([line for line in lines if "lent at once" in line]) == 7


def test_in_80_columns_a_day_has_20_minutes_a_column() -> None:
    assert minutes_each(80) == minutes_each(100) == 20
    assert minutes_each(104) == 15


def test_all_days_have_one_scale() -> None:
    """A weekend is low beside a day with an incident, and its empty rows are left out."""
    lines = [*draw(of_week(), 80)]
    heads = [n for n, line in enumerate(lines) if "lent at once" in line]
    heights = [after - at for at, after in zip(heads, [*heads[1:], len(lines) - 1], strict=True)]
    assert heights == [4, 4, 7, 4, 4, 4, 4]
    assert all("16 ┤" in lines[n + heights[at] - 3] for at, n in enumerate(heads) if at != 2)


def test_what_was_above_the_level_and_what_was_created_stand_at_their_time() -> None:
    lines = [*draw(of_week(), 80)]
    at = 8 + 14 * 3
    marked = [line for line in lines if "▒" in line]
    assert [line.index("▒") for line in marked] == [at, at]
    [created] = [line for line in lines if line.startswith("created")]
    assert created.rstrip() == f"{'created':{at}}+"


def test_where_nothing_is_known_the_axis_is_broken() -> None:
    past = week()
    for at in range(MONDAY + 9 * HOUR, MONDAY + 12 * HOUR):
        del past[at]
    axis = [*draw(of_week(past), 80)][3]
    assert (
        axis[8:] == "┴────────┴────────┴────────" + " " * 9 + "┴────────┴────────┴────────┴────────"
    )


def test_a_day_of_which_nothing_is_known_is_one_line() -> None:
    past = week()
    for at in range(MONDAY + DAY, MONDAY + 2 * DAY):
        del past[at]
    lines = [*draw(of_week(past), 80)]
    assert lines[4:6] == [
        "Tue 27 Jan: nothing recorded",
        "Wed 28 Jan: 31 lent at once in one worker, 160 created while a request waited",
    ]


def test_a_level_that_was_never_told_is_not_drawn_and_nothing_is_above_it() -> None:
    past = MadeUp({MONDAY + n: minute(5) for n in range(DAY)})
    assert {column.beyond for column in columns_of(of_week(past)[0], 20)} == {0}


# --- days by the clock on the wall


def test_days_begin_at_midnight_here() -> None:
    past = MadeUp({MONDAY + n: minute(n) for n in (-HOUR, 0, DAY - HOUR - 1, DAY - HOUR)})
    [day, after] = days(past, MONDAY, MONDAY + DAY, BERLIN)
    assert (day.date, after.date) == (date(2026, 1, 26), date(2026, 1, 27))
    assert [at for at, found in enumerate(day.minutes) if found] == [0, HOUR, DAY - 1]
    assert [at for at, found in enumerate(after.minutes) if found] == [0]
    assert not day.changed


def test_what_is_yet_to_come_is_not_missing() -> None:
    [day] = days(week(), MONDAY, MONDAY + 9 * HOUR, UTC)
    assert (day.until, len(day.known)) == (9 * HOUR, 9 * HOUR)


def at_midnight(of: date) -> int:
    return int((of - date(1970, 1, 1)) / timedelta(minutes=1))


def test_the_hour_that_comes_twice_is_merged() -> None:
    """25 October 2026: at 3:00 it is 2:00 again, which is 1:00, UTC."""
    midnight = at_midnight(date(2026, 10, 25))
    past = MadeUp({at: minute(1) for at in range(midnight - 2 * HOUR, midnight + 23 * HOUR)})
    past[midnight] = minute(7, created=2)
    past[midnight + HOUR] = minute(9, created=3)
    past[midnight + 20 * HOUR] = minute(11)
    [day] = days(past, midnight, midnight + 20 * HOUR + 1, BERLIN)
    assert day.changed
    assert day.minutes[2 * HOUR] == minute(7, created=2).merged(minute(9, created=3))
    assert day.minutes[21 * HOUR] == minute(11)
    assert len(day.known) == day.until == 21 * HOUR + 1
    assert "the clocks were changed" in next(draw([day], 120))


def test_of_the_hour_that_is_left_out_nothing_is_known() -> None:
    """29 March 2026: at 2:00, which is 1:00, UTC, it is 3:00."""
    midnight = at_midnight(date(2026, 3, 29))
    past = MadeUp({at: minute(1) for at in range(midnight - HOUR, midnight + 22 * HOUR)})
    past[midnight + HOUR] = minute(9)
    [day] = days(past, midnight, midnight + 20 * HOUR + 1, BERLIN)
    assert day.changed
    assert [at for at, found in enumerate(day.minutes) if found is None] == [
        *range(2 * HOUR, 3 * HOUR),
        *range(day.until, DAY),
    ]
    assert day.until == 22 * HOUR + 1
    assert day.minutes[3 * HOUR] == minute(9)


def test_a_day_without_midnight_begins_with_its_first_minute() -> None:
    """In Santiago the clocks skip the first hour of 6 September 2026."""
    zone = ZoneInfo("America/Santiago")
    first = at_midnight(date(2026, 9, 6)) + 4 * HOUR
    past = MadeUp({first - 1: minute(3), first: minute(5)})
    before, day = days(past, first - 1, first + 1, zone)
    assert before.minutes[DAY - 1] == minute(3)
    assert day.minutes[HOUR] == minute(5)
    assert len(day.known) == len(before.known) == 1
