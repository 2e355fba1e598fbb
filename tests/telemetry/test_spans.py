"""Spans of real acquires: what they are called, what they say, when they were, and whose."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from psycopg.conninfo import conninfo_to_dict

from poolguard import Guard, __version__
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.errors import PoolClosed, PoolTimeout, TooManyRequests
from poolguard.telemetry import spans as spans_module
from poolguard.telemetry.spans import SpanListener
from poolguard.util import clock

from ..support import until
from .support import (
    ONE,
    TWO,
    assert_child,
    attributes_of,
    end_of,
    lasted,
    lent,
    lent_until_waited_for,
    named,
    opened,
    serving,
    start_of,
    tags,
    use,
)

# -- acquires that were served -----------------------------------------------------------------


def test_an_immediate_acquire_has_no_span(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **ONE)
    with serving() as span, guard.connection():
        pass
    assert len(exported.get_finished_spans()) == 1
    assert tags(span) == {"outcome": "acquired", "acquire_count": 1, "wait_time": 0.0}


def test_an_acquire_that_had_to_connect(
    slow_dsn: str, postgres: PrivatePostgres, exported: InMemorySpanExporter
) -> None:
    """Both spans, under the request's and within its time."""
    guard = opened(slow_dsn, **TWO)
    with lent(guard), serving() as server, guard.connection() as conn:
        port = conn.info.port
    [acquire] = named(exported, "pool.acquire")
    [connect] = named(exported, "pool.connect")
    assert_child(acquire, server)
    assert_child(connect, acquire)
    assert (acquire.kind, connect.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)

    place = {"server.address": "127.0.0.1", "server.port": port, "db.namespace": "postgres"}
    said = attributes_of(acquire)
    wait, age = said.pop("poolguard.acquire.wait_time"), said.pop("poolguard.connection.age")
    assert said == {
        "db.client.connection.pool.name": "default",
        "poolguard.acquire.outcome": "created",
        **place,
    }
    assert attributes_of(connect) == {"db.system.name": "postgresql", **place}
    expected = {"outcome": "created", "acquire_count": 1, "created_count": 1, "wait_time": wait}
    assert tags(server) == expected

    assert start_of(server) <= start_of(acquire)
    assert end_of(acquire) <= end_of(server)
    assert start_of(acquire) <= start_of(connect) < end_of(connect) <= end_of(acquire)
    assert lasted(connect) >= 0.1
    assert lasted(acquire) == pytest.approx(wait, abs=1e-6)
    assert age == pytest.approx((end_of(acquire) - end_of(connect)) / 1e9, abs=2e-6)
    for seconds in (wait, age):
        assert seconds == round(seconds, 6), "somebody reads it"
    for span in (acquire, connect):
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.version == __version__


def test_an_acquire_that_waited_for_a_return(dsn: str, exported: InMemorySpanExporter) -> None:
    """It has no connect, and its connection is older than the acquire."""
    guard = opened(dsn, **ONE)
    with lent_until_waited_for(guard), serving() as server, guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    assert named(exported, "pool.connect") == []
    said = attributes_of(acquire)
    assert said["poolguard.acquire.outcome"] == "waited"
    assert said["poolguard.connection.age"] > said["poolguard.acquire.wait_time"] > 0
    assert acquire.status.status_code is StatusCode.UNSET
    assert tags(server)["waited_count"] == 1


def test_the_connect_may_have_begun_before_the_acquire(
    slow_dsn: str, exported: InMemorySpanExporter
) -> None:
    """As where the first request meets the warm-up: its times are those at which it really was."""
    guard = Guard(slow_dsn, **ONE)
    began = time.time_ns()
    guard.open()
    until(lambda: guard.status()["opening"])
    with serving(), guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    [connect] = named(exported, "pool.connect")
    assert_child(connect, acquire)
    assert began <= start_of(connect) < start_of(acquire)
    assert end_of(connect) <= end_of(acquire)


# -- acquires that were not --------------------------------------------------------------------


def place_in(dsn: str) -> dict[str, object]:
    """What a span says of where *dsn* leads."""
    known = conninfo_to_dict(dsn)
    return {
        "server.address": known["host"],
        "server.port": int(str(known["port"])),
        "db.namespace": known["dbname"],
    }


def assert_failed(
    exported: InMemorySpanExporter, server: ReadableSpan, outcome: str, dsn: str
) -> None:
    [acquire] = named(exported, "pool.acquire")
    assert_child(acquire, server)
    said = attributes_of(acquire)
    assert said.pop("poolguard.acquire.wait_time") >= 0
    assert said == {
        "db.client.connection.pool.name": "default",
        "poolguard.acquire.outcome": outcome,
        "error.type": outcome,
        **place_in(dsn),
    }
    assert acquire.status.status_code is StatusCode.ERROR
    assert tags(server)["outcome"] == outcome
    assert tags(server)["acquire_count"] == 1


def test_an_acquire_that_timed_out(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **ONE)
    with lent(guard), serving() as server, pytest.raises(PoolTimeout):
        guard.connection(timeout=0.05).__enter__()
    assert_failed(exported, server, "timeout", dsn)
    [acquire] = named(exported, "pool.acquire")
    assert lasted(acquire) >= 0.05


