"""The load over kept connections reaches the worker that it is meant for, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.contest import pinned
from benchmarks.contest.conditions import Conditions
from benchmarks.contest.pinned import Share, drive_pinned
from benchmarks.contest.stage import Stage, stage
from poolguard.errors import LabError
from poolguard.lab.story import Phase

QUERY = 0.2
STORY = (Phase("warm", "warming up", 0.2, 0, 0), Phase("skew", "one worker busy", 0.3, 0, 0))
BUSY, QUIET = Share(rate=20, connections=8), Share(rate=4, connections=1)


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as on:
        yield on


def named(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)


@pytest.mark.parametrize("name", ["psycopg_pool tuned", "async psycopg_pool tuned", "Django tuned"])
def test_one_worker_gets_its_share_and_the_other_its_own(on: Stage, name: str) -> None:
    """The busy one has one connection for ten requests: they wait for each other, and no longer."""
    conditions = Conditions(query=QUERY, workers=2, threads=8, budget=2)
    with on.serve(named(name), conditions) as serving:
        samples, _, _ = drive_pinned(serving.server.address, STORY, [QUIET, BUSY])
    assert [sample.status for sample in samples] == [200] * 12
    assert {sample.phase for sample in samples} == {"warm", "skew"}
    # Ten in a row on one connection; spread evenly over both workers it would be six.
    assert max(sample.latency for sample in samples) > 10 * QUERY - 0.5
    # By then the busy one has four before it, and the quiet one has none.
    together = [sample.latency for sample in samples if sample.at == STORY[0].seconds]
    assert len(together) == 2
    assert min(together) < 3 * QUERY


def test_fewer_workers_than_shares_is_no_result(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "PINNED_WITHIN", 0.3)
    with (
        on.serve(named("connection per request"), Conditions(workers=1, threads=4)) as serving,
        pytest.raises(LabError, match="does not spread connections over 2 workers"),
    ):
        drive_pinned(serving.server.address, STORY, [BUSY, QUIET])
