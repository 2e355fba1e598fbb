"""Metrics of real pools: what each says against what was done."""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.semconv._incubating.metrics import db_metrics

from poolguard import Guard, __version__
from poolguard.pool import base
from poolguard.pool.errors import PoolTimeout, TooManyRequests
from poolguard.pool.housekeeper import Housekeeper
from poolguard.pool.status import status_of
from poolguard.telemetry import figures as figures_module
from poolguard.telemetry import metrics as metrics_module
from poolguard.telemetry.durations import _recorder, look
from poolguard.telemetry.metrics import BUCKETS, INSTRUMENTS
from poolguard.telemetry.names import POOL_NAME
from poolguard.testing import ManualClock
from poolguard.util import clock

from ..support import until
from .collected import Collected, Read, kind_of
from .support import lent, lent_until_waited_for, server_span, use

DB = "db.client.connection."
_names = count(1)


@pytest.fixture
def name(read: Read) -> str:
    """A pool's name of the test's own: what others of this process have counted goes on."""
    look(wait=10)
    return f"pool-{next(_names)}"


def opened(dsn: str, name: str, **settings: Any) -> Guard:
    guard = Guard(dsn, name=name, **{"budget": 2, "floor": 1} | settings)
    assert guard.open(wait=10)
    return guard


def timed(read: Read, name: str, histogram: str, times: int) -> HistogramDataPoint:
    """Once it has recorded so often: who opens a connection hands it over first, then tells."""

    def is_there() -> bool:
        points = read(name).points.get(histogram, {})
        return any(getattr(point, "count", 0) == times for point in points.values())

    until(is_there)
    return read(name).histogram(histogram)


# -- what they are called ----------------------------------------------------------------------


def test_names_kinds_and_units_are_the_conventions() -> None:
    meter = MeterProvider().get_meter("tests")
    kinds = {Counter: "counter", UpDownCounter: "updowncounter", Histogram: "histogram"}
    conventional = {}
    for create in vars(db_metrics).values():
        if getattr(create, "__name__", "").startswith("create_db_client_connection_"):
            made = create(meter)
            [kind] = [kind for type_, kind in kinds.items() if isinstance(made, type_)]
            conventional[made.name] = (kind, made.unit)
    ours = {each.name: (each.kind, each.unit) for each in INSTRUMENTS}
    conventional.setdefault(f"{DB}limit", conventional[f"{DB}max"])  # its name to come
    assert {name: found for name, found in ours.items() if name.startswith("db.")} == conventional
    assert len(conventional) == 10


def test_each_instrument_reaches_a_reader_as_it_is_described(
    dsn: str, name: str, read: Read
) -> None:
    guard = opened(dsn, name, metrics="all", ledger="fleet", ledger_label=name, budget=4)
    with lent(guard):
        use(guard)  # has a second one opened
    timed(read, name, f"{DB}create_time", 2)
    found = read(name)
    for each in INSTRUMENTS:
        metric = found.metrics[each.name]
        assert (kind_of(metric), metric.unit) == (each.kind, each.unit)
        assert metric.description == each.description
        for point in found.points[each.name].values():
            extra = {each.attribute} if each.attribute else set()
            assert set(point.attributes or {}) == {POOL_NAME} | extra
    assert found.metrics.keys() == {each.name for each in INSTRUMENTS}


def test_buckets_suit_seconds(dsn: str, name: str, read: Read) -> None:
    opened(dsn, name)
    assert tuple(timed(read, name, f"{DB}create_time", 1).explicit_bounds) == BUCKETS


def test_the_scope_says_who_and_which_version(
    dsn: str, name: str, read: Read, reader: InMemoryMetricReader
) -> None:
    opened(dsn, name)
    data = reader.get_metrics_data()
    assert data is not None
    scopes = [each.scope for of in data.resource_metrics for each in of.scope_metrics]
    assert [(each.name, each.version) for each in scopes] == [("poolguard", __version__)]


# -- what was counted --------------------------------------------------------------------------


def test_acquires_by_outcome(dsn: str, name: str, read: Read) -> None:
    """Each as often as it happened; one of a kind that has not happened is 0 and not missing."""
    guard = opened(dsn, name, max_waiting=1)
    for _ in range(3):
        use(guard)  # 3 acquired
    waiting = threading.Thread(target=use, args=(guard,))
    with lent(guard), lent(guard):  # 1 acquired, 1 created
        waiting.start()
        until(lambda: guard.status()["waiting"] == 1)
        assert read(name).number(f"{DB}pending_requests") == 1
        with pytest.raises(TooManyRequests):
            use(guard)
    waiting.join(10)
    with (
        lent(guard),  # 2 acquired
        lent(guard),
        pytest.raises(PoolTimeout),
        guard.connection(timeout=0.05),
    ):
        pass
    found = read(name)
    assert {value: found.number("poolguard.acquires", value) for value in OUTCOMES} == {
        "acquired": 6,
        "created": 1,
        "timeout": 1,
        "rejected": 1,
        "waited": 1,
        "error": 0,
    }
    assert found.number(f"{DB}timeouts") == 1
    assert found.number(f"{DB}pending_requests") == 0


