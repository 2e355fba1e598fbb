"""What a process tells of each minute, by what its pool has seen between two looks."""

from __future__ import annotations

from poolguard.history.ring import WINDOWS, Row
from poolguard.history.telling import WINDOW, Seen, Telling

MINUTE = 29_000_000
START = 60.0 * MINUTE


def windows(**lent: int) -> tuple[int, ...]:
    """All but these are 0: ``windows(w3=2)``."""
    return tuple(lent.get(f"w{n}", 0) for n in range(WINDOWS))


def test_what_was_lent_is_told_of_each_window_since_the_last_look() -> None:
    told = Telling().note(START + 1.2 * WINDOW, START + 3.9 * WINDOW, Seen(4, level=6))
    assert told == ([Row(MINUTE, windows(w1=4, w2=4, w3=4), level=6)], [])


def test_of_each_window_the_most_is_told_and_what_was_created_is_counted() -> None:
    one = Telling()
    one.note(START, START + WINDOW / 2, Seen(4, waiting=3, created=1))
    rows, over = one.note(START + WINDOW / 2, START + 2 * WINDOW, Seen(2, waiting=1, created=2))
    assert (rows, over) == ([Row(MINUTE, windows(w0=4, w1=2, w2=2), 3, 3)], [])


def test_what_changes_nothing_is_not_told() -> None:
    one = Telling()
    assert one.note(START, START + 1, Seen(0)) == ([Row(MINUTE)], [])
    assert one.note(START + 1, START + 2, Seen(0)) == ([], [])


def test_a_minute_is_over_once_something_is_told_of_the_next() -> None:
    one = Telling()
    one.note(START, START + 1, Seen(1))
    rows, over = one.note(START + 1, START + 60 + WINDOW, Seen(2, created=1))
    assert rows == [
        Row(MINUTE, (2,) * WINDOWS),
        Row(MINUTE + 1, windows(w0=2, w1=2), created=1),
    ]
    assert over == [MINUTE]


def test_minutes_in_which_nobody_looked_are_told_as_well() -> None:
    rows, over = Telling().note(START, START + 150, Seen(0))
    assert [row.minute for row in rows] == [MINUTE, MINUTE + 1, MINUTE + 2]
    assert over == [MINUTE, MINUTE + 1]


def test_a_machine_that_has_slept_tells_nothing_of_that_time() -> None:
    one = Telling()
    one.note(START, START + 1, Seen(1))
    rows, over = one.note(START + 1, START + 3600, Seen(1))
    assert rows == [Row(MINUTE + 60, windows(w0=1))]
    assert over == [MINUTE]


def test_a_clock_that_is_set_back_begins_anew() -> None:
    one = Telling()
    one.note(START, START + 1, Seen(3))
    rows, over = one.note(START - 3600, START - 3599, Seen(1))
    assert rows == [Row(MINUTE - 60, windows(w0=1))]
    assert over == [MINUTE]