def test_an_acquire_that_was_rejected(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **ONE, max_waiting=1)
    with lent(guard):
        queued = threading.Thread(target=use, args=(guard,))
        queued.start()
        until(lambda: guard.status()["waiting"])
        with serving() as server, pytest.raises(TooManyRequests):
            guard.connection().__enter__()
    queued.join(10)
    assert_failed(exported, server, "rejected", dsn)


def test_an_acquire_of_a_closed_pool(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **ONE)
    guard.close()
    with serving() as server, pytest.raises(PoolClosed):
        guard.connection().__enter__()
    assert_failed(exported, server, "error", dsn)


@pytest.mark.parametrize("answers", [False, True])
def test_an_acquire_where_nobody_has_ever_connected(
    exported: InMemorySpanExporter, *, answers: bool
) -> None:
    """What the conninfo says, or a callable has answered: the first of several hosts."""
    dsn = "postgresql://me:secret@127.0.0.1:1,127.0.0.2:2/shop"
    guard = Guard((lambda: dsn) if answers else dsn, mode="sync", **ONE)
    guard.open()
    until(lambda: guard.status()["last_error"])
    with serving() as server, pytest.raises(PoolTimeout):
        guard.connection(timeout=0.05).__enter__()
    guard.close()
    assert_failed(exported, server, "timeout", "host=127.0.0.1 port=1 dbname=shop")


# -- several in one request --------------------------------------------------------------------


def test_several_acquires_of_one_request(dsn: str, exported: InMemorySpanExporter) -> None:
    """The worst outcome, each count, and the sum of what the spans say of waiting."""
    guard = opened(dsn, **TWO)
    with serving() as server:
        with guard.connection(), guard.connection(), pytest.raises(PoolTimeout):
            guard.connection(timeout=0.01).__enter__()
        with guard.connection():
            pass
    acquires = [attributes_of(span) for span in named(exported, "pool.acquire")]
    outcomes = [said["poolguard.acquire.outcome"] for said in acquires]
    assert outcomes == ["created", "timeout"]
    said = tags(server)
    assert said.pop("wait_time") == pytest.approx(
        sum(said["poolguard.acquire.wait_time"] for said in acquires),
        abs=1e-5,
    )
    assert said == {"outcome": "timeout", "acquire_count": 4, "created_count": 1}


def test_tasks_of_one_request_share_its_record(
    slow_dsn: str, exported: InMemorySpanExporter
) -> None:
    """An async pool: three at once with one connection there, so two are created in parallel."""

    async def use_together(guard: Guard, all_in: asyncio.Event, waiting: list[int]) -> None:
        async with guard.aconnection():
            waiting.append(1)
            if len(waiting) == 3:
                all_in.set()
            await all_in.wait()

    async def run() -> Span:
        async with Guard(slow_dsn, budget=3, floor=1) as guard:
            with serving() as server:
                all_in, waiting = asyncio.Event(), list[int]()
                await asyncio.gather(*(use_together(guard, all_in, waiting) for _ in range(3)))
            return server

    server = asyncio.run(run())
    assert tags(server)["acquire_count"] == 3
    assert tags(server)["created_count"] == 2
    for name in ("pool.acquire", "pool.connect"):
        found = named(exported, name)
        assert len(found) == 2
        for span in found:
            assert span.context.trace_id == server.context.trace_id
            assert start_of(server) <= start_of(span) <= end_of(span) <= end_of(server)


# -- which acquires get one --------------------------------------------------------------------


def test_all_of_them(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **ONE, spans="all")
    with serving(), guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    assert attributes_of(acquire)["poolguard.acquire.outcome"] == "acquired"
    assert named(exported, "pool.connect") == []


def test_none_of_them(dsn: str, exported: InMemorySpanExporter) -> None:
    """The request's tags are written all the same."""
    guard = opened(dsn, **TWO, spans="off")
    with lent(guard), serving() as server, guard.connection():
        pass
    assert len(exported.get_finished_spans()) == 1
    assert tags(server)["created_count"] == 1


# -- when it was -------------------------------------------------------------------------------


def preempted_clock() -> float:
    """The pool's clock, where after each reading another thread runs for a while."""
    now = clock.now()
    time.sleep(0.02)
    return now


class Preempted:
    """The clock of the spans, likewise."""

    @staticmethod
    def time_ns() -> int:
        now = time.time_ns()
        time.sleep(0.02)
        return now


def test_its_time_is_within_the_requests_whenever_threads_switch(
    dsn: str, monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter
) -> None:
    """The pool's times are of another clock: what passes between reading both must not matter."""
    guard = opened(dsn, **TWO)
    monkeypatch.setattr(spans_module, "time", Preempted)
    monkeypatch.setattr(spans_module, "clock", preempted_clock)
    with lent(guard), serving() as server, guard.connection():
        pass
    for span in (*named(exported, "pool.acquire"), *named(exported, "pool.connect")):
        assert start_of(server) <= start_of(span) <= end_of(span) <= end_of(server)


def test_repr_tells_which() -> None:
    assert repr(SpanListener("all")) == "SpanListener('all')"