OUTCOMES = ("acquired", "waited", "created", "timeout", "rejected", "error")


def test_the_pool_as_it_is(dsn: str, name: str, read: Read) -> None:
    guard = opened(dsn, name, budget=6, floor=3, max_size=5)
    with lent(guard), lent(guard):
        found = read(name)
    assert found.numbers(f"{DB}count") == {"idle": 1, "used": 2}
    assert found.number(f"{DB}idle.min") == 3
    for bound in ("idle.max", "max", "limit"):
        assert found.number(f"{DB}{bound}") == 5
    assert read(name).numbers(f"{DB}count") == {"idle": 3}


def test_connections_by_reason(dsn: str, name: str, read: Read) -> None:
    guard = opened(dsn, name, budget=3, floor=1)
    with lent(guard):
        use(guard)
    with guard.connection() as conn:
        conn.close()
    until(lambda: guard.status()["closed"] == {"discarded": 1})
    guard.close()
    found = read(name)
    status = guard.status()
    assert found.numbers("poolguard.connections.created") == status["created"]
    assert found.numbers("poolguard.connections.closed") == status["closed"]
    assert found.number("poolguard.connections.created", "warmup") == 1
    assert found.number("poolguard.connections.created", "growth") == 1
    assert found.number("poolguard.connections.closed", "discarded") == 1
    assert found.number("poolguard.connections.closed", "shutdown") >= 1


def test_the_budget_is_the_ledgers(dsn: str, name: str, read: Read) -> None:
    """That of all workers: the other guard stands for a second one."""
    with_two = {"budget": 7, "floor": 2, "workers": 2}
    guard = opened(dsn, name, **with_two)
    other = opened(dsn, f"{name}-other", **with_two)
    with lent(guard), lent(guard):
        use(guard)
    until(lambda: guard.status()["opening"] == other.status()["opening"] == 0)
    held = guard.status()["idle"] + other.status()["idle"]
    assert 5 <= held <= 7
    for each in (name, other.name):
        found = read(each)
        assert found.number("poolguard.budget.limit") == 7
        assert found.number("poolguard.budget.in_use") == held


def test_a_hosts_budget_stays_its_own_in_a_fleet(dsn: str, name: str, read: Read) -> None:
    """And no host tells of a fleet where there is none."""
    fleet = opened(dsn, name, budget=9, floor=3, ledger="fleet", ledger_label=name)
    alone = opened(dsn, f"{name}-alone", budget=9)
    found = read(fleet.name)
    assert found.number("poolguard.budget.in_use") == 3
    assert found.number("poolguard.budget.limit") == 9
    told = [each for each in read(alone.name).points if each.startswith("poolguard.budget.")]
    assert sorted(told) == ["poolguard.budget.in_use", "poolguard.budget.limit"]


def test_a_host_tells_how_its_fleet_stands(dsn: str, name: str, read: Read, tmp_path: Path) -> None:
    """That of all hosts: the other guard is one, whose folder is its own. Of 12 connections two are
    for control sessions, and one is kept free for the next host."""
    both: dict[str, Any] = {"budget": 12, "floor": 2, "ledger": "fleet", "ledger_label": name}
    guard = opened(dsn, name, **both)
    other = opened(dsn, f"{name}-other", **both, runtime_dir=tmp_path / "other")
    until(lambda: read(name).number("poolguard.budget.fleet.hosts") == 2)
    with lent(guard), lent(guard), lent(guard):
        found = read(name)
        told = fleet_of(found)
        assert (told["limit"], told["hosts"]) == (12, 2)
        assert 3 <= told["in_use"] <= told["granted"] <= 9, "the other's are as of the last look"
        assert found.number("poolguard.budget.guaranteed") == 2
        assert found.number("poolguard.budget.fair") == 4
    with lent(other), lent(other), lent(other), lent(other):
        use(other)  # which claims one, and so sees what the other host has
        told = fleet_of(read(other.name))
        assert (told["limit"], told["hosts"]) == (12, 2)
        assert 7 <= told["in_use"] <= told["granted"] <= 9


def test_a_host_tells_that_it_cannot_use_the_ledger(dsn: str, name: str, read: Read) -> None:
    """No more once it is closed: its last report is to raise no alarm."""
    nowhere = "postgresql://nobody@127.0.0.1:1/nowhere"
    guard = Guard(dsn, name=name, budget=4, floor=1, ledger="fleet", ledger_dsn=nowhere)
    guard.open()
    until(lambda: read(name).points.get("poolguard.budget.fleet.unreachable"))
    until(lambda: read(name).number("poolguard.budget.fleet.unreachable") == 1)
    guard.close()
    assert fleet_of(read(name)) == {}


