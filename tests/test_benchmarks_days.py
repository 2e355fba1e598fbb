"""A history in fast motion: how its clock goes, and what is read off its days."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.apps.motion import HOUR, MIDNIGHT, Clock, Motion, begin
from benchmarks.contest.contenders import CONTENDERS, POOLGUARD
from benchmarks.contest.rounds import Rounds
from benchmarks.history.days import OUTCOME, Days, Lived, Pace, lived
from benchmarks.table import Table
from poolguard.history.minutes import NOTHING
from poolguard.lab.result import Run, Sample, Span

DAY = Motion([(4, 10.0), (20, 1.0)], 10.0)


def hours(shown: float) -> float:
    return (shown - MIDNIGHT) / HOUR


def test_each_hour_of_a_day_takes_as_long_as_it_is_to() -> None:
    assert DAY.day == 60.0
    assert [hours(DAY.shows(after)) for after in (0, 5, 40, 50, 59)] == [0, 0.5, 4, 14, 23]


def test_every_day_has_twenty_four_hours_and_the_next_begins_where_it_ends() -> None:
    assert hours(DAY.shows(60)) == 24
    assert hours(DAY.shows(60 + 25)) == 24 + 2.5
    with pytest.raises(ValueError, match="a day has 24 hours"):
        Motion([(4, 10.0), (19, 1.0)], 10.0)


def test_the_clock_never_goes_back() -> None:
    shown = [DAY.shows(tenth / 10) for tenth in range(-10, 1300)]
    assert shown == sorted(shown)


def test_the_clock_stands_still_until_the_traffic_begins(tmp_path: Path) -> None:
    clock = Clock(DAY, tmp_path / "begun")
    assert hours(clock.at(1000.0)) == 0
    begin(tmp_path, 1000.0)
    assert [hours(clock.at(moment)) for moment in (999.0, 1000.0, 1005.0)] == [0, 0, 0.5]


PACE = Pace(days=2, early=2.0, busy=1.0, night=0.4, rest=0.1)
PHASES = ("cold", "night", "ramp", "burst", "rest")


def late(at: float, outcome: str) -> Span:
    return Span("pool.acquire", "INTERNAL", "1", "1", None, at, at, {OUTCOME: outcome})


def test_a_day_is_told_apart_from_its_burst_and_from_the_other_days() -> None:
    second, burst = PACE.motion.day, PACE.motion.day + PACE.starts("burst")
    requests = [
        (0.5, 0.9, "cold"),
        (second + 1.5, 0.3, "day"),
        (second + 0.5, 0.2, "cold"),
        (burst + 0.7, 0.5, "burst"),
    ]
    samples = tuple(Sample(at, latency, 200, phase) for at, latency, phase in requests)
    spans = (late(0.5, "created"), late(second + 1.5, "waited"), late(burst + 0.7, "created"))
    run = Run("one", samples, (), (), 8, 0.0, spans)
    assert lived(run, PACE, 1) == Lived([0.2, 0.3], [0.5], 0, ["waited"])
    assert lived(run, PACE, 0).late == ["created"]


def test_a_phase_begins_at_the_same_minute_of_each_day() -> None:
    for day in range(PACE.days):
        begun = day * PACE.motion.day + 0.001
        at = [PACE.minute(begun + PACE.starts(each)) - day * 1440 for each in PHASES]
        assert at == [0, 114, 246, 324, 408]
    assert PACE.story.seconds == pytest.approx(2 * PACE.motion.day)


def test_where_the_limit_was_refused_what_is_divided_by_it_is_missed() -> None:
    ours = next(each for each in CONTENDERS if each.name == POOLGUARD)
    samples = [
        Sample(day * PACE.motion.day + PACE.starts(phase), 0.2, 200, phase)
        for day in range(PACE.days)
        for phase in ("cold", "burst")
    ]
    run = Run(POOLGUARD, tuple(samples), (), (), 8, 0.0)
    # Of no use here: rows are made of what was played.
    days = Days(None, PACE, {POOLGUARD: [NOTHING] * (1440 * PACE.days)})  # type: ignore[arg-type]
    rows = [*days.rows(ours, Rounds([{POOLGUARD: run}]))]
    assert [row.who for row in rows] == ["poolguard, day 1", "poolguard, day 2", "poolguard, later"]
    assert rows[-1].missed == ["calm", "burst"]
    assert rows[-1].judged("created") == 0
    assert str(Table("days", rows))
    assert [*days.rows(ours, Rounds([]))] == []
