"""Rounds: in turn, interleaved; lagging runs are refused, and who cannot run is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.contest.contenders import Contender
from benchmarks.contest.rounds import LAG_MOST, TRIES, play_rounds
from poolguard.errors import LabError
from poolguard.lab.result import Run
from tests.contest.sample import make_run

A, B = Contender("a", "guarded"), Contender("b", "per_request")


def playing(order: list[str], lag: Callable[[], float] = lambda: 0.0) -> Callable[[Contender], Run]:
    def play(contender: Contender) -> Run:
        order.append(contender.name)
        return make_run([(1.0, 0.1)], name=contender.name, lag=lag())

    return play


def test_every_other_round_is_played_in_reversed_order() -> None:
    order: list[str] = []
    done = play_rounds([A, B], 3, playing(order))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(done.of(name)) for name in "ab"] == [3, 3]


def test_a_run_whose_generator_lagged_is_played_again() -> None:
    lags = iter([LAG_MOST * 2, LAG_MOST])
    done = play_rounds([A], 1, playing([], lambda: next(lags)))
    assert [run.lag for run in done.of("a")] == [LAG_MOST]
    assert done.refused == {"a": 1}
    assert "a: 1 run(s) refused" in done.notes()


def test_a_contest_of_longer_runs_may_refuse_later_ones_only() -> None:
    done = play_rounds([A], 1, playing([], lambda: LAG_MOST * 2), LAG_MOST * 2)
    assert [len(done.of("a")), done.refused["a"]] == [1, 0]
    assert "later than 100 ms is refused" in done.notes()[0]


def test_a_run_that_lags_again_and_again_does_not_count() -> None:
    order: list[str] = []
    done = play_rounds([A], 1, playing(order, lambda: 1.0))
    assert len(order) == done.refused["a"] == TRIES
    assert done.of("a") == []
    assert f"a: {TRIES} run(s) refused" in done.notes()


def test_who_does_not_come_up_is_named_and_tried_no_more() -> None:
    tried: list[str] = []

    def play(contender: Contender) -> Run:
        tried.append(contender.name)
        if contender is A:
            raise LabError("gunicorn ended at start: no such thing")
        return make_run([(1.0, 0.1)])

    done = play_rounds([A, B], 2, play)
    assert tried == ["a", "b", "b"]
    assert "a: not measured: gunicorn ended at start: no such thing" in done.notes()


def test_who_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    absent = Contender("c", "django_pool", package="no-such-package")
    node = Contender("d", "knex", "node")
    monkeypatch.setenv("PATH", "")
    done = play_rounds([A, absent, node], 1, playing(order))
    assert order == ["a"]
    assert done.notes()[1:] == [
        "c: not measured: no-such-package is not installed: pip install "
        "'gunicorn-poolguard[bench]'",
        "d: not measured: it needs Node.js, and once `npm install --no-package-lock` in "
        "benchmarks/knex",
    ]
