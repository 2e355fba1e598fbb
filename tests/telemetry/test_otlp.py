"""Spans and metrics of real gunicorn workers, as a backend gets them: number by number."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from poolguard.telemetry.metrics import INSTRUMENTS, Instrument

from ..doors.conftest import Serve, janitor, serve
from ..doors.server import ASGI, SYNC, UVICORN, Door, Server
from ..support import until
from .receiver import POOL, Export, Receiver, Series, attributes_of, receiving

__all__ = ["janitor", "serve"]  # fixtures

DB = "db.client.connection."
QUERIES, WAITS, TIMEOUTS = 10, 3, 2
WORKERS, FLOOR = 2, 2
SETTINGS = {
    "TEST_WORKERS": str(WORKERS),
    "TEST_INSTRUMENTED": "yes",
    "POOLGUARD_FLOOR": str(FLOOR),
    "POOLGUARD_MAX_SIZE": str(FLOOR),  # so that nothing can be created after the warm-up
    "POOLGUARD_ACQUIRE_TIMEOUT": "1",
    "POOLGUARD_METRICS": "all",
}
KINDS = {
    "counter": "monotonic sum",
    "updowncounter": "sum",
    "gauge": "gauge",
    "histogram": "histogram",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def start(
    door: Door, dsn: str, serve: Serve, receiver: Receiver, *, generations: int = 1
) -> Server:
    """Once its workers are warm, and have said so. So many generations of them have room."""
    budget = {"POOLGUARD_BUDGET": str(generations * WORKERS * FLOOR)}
    ends = {"TEST_SHUTS_DOWN": "yes"} if door is UVICORN else {}
    server = serve(door, dsn, TEST_OTLP=receiver.url, **SETTINGS | budget | ends)
    until(lambda: len(receiver.exports) == WORKERS, within=40)
    until(lambda: all(map(is_warm, receiver.last())), within=20)
    return server


def load(server: Server) -> None:
    """Requests one by one. For one that waits, or finds none, another lends all of the pool."""
    for path, times, answer in (
        ("/query", QUERIES, 200),
        ("/wait", WAITS, 200),
        ("/starve", TIMEOUTS, 503),
    ):
        for _ in range(times):
            assert server.get(path).status == answer


def counted() -> dict[Series, float]:
    """What one generation of workers has counted at its end, with the load."""
    acquired = QUERIES + (WAITS + TIMEOUTS) * FLOOR
    return {
        ("poolguard.acquires", "acquired"): acquired,
        ("poolguard.acquires", "waited"): WAITS,
        ("poolguard.acquires", "timeout"): TIMEOUTS,
        ("poolguard.connections.created", "warmup"): WORKERS * FLOOR,
        ("poolguard.connections.closed", "shutdown"): WORKERS * FLOOR,
        (f"{DB}timeouts", ""): TIMEOUTS,
        (f"{DB}create_time", "count"): WORKERS * FLOOR,
        (f"{DB}wait_time", "count"): WAITS,
        (f"{DB}use_time", "count"): acquired + WAITS,
    }


def whatever_closed(total: dict[Series, float]) -> dict[Series, float]:
    """At a reload the old workers' connections may be wanted by the new ones before they end."""
    closed = "poolguard.connections.closed"
    ended = sum(total.pop((closed, reason), 0) for reason in ("shutdown", "yielded"))
    return {**total, (closed, "shutdown"): ended}


def is_warm(export: Export) -> bool:
    return export.numbers.get((f"{DB}count", "idle")) == FLOOR


def has_ended(export: Export) -> bool:
    return export.numbers.get((f"{DB}max", "")) == 0