def fleet_of(found: Collected) -> dict[str, float]:
    """What is told of it that is not 0."""
    prefix = "poolguard.budget.fleet."
    told = {each: found.number(each) for each in found.points if each.startswith(prefix)}
    return {each.removeprefix(prefix): n for each, n in told.items() if n}


def test_the_warm_up(slow_dsn: str, name: str, read: Read) -> None:
    guard = opened(slow_dsn, name)
    found = read(name)
    assert found.number("poolguard.warmup.duration") == guard.status()["warmup"]["seconds"] > 0.1


# -- what was timed ----------------------------------------------------------------------------


def test_connects_are_timed(slow_dsn: str, name: str, read: Read) -> None:
    """Whatever their reason."""
    guard = opened(slow_dsn, name)
    with lent(guard):
        use(guard)
    found = timed(read, name, f"{DB}create_time", 2)
    assert 0.1 <= found.min <= found.max <= found.sum < 5


def test_waits_are_timed_where_one_waited(slow_dsn: str, name: str, read: Read) -> None:
    """For a connect, or for a return; not an acquire that found one free, or none."""
    guard = opened(slow_dsn, name)
    use(guard)
    assert f"{DB}wait_time" not in read(name).points
    with lent(guard):
        began = clock.now()
        use(guard)  # created
        took = clock.now() - began
    found = read(name).histogram(f"{DB}wait_time")
    assert found.count == 1
    assert 0.1 <= found.sum <= took
    with lent(guard), lent(guard), pytest.raises(PoolTimeout), guard.connection(timeout=0.05):
        pass
    assert read(name).histogram(f"{DB}wait_time").count == 1
    with lent(guard), lent_until_waited_for(guard):
        use(guard)  # waited
    assert read(name).histogram(f"{DB}wait_time").count == 2


@pytest.mark.usefixtures("exported")
def test_a_wait_has_an_exemplar_of_its_request(slow_dsn: str, name: str, read: Read) -> None:
    guard = opened(slow_dsn, name)
    with lent(guard), server_span() as span:
        use(guard)
    [exemplar] = read(name).histogram(f"{DB}wait_time").exemplars
    assert exemplar.trace_id == span.get_span_context().trace_id
    assert exemplar.span_id == span.get_span_context().span_id


def test_use_is_timed_where_it_is_asked_for(dsn: str, name: str, read: Read) -> None:
    guard = opened(dsn, name, metrics="all")
    use(guard)
    with guard.connection() as conn:
        began = clock.now()
        conn.execute("SELECT pg_sleep(0.2)")
        took = clock.now() - began
    found = read(name).histogram(f"{DB}use_time")
    assert found.count == 2
    assert found.max >= took >= 0.2 > found.min


def test_use_is_not_timed_otherwise(dsn: str, name: str, read: Read) -> None:
    guard = opened(dsn, name)
    use(guard)
    found = read(name)
    assert found.number("poolguard.acquires", "acquired") == 1
    assert f"{DB}use_time" not in found.points
    with guard.connection() as conn:
        entry = conn._poolguard_entry  # type: ignore[attr-defined]
        assert entry.checkout is None  # nobody notes who has it


def test_off_says_nothing(dsn: str, name: str, read: Read) -> None:
    guard = opened(dsn, name, metrics="off")
    with lent(guard):
        use(guard)
    assert read(name).points == {}


# -- async pools -------------------------------------------------------------------------------


def test_an_async_pool(slow_dsn: str, name: str, read: Read) -> None:
    async def job() -> None:
        async with (
            Guard(slow_dsn, name=name, budget=2, floor=1, metrics="all") as guard,
            guard.aconnection(),
            guard.aconnection(),
        ):
            assert read(name).numbers(f"{DB}count") == {"used": 2}
            with pytest.raises(PoolTimeout):
                async with guard.aconnection(timeout=0.05):
                    pass

    asyncio.run(job())
    found = read(name)
    assert found.numbers("poolguard.acquires") == {"acquired": 1, "created": 1, "timeout": 1}
    assert found.numbers("poolguard.connections.created") == {"warmup": 1, "growth": 1}
    assert found.numbers("poolguard.connections.closed") == {"shutdown": 2}
    assert found.number(f"{DB}timeouts") == 1
    assert found.histogram(f"{DB}create_time").count == 2
    assert found.histogram(f"{DB}wait_time").count == 1
    assert found.histogram(f"{DB}use_time").count == 2


