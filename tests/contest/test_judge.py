"""What is read off a run: which connections were needed, who was slow, and for how long."""

from __future__ import annotations

from benchmarks.contest import judge
from benchmarks.contest.judge import of_best, relative
from benchmarks.contest.rounds import Rounds
from poolguard.lab.result import Run, Span
from tests.contest.sample import STORY, make_run


def tagged(start: float, outcome: str) -> Span:
    attributes = {"poolguard.request.outcome": outcome}
    return Span("GET", "SERVER", "", "", None, start, start + 0.1, attributes)


def test_the_burst_is_left_out_of_what_is_opened_meanwhile() -> None:
    run = make_run([(1.0, 0.1)], opened=[-0.5, 3.0, 11.0, 15.0, 25.0])
    assert judge.outside(run, STORY) == [3.0, 15.0]


def test_a_connection_was_needed_where_there_were_more_requests_than_connections() -> None:
    three = [(5.0, 1.0), (5.1, 1.0), (5.2, 1.0)]
    assert judge.needless(make_run(three, opened=[5.3]), STORY) == 0
    assert judge.needless(make_run(three, opened=[5.3], connections=[(-1.0, 3)]), STORY) == 1
    assert judge.needless(make_run(three, opened=[5.15]), STORY) == 1  # two, and two were open
    assert judge.needless(make_run(three, opened=[8.0]), STORY) == 1  # none any more


def test_a_connection_was_needed_though_requests_ended_while_it_was_opened() -> None:
    brief = [(5.0, 0.05), (5.0, 0.05), (5.0, 0.05)]
    assert judge.needless(make_run(brief, opened=[5.15]), STORY) == 0


def test_spans_tell_of_requests_for_which_a_connection_was_created_needlessly() -> None:
    """Their clock is another: they count from the first of them, which is the first request's."""
    requests = [(1.0, 0.1), (3.0, 0.4), (12.0, 0.4), (15.0, 0.1), (15.0, 0.1), (15.0, 0.1)]
    outcomes = ["acquired", "created", "created", "created", "acquired", "acquired"]
    spans = [tagged(1e9 + at, outcome) for (at, _), outcome in zip(requests, outcomes, strict=True)]
    assert judge.created(make_run(requests, spans=spans), STORY) == 1
    assert judge.created(make_run(requests), STORY) == 0


def test_the_slowest_outside_the_burst_is_not_that_of_the_burst() -> None:
    run = make_run([(1.0, 0.2), (12.0, 0.9), (15.0, 0.3)])
    assert judge.slowest(run) == 0.9
    assert judge.slowest_outside(run) == 0.3
    assert judge.slowest(run, ["day"]) == 0.2


def test_failures_are_counted_by_phase() -> None:
    run = make_run([(1.0, 0.2), (12.0, 0.9), (15.0, 0.3)], failed=[1.0, 15.0])
    assert (judge.failed(run), judge.failed(run, ["day"])) == (2, 1)


def test_it_has_recovered_when_the_last_request_that_was_slow_or_failed_has_ended() -> None:
    calm = [(float(n), 0.1) for n in range(5)]
    after = [(15.0, 0.1), (16.0, 0.5), (17.0, 0.1), (18.0, 0.24)]
    run = make_run([*calm, *after], failed=[17.0])
    assert judge.recovery(run, "evening", 14.5, "day") == 17.0 + 0.1 - 14.5
    assert judge.recovery(make_run([*calm, *after]), "evening", 14.5, "day") == 16.5 - 14.5
    assert judge.recovery(make_run([*calm, (15.0, 0.1)]), "evening", 14.5, "day") == 0.0


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