@pytest.mark.parametrize("door", [SYNC, ASGI, UVICORN], ids=str)
def test_what_arrives_is_what_the_load_did(
    door: Door, dsn: str, serve: Serve, receiver: Receiver
) -> None:
    server = start(door, dsn, serve, receiver)
    load(server)
    until(lambda: all(map(is_warm, receiver.last())))  # nothing is in use any more
    for export in receiver.last():
        assert_levels(export)
    assert server.stop()[0] == 0

    assert len(receiver.exports) == WORKERS, "a worker is one instance"
    assert receiver.total() == counted()
    for exports in receiver.exports.values():
        assert_never_less(exports)
        assert has_ended(exports[-1])
        assert exports[-1].numbers["poolguard.warmup.duration", ""] > 0
        assert exports[-1].attributes == {POOL} | {
            each.attribute for each in INSTRUMENTS if each.attribute
        }
    kinds = {each.name: KINDS[each.kind] for each in INSTRUMENTS if not is_of_a_fleet(each)}
    assert {name: kind for one in receiver.last() for name, kind in one.kinds.items()} == kinds
    assert_spans_agree(receiver)


def is_of_a_fleet(instrument: Instrument) -> bool:
    """Whether only hosts of a fleet tell it, as this service's is not."""
    found = re.fullmatch(r"poolguard\.budget\.(fleet\..*|guaranteed|fair)", instrument.name)
    return found is not None


def assert_levels(export: Export) -> None:
    """What one worker says of itself, and of the budget that both share."""
    for bound in ("idle.min", "idle.max", "max", "limit"):
        assert export.numbers[f"{DB}{bound}", ""] == FLOOR
    assert export.numbers[f"{DB}count", "used"] == 0
    assert export.numbers["poolguard.budget.limit", ""] == WORKERS * FLOOR
    assert export.numbers["poolguard.budget.in_use", ""] == WORKERS * FLOOR


def assert_never_less(exports: list[Export]) -> None:
    for before, after in pairwise(exports):
        for series, n in before.counts().items():
            assert after.counts()[series] >= n, series


def assert_spans_agree(receiver: Receiver) -> None:
    """The requests' tags tell the same as the metrics, in numbers and in seconds."""
    spans = [span for of_worker in receiver.spans.values() for span in of_worker]
    assert receiver.spans.keys() <= receiver.exports.keys()
    told = Counter(
        outcome
        for span in spans
        if (outcome := attributes_of(span.attributes).get("poolguard.request.outcome"))
    )
    assert told == {"acquired": QUERIES, "waited": WAITS, "timeout": TIMEOUTS}
    waits = {
        span.trace_id: attributes_of(span.attributes)["poolguard.acquire.wait_time"]
        for span in spans
        if attributes_of(span.attributes).get("poolguard.acquire.outcome") == "waited"
    }
    name = f"{DB}wait_time"
    last = [one.histograms[name] for one in receiver.last() if name in one.histograms]
    assert sum(each.sum for each in last) == pytest.approx(sum(waits.values()), abs=1e-5)
    exemplars = {
        exemplar.trace_id
        for exports in receiver.exports.values()
        for export in exports  # each has those of its own interval
        if name in export.histograms
        for exemplar in export.histograms[name].exemplars
    }
    assert exemplars
    assert exemplars <= waits.keys(), "each leads to the trace of a request that waited"


@pytest.mark.parametrize("door", [SYNC, ASGI, UVICORN], ids=str)
def test_a_reload_loses_no_count_and_begins_anew(
    door: Door, dsn: str, serve: Serve, receiver: Receiver
) -> None:
    """The old workers' last export is complete; the new ones are other instances, which count
    from 0."""
    server = start(door, dsn, serve, receiver, generations=2)
    old = [*receiver.exports]
    load(server)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: all(map(has_ended, receiver.last(*old))), within=40)
    until(lambda: len(receiver.exports) == 2 * WORKERS, within=40)
    new = [who for who in receiver.exports if who not in old]
    until(lambda: all(map(is_warm, receiver.last(*new))), within=20)
    assert whatever_closed(receiver.total(*old)) == counted()
    load(server)
    assert server.stop()[0] == 0
    assert receiver.total(*new) == counted()
    assert whatever_closed(receiver.total(*old)) == counted()
    assert len(receiver.exports) == 2 * WORKERS
