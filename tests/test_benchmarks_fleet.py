"""``fleet`` runs, and tells a failure that an event explains from one that nothing does."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from benchmarks import fleet
from benchmarks.fleet.chaos import GRACE, GRACEFUL_TIMEOUT, KEEPALIVES, Event, reason
from benchmarks.fleet.clients import GIVE_UP, Reply
from benchmarks.fleet.hosts import field, until
from benchmarks.fleet.record import episodes
from benchmarks.fleet.watch import Above, Sight
from poolguard.budget.fleet.survey import Session

LOST = Reply("h1", "0.1", 10.0, 11.0, 502, 7, "OperationalError")
REFUSED = replace(LOST, status=503, said="PoolTimeout")
CUT_OFF = replace(LOST, status=0, said="the connection ended without an answer")


def event(what: str, began: float, ended: float, host: str = "h1") -> Event:
    return Event(what, host, began, ended)


@pytest.mark.parametrize(
    ("reply", "events", "why"),
    [
        (CUT_OFF, [event("killed worker", 10.5, 10.5)], "killed worker"),
        (CUT_OFF, [event("killed worker", 10.5, 10.5, "h2")], None),
        (CUT_OFF, [event("killed worker", 11.5, 11.5)], None),
        (CUT_OFF, [event("cut", 9.0, 12.0)], None),
        (replace(CUT_OFF, ended=10.0 + GIVE_UP), [event("cut", 9.0, 12.0)], "cut"),
        (LOST, [event("killed worker", 10.5, 10.5)], None),
        (LOST, [event("ended sessions", 10.5, 10.5, "")], "ended sessions"),
        (LOST, [event("ended control session", 10.5, 10.5, "")], None),
        (REFUSED, [event("server away", 5.0, 10.0 - GRACE / 2, "")], "server away"),
        (REFUSED, [event("server away", 5.0, 10.0 - 2 * GRACE, "")], None),
        # TCP waits as long again before it tries again, ...
        (REFUSED, [event("cut", 1.0, 4.0)], "cut"),
        (REFUSED, [event("cut", -1.0, 0.0)], None),
        # ... and where sessions ended that could not be told so, until keepalives tell.
        (REFUSED, [event("cut", -1.0, 0.0), event("server away", -0.5, 0.0, "")], "cut"),
        (
            REFUSED,
            [event("cut", -KEEPALIVES, -KEEPALIVES), event("server away", -70, -50, "")],
            None,
        ),
        (REFUSED, [event("killed keeper", 10.5, 10.5), event("leave", 10.5, 11.0)], None),
        # It waited behind threads that hung, until gunicorn's patience was over.
        (CUT_OFF, [event("cut", 0.0, 10.0), event("leave", 10.5, 10.5 + GRACEFUL_TIMEOUT)], "cut"),
        (CUT_OFF, [event("cut", 0.0, 10.0), event("leave", 10.5, 15.0)], None),
        (CUT_OFF, [event("leave", 10.5, 10.5 + GRACEFUL_TIMEOUT)], None),
    ],
)
def test_a_failure_is_explained_by_what_happened_to_its_host_meanwhile(
    reply: Reply, events: list[Event], why: str | None
) -> None:
    assert reason(reply, events) == why


def test_samples_that_follow_each_other_are_one_episode() -> None:
    moments = [1.0, 1.1, 1.2, 5.0, 9.0, 9.1]
    found = episodes([(at, []) for at in moments])
    assert [[at for at, _ in episode] for episode in found] == [[1.0, 1.1, 1.2], [5.0], [9.0, 9.1]]


def test_a_control_session_keeps_a_host_once_it_has_leased_all_that_the_host_uses() -> None:
    """While one succeeds another there are two, and before that one that has leased a part."""
    line = "poolguard 1 936a78:h1 b20 w2 f4 g3 u2 n0"
    names = {1: line, 2: line, 3: "h1", 4: "h1", 5: "h2"}
    holders = {
        1: Session(1, line, "fleet", leased=frozenset({1, 5, 6}), occupied=frozenset({1})),
        3: Session(3, "h1", "fleet", occupied=frozenset({5})),
        4: Session(4, "h1", "fleet", occupied=frozenset({6})),
        5: Session(5, "h2", "fleet", occupied=frozenset({7})),
    }
    sight = Sight(0.0, names, frozenset(), holders)
    assert sight.controls == {1, 2}
    assert sight.keeping("h1") == {1}
    assert sight.is_well("h1", 2)
    assert not sight.is_well("h1", 3)
    assert not sight.keeping("h2")  # its slot is leased by nobody
    assert not sight.keeping("h3")  # it has no session at all

    succeeds = Session(2, line, "fleet", leased=frozenset({2, 5}), occupied=frozenset({2}))
    assert sight._replace(holders={**holders, 2: succeeds}).keeping("h1") == {1}
    has_all = succeeds._replace(leased=frozenset({2, 5, 6}))
    both = sight._replace(holders={**holders, 2: has_all})
    assert both.keeping("h1") == {1, 2}
    assert not both.is_well("h1", 2)
    without_seat = sight._replace(holders={pid: holders[pid] for pid in (1, 3, 5)})
    assert not without_seat.is_well("h1", 1)


def test_what_is_above_a_budget_is_how_far_and_for_how_long() -> None:
    series = [(1.0, 9), (2.0, 6), (2.5, 7), (2.75, 5), (4.0, 6), (9.0, 8)]
    assert Above.of(series, 5, 2.0, 2.75) == (0.75, 2)  # the last sample says no more
    assert Above.of(series, 5, 2.0) == (0.75 + 5.0, 2)
    assert Above.of(series, 9, 0.0) == (0, 0)


@pytest.mark.long
def test_the_keeper_of_a_host_is_found_whichever_worker_it_is() -> None:
    """What kills and stops keepers would else hit anybody, and show nothing."""
    with field() as there:
        [host] = there.started(1)
        keepers = set()
        for _ in range(2):
            until(lambda: host.keeper() and len(host.workers()) == 2, "there is a keeper")
            keeper = host.keeper()
            assert keeper is not None
            assert keeper in host.workers()
            keepers.add(keeper)
            while (told := host.get("threads"))["pid"] != keeper:
                pass  # the other worker has answered
            assert "poolguard-fleet" in told["threads"]
            host.signal(9, [keeper])
            until(lambda: len(host.workers() - keepers) == 2, "its successor is there")
        assert len(keepers) == 2


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_every_part_of_the_fleets_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tables = fleet.run(quick=True)
    assert list(tables) == list(fleet.PARTS)
    printed = capsys.readouterr().out
    for part, table in tables.items():
        assert f"\n{part}: " in printed
        assert table.rows
    assert tables["peaks"].rows[0].figures["over"] == [0]
    for row in tables["faults"].rows:
        assert all(seconds < inf for seconds in row.figures["seconds"]), row.who
        assert not row.missed
