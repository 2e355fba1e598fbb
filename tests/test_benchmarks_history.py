"""The simulation of a history, a small one: the product's own decision beside today's guess."""

from __future__ import annotations

from benchmarks.history import TODAY, figures
from benchmarks.history.picture import picture
from benchmarks.history.replay import History, Pool, fixed, oracle, replay
from benchmarks.history.traffic import Scale, traffic
from poolguard.history.minutes import DAY, HOUR


def test_with_a_history_hourly_jobs_find_what_todays_guess_creates_for_them() -> None:
    of = traffic("cron", Scale(days=2, workers=1))
    today, learned = (figures(of, replay(of, way)) for way in (fixed(TODAY), History(of)))
    assert today.created > 200
    assert learned.created < 0.02 * today.created
    assert learned.hours < today.hours


def test_with_a_history_a_morning_that_begins_at_once_is_met_from_the_second_day_on() -> None:
    of = traffic("bell", Scale(days=2, workers=1))
    played = replay(of, History(of, floor=1))
    nine = range(9 * HOUR, 9 * HOUR + 5)
    assert sum(played.created[at] for at in nine) > 10
    assert sum(played.created[DAY + at] for at in nine) == 0


def test_who_knows_what_comes_keeps_the_least_with_which_none_is_created() -> None:
    of = traffic("weeks", Scale(days=1, workers=1))
    kept = oracle(of).kept
    assert all(size >= peak for size, peak in zip(kept, of.peaks[0], strict=True))
    assert figures(of, oracle(of)).created == 0


def test_a_pool_closes_what_a_half_hour_did_not_need_and_what_a_level_that_fell_leaves() -> None:
    pool = Pool(phase=0)
    pool.keep(2)
    assert pool.lend(0, bytes([5, 9, 9]), 9) == 3 + 2
    assert pool.size == 12
    for minute in range(60):
        pool.tidy(minute)
    assert pool.size == 2
    pool.keep(20)
    pool.keep(10)
    assert pool.size == 12  # of nine that were just lent
    for minute in range(1, 7):
        assert pool.lend(minute, bytes([4]), 4) == 0
    pool.keep(3)
    assert pool.size == 6


def test_a_week_is_drawn_with_what_was_created() -> None:
    drawn = picture("cron", Scale(days=2, workers=1))
    assert drawn.startswith("<svg ")
    assert drawn.count("created while a request waited: ") == 2
