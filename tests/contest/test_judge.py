"""What is read off a run: who was slow, who failed, and which connections came meanwhile."""

from __future__ import annotations

from benchmarks.contest import judge
from benchmarks.contest.judge import of_best, relative
from benchmarks.contest.rounds import Rounds
from poolguard.lab.result import Run
from tests.contest.sample import STORY, make_run


def test_the_burst_is_left_out_of_what_is_opened_meanwhile() -> None:
    run = make_run([(1.0, 0.1)], opened=[-0.5, 3.0, 11.0, 15.0, 25.0])
    assert judge.outside(run, STORY) == 2


def test_the_slowest_outside_the_burst_is_not_that_of_the_burst() -> None:
    run = make_run([(1.0, 0.2), (12.0, 0.9), (15.0, 0.3)])
    assert judge.slowest(run) == 0.9
    assert judge.slowest_outside(run) == 0.3
    assert judge.slowest(run, ["day"]) == 0.2


def test_failures_are_counted_by_phase() -> None:
    run = make_run([(1.0, 0.2), (12.0, 0.9), (15.0, 0.3)], failed=[1.0, 15.0])
    assert (judge.failed(run), judge.failed(run, ["day"])) == (2, 1)


def test_contenders_are_compared_within_a_round_only() -> None:
    def play(**latencies: float) -> dict[str, Run]:
        return {who: make_run([(1.0, latency)]) for who, latency in latencies.items()}

    rounds = Rounds([play(ours=1.0, a=2.0, b=4.0), play(ours=3.0, b=2.0), play(a=1.0)])
    assert relative(rounds, "ours", "a") == [0.5]
    assert relative(rounds, "ours", "b") == [0.25, 1.5]
    assert of_best(rounds, "ours", ["a", "b"]) == [0.5, 1.5]


def test_who_fails_requests_is_not_the_best_for_failing_fast() -> None:
    quick = make_run([(1.0, 0.001)], failed=[1.0])
    rounds = Rounds([{"ours": make_run([(1.0, 0.2)]), "a": quick, "b": make_run([(1.0, 0.4)])}])
    assert of_best(rounds, "ours", ["a", "b"]) == [0.5]
