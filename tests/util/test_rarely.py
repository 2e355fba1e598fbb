"""What is said rarely: once, while it lasts, or every so often."""

from __future__ import annotations

from poolguard.util.rarely import Once, Paced, WhileItLasts, is_said


def test_of_many_times_the_first_and_each_doubling_is_said() -> None:
    assert [n for n in range(1, 20) if is_said(n)] == [1, 2, 4, 8, 16]


def test_each_thing_is_first_once() -> None:
    once = Once()
    assert [once.is_first(what) for what in "aabab"] == [True, False, True, False, False]
    assert Once().is_first("a")


def test_what_lasts_is_news_when_it_begins_and_when_it_is_another() -> None:
    lasts = WhileItLasts()
    said = [lasts.is_news(what) for what in (3, 3, 4, 3, None, None, 3)]
    assert said == [True, False, True, True, False, False, True]


def test_paced_says_how_often_it_was_left_out() -> None:
    paced = Paced(1.0)
    said = [paced.left_out(now) for now in (0.0, 0.5, 0.9, 1.0, 1.5, 9.0, 9.5)]
    assert said == [0, None, None, 2, None, 1, None]