def test_an_async_pool_whose_loop_ended_unclosed(dsn: str, name: str, read: Read) -> None:
    """As on SIGQUIT: what it has counted is in the last report, and in the status."""
    guard = Guard(dsn, name=name, budget=2, floor=1, mode="async")

    async def job() -> None:
        await guard.aopen(wait=10)
        async with guard.aconnection():
            pass

    asyncio.run(job())
    guard.close()
    found = read(name)
    assert found.numbers("poolguard.acquires") == guard.status()["acquires"] == {"acquired": 1}
    assert found.numbers("poolguard.connections.closed") == {"shutdown": 1}
    assert found.numbers(f"{DB}count") == {}


# -- closed, and opened again ------------------------------------------------------------------


def test_a_closed_guard_keeps_its_counts_and_has_no_bounds(dsn: str, name: str, read: Read) -> None:
    """The last report of a worker comes after it has closed its guards."""
    guard = opened(dsn, name, budget=4, floor=2)
    use(guard)
    warm = read(name).number("poolguard.warmup.duration")
    guard.close()
    found = read(name)
    assert found.numbers("poolguard.acquires") == {"acquired": 1}
    assert found.numbers("poolguard.connections.closed") == {"shutdown": 2}
    assert found.number("poolguard.warmup.duration") == warm
    for level in ("count", "idle.max", "idle.min", "max", "limit", "pending_requests"):
        assert found.numbers(f"{DB}{level}") == {}
    for level in ("limit", "in_use"):
        assert found.number(f"poolguard.budget.{level}") == 0


def test_counts_go_on_when_a_guard_is_opened_again(dsn: str, name: str, read: Read) -> None:
    """Also where an earlier opening has still lent a connection."""
    guard = opened(dsn, name, budget=9, floor=1)
    kept = guard.pool
    assert hasattr(kept, "getconn")
    conn: Any = kept.getconn()
    for n in (2, 3, 4):
        guard.close()
        assert guard.open(wait=10)
        use(guard)
        found = read(name)
        assert found.number("poolguard.acquires", "acquired") == n
        assert found.number("poolguard.connections.created", "warmup") == n
        assert found.number("poolguard.connections.closed", "shutdown") == n - 2
        assert found.numbers(f"{DB}count") == {"idle": 1, "used": 1}
        assert found.number(f"{DB}max") == guard.status()["max_size"]
    conn.close()
    kept.putconn(conn)
    until(lambda: sum(read(name).numbers("poolguard.connections.closed").values()) == 3)
    assert len(figures_module._pools[name]._openings) == 2, "those that are over are not kept"


# -- how they are read -------------------------------------------------------------------------


def test_one_collection_asks_the_pool_once(
    dsn: str, name: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one asks anew, however soon it comes."""
    guard = opened(dsn, name, metrics="all")
    asked: list[str] = []

    def noted(keeper: Housekeeper) -> dict[str, Any]:
        if threading.current_thread() is threading.main_thread():  # not the one that publishes
            asked.append(keeper.name)
        return status_of(keeper)

    monkeypatch.setattr(base, "status_of", noted)
    read(name)
    once = asked.count(name)
    for n in range(1, 4):
        use(guard)
        assert read(name).number("poolguard.acquires", "acquired") == n
    assert asked.count(name) == 4 * once
    assert once <= 2, "once, and once for the warm-up"


def test_a_collection_that_takes_long_leaves_the_next_one_no_old_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose first instruments it would have, over and over, as long as they come fast."""
    clock = ManualClock(0)
    readings = count(1.0)

    def figures() -> dict[str, figures_module.Figures]:
        reading = next(readings)
        return {"shop": {"first": {"": reading}, "second": {"": reading}}}

    monkeypatch.setattr(metrics_module, "monotonic", clock)
    monkeypatch.setattr(metrics_module, "figures", figures)
    told = metrics_module._Round()

    def collected(*, takes: float = 0.0) -> list[float]:
        found = [*told.series("first")]
        clock.advance(takes)
        return [figure for _, _, figure in [*found, *told.series("second")]]

    assert collected() == [1, 1]
    assert collected(takes=metrics_module.NEW_FOR) == [2, 3]
    assert collected() == [4, 4]
    assert collected() == [5, 5]


def test_one_pool_that_cannot_be_read_hides_no_other(
    dsn: str,
    name: str,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(figures_module, "_failed", False)
    opened(dsn, name)
    broken = opened(dsn, f"{name}-broken")

    def fail() -> None:
        raise RuntimeError("no figures")

    monkeypatch.setattr(broken._runtime, "pool_status", fail)
    for _ in range(2):
        assert read(name).number(f"{DB}count", "idle") == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"the metrics of pool '{name}-broken' could not be read" in caplog.text
    monkeypatch.undo()


@pytest.mark.usefixtures("name")
def test_a_look_where_everything_is_made_makes_nothing() -> None:
    made = _recorder._made
    assert made is not None
    look(wait=10)
    assert _recorder._made is made
