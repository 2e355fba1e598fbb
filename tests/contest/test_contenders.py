"""Each contender serves its endpoint over the database, within what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import psycopg
import pytest

from benchmarks.contest.conditions import Conditions
from benchmarks.contest.contenders import CONTENDERS, Contender, missing
from benchmarks.contest.stage import ROLE, Event, Serving, Stage, stage
from benchmarks.crew import ask
from poolguard.errors import LabError
from poolguard.lab.sessions import arrivals
from poolguard.lab.story import Phase, Story

OPENED_BEFORE = frozenset(
    {"guarded", "guarded_async", "psycopg_sync", "psycopg_async", "asyncpg_pool", "knex"}
)
"""Those that open what they are to keep before the first request, where they are tuned."""
CALM = Story((Phase("day", "steady day", 0.5, 20.0, 20.0),))
QUICKLY = Conditions(query=0.001)


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as on:
        yield on


def named(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)


def sessions(on: Stage) -> int:
    with on.database.server.connect() as admin:
        row = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [ROLE]
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_names_are_unique_and_each_at_defaults_has_a_tuned_one() -> None:
    names = [contender.name for contender in CONTENDERS]
    assert len(set(names)) == len(names)
    alone = {"connection per request", "poolguard"}  # they have nothing to tune
    for contender in CONTENDERS:
        if contender.setting == "defaults" and contender.name not in alone:
            assert named(f"{contender.name} tuned").setting == "tuned"


@pytest.mark.benchmark
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_it_serves_and_leaves_nothing_on_the_server(on: Stage, contender: Contender) -> None:
    if (why := missing(contender)) is not None:
        pytest.skip(why)
    run = on.play(contender, QUICKLY, CALM)
    assert [sample.status for sample in run.samples] == [200] * len(CALM.arrivals())
    assert len(run.opened) > 0
    assert run.peak <= run.budget
    if contender.setting != "defaults" and contender.app in OPENED_BEFORE:
        warm = run.budget // 2 if contender.guarded else run.budget
        assert sum(at < 0 for at in run.opened) == warm
    assert sessions(on) == 0


@pytest.mark.parametrize("name", ["poolguard", "async poolguard"])
def test_poolguard_has_its_telemetry_on(on: Stage, name: str) -> None:
    with on.serve(named(name), QUICKLY) as serving:
        ask(serving.server, 1)
    [spans] = serving.folder.glob("*.spans")
    assert "poolguard.request.outcome" in spans.read_text()


def test_the_health_check_needs_no_database(on: Stage) -> None:
    logged = len(on.database.server.read_log())
    with on.serve(named("connection per request"), QUICKLY) as serving:
        asking = HTTPConnection(*serving.server.address, timeout=10)
        asking.request("GET", "/health")
        assert asking.getresponse().status == 200
        asking.close()
    assert list(arrivals(on.database.server.read_log()[logged:], role=ROLE)) == []


def test_nothing_stays_on_the_server_for_the_next_contender(on: Stage) -> None:
    with on.serve(named("connection per request"), QUICKLY):
        left = psycopg.connect(on.database.role)
        assert sessions(on) == 1
    assert sessions(on) == 0
    left.close()


def test_all_are_told_the_same_budget_in_equal_shares(on: Stage) -> None:
    budget = on.plan(QUICKLY).budget
    alone, two = Conditions(), Conditions(workers=2)
    folder = on.database.server.folder
    for contender in CONTENDERS:
        for conditions, share in ((alone, budget), (two, budget // 2)):
            environ = conditions.environ(contender, on.database.far, budget, folder)
            assert environ["SERVICE_SIZE"] == str(share)
            assert environ.get("POOLGUARD_FLOOR", str(share // 2)) == str(share // 2)


def test_an_event_that_fails_is_no_result(on: Stage) -> None:
    def fail(_: Serving) -> None:
        raise LabError("the cable is out")

    with pytest.raises(LabError, match=r"an event of the story failed: the cable is out"):
        on.play(named("psycopg_pool"), QUICKLY, CALM, events=[Event(0.1, fail)])


def test_events_happen_while_the_traffic_goes_on(on: Stage) -> None:
    """Who opens a connection for each request fails while the server lets nobody in."""
    story = Story((Phase("day", "steady day", 1.5, 20.0, 20.0),))
    contender = named("connection per request")
    refusing = Event(0.5, lambda _: on.database.proxy.refuse())
    resuming = Event(1.0, lambda _: on.database.proxy.resume())
    run = on.play(contender, QUICKLY, story, events=[resuming, refusing])
    failed = [sample.at for sample in run.samples if sample.failed]
    assert failed
    assert 0.3 < min(failed) <= max(failed) < 1.2
