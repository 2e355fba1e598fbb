"""Whose child an acquire's span is, and that what the pool does of itself is nobody's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from poolguard import Guard
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry.request import Request
from poolguard.telemetry.spans import SpanListener

from .support import (
    TWO,
    assert_child,
    end_of,
    lent,
    lent_by_another_thread,
    named,
    opened,
    server_span,
    serving,
    start_of,
    tags,
    tracer,
)
from .test_request import acquire

# -- whose child it is -------------------------------------------------------------------------


def test_its_parent_is_the_span_that_acquires(dsn: str, exported: InMemorySpanExporter) -> None:
    """The tags go to the request's all the same."""
    guard = opened(dsn, **TWO)
    inner = tracer.start_span("load")
    with lent(guard), serving() as server, trace.use_span(inner, True), guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    assert isinstance(inner, Span)
    assert_child(acquire, inner)
    assert tags(server)["created_count"] == 1


def test_a_vendors_span_is_a_parent_whatever_it_equals(exported: InMemorySpanExporter) -> None:
    class Vendors(NonRecordingSpan):
        def __bool__(self) -> bool:
            return False

    span = Vendors(SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        SpanListener("all").acquire_ended(acquire())
    [found] = named(exported, "pool.acquire")
    assert found.parent is not None
    assert (found.context.trace_id, found.parent.span_id) == (7, 8)


def test_outside_of_any_request(dsn: str, exported: InMemorySpanExporter) -> None:
    """As in a script or a queue's worker: a child of what is current, and no tags."""
    guard = opened(dsn, **TWO)
    with lent(guard), tracer.start_as_current_span("job") as job, guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    assert isinstance(job, Span)
    assert_child(acquire, job)
    assert tags(job) == {}


def test_outside_of_any_span(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **TWO)
    with lent(guard), guard.connection():
        pass
    assert exported.get_finished_spans() == ()


def test_under_a_span_that_is_not_sampled(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **TWO)
    unsampled = NonRecordingSpan(SpanContext(1, 1, is_remote=False))
    with lent(guard), serving(), trace.use_span(unsampled), guard.connection():
        pass
    assert named(exported, "pool.acquire") == []


def test_under_a_span_that_has_ended(dsn: str, exported: InMemorySpanExporter) -> None:
    """As in a background task: it is where it belongs, though its parent cannot tell of it."""
    guard = opened(dsn, **TWO)
    with serving() as server:
        pass
    with lent(guard), trace.use_span(server), guard.connection():
        pass
    [acquire] = named(exported, "pool.acquire")
    assert_child(acquire, server)
    assert end_of(server) <= start_of(acquire)
    assert tags(server) == {}


def test_in_a_task_that_outlives_its_request(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **TWO)
    request = Request("GET", "/", {})
    token = CURRENT.set(request)
    with guard.connection():
        pass
    request.end(200)
    with lent_by_another_thread(guard), guard.connection():
        pass
    CURRENT.reset(token)
    [server] = named(exported, "GET")
    [acquire] = named(exported, "pool.acquire")
    assert_child(acquire, server)
    assert tags(server)["acquire_count"] == 1


def test_before_the_requests_span_begins(dsn: str, exported: InMemorySpanExporter) -> None:
    guard = opened(dsn, **TWO)
    request = Request("GET", "/", {})
    token = CURRENT.set(request)
    with lent_by_another_thread(guard), guard.connection():
        pass
    with server_span() as server:
        request.end(200)
    CURRENT.reset(token)
    [acquire] = named(exported, "pool.acquire")
    assert_child(acquire, server)
    assert end_of(acquire) <= start_of(server)
    assert tags(server)["created_count"] == 1


def test_a_requests_own_span_is_its_parent(dsn: str, exported: InMemorySpanExporter) -> None:
    """Where nothing is instrumented; the acquire that begins it lies within it."""
    guard = opened(dsn, **TWO)
    request = Request("GET", "/", {})
    token = CURRENT.set(request)
    with lent_by_another_thread(guard), guard.connection():
        request.end(200)
    CURRENT.reset(token)
    [server] = named(exported, "GET")
    [acquire] = named(exported, "pool.acquire")
    assert_child(acquire, server)
    assert start_of(server) <= start_of(acquire) < end_of(acquire) <= end_of(server)


# -- what the pool does of itself --------------------------------------------------------------


@pytest.fixture
def threads_carry_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with OpenTelemetry's threading instrumentation, or a free-threaded Python."""
    start = threading.Thread.start

    def start_in_this_context(thread: threading.Thread) -> None:
        context, run = copy_context(), thread.run
        thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_in_this_context)


def watching(dsn: str, seen: list[object]) -> Callable[[], str]:
    """A conninfo that notes, at each connect, which span and request it belongs to."""

    def conninfo() -> str:
        seen.append((trace.get_current_span().get_span_context().is_valid, CURRENT.get()))
        return dsn

    return conninfo


def test_connects_are_no_part_of_the_request_that_opens(
    dsn: str, threads_carry_context: None, exported: InMemorySpanExporter
) -> None:
    """Where no hook has opened the pool, the first request does; what others cause is not its."""
    seen: list[object] = []
    with serving() as server:
        guard = Guard(watching(dsn, seen), budget=4, floor=2)
        assert guard.open(wait=10)
    assert seen == [(False, None)] * 2
    assert tags(server) == {}
    assert len(exported.get_finished_spans()) == 1


def test_connects_are_no_part_of_the_request_that_waits_for_them(
    dsn: str, threads_carry_context: None, exported: InMemorySpanExporter
) -> None:
    """Its trace has them as what they were for it: pool.connect, after the fact."""
    seen: list[object] = []
    guard = Guard(watching(dsn, seen), budget=2, floor=1)
    assert guard.open(wait=10)
    with lent(guard), serving(), guard.connection():
        pass
    assert len(named(exported, "pool.connect")) == 1
    assert seen == [(False, None)] * 2


def test_connects_are_no_part_of_the_request_that_waits_for_them_in_an_async_pool(
    dsn: str, exported: InMemorySpanExporter
) -> None:
    seen: list[object] = []

    async def run() -> None:
        guard = Guard(watching(dsn, seen), budget=2, floor=1)
        assert await guard.aopen(wait=10)
        async with guard.aconnection():
            with serving():
                async with guard.aconnection():
                    pass
        await guard.aclose()

    asyncio.run(run())
    assert len(named(exported, "pool.connect")) == 1
    assert seen == [(False, None)] * 2


def test_connects_are_no_part_of_the_request_that_opens_an_async_pool(
    dsn: str, exported: InMemorySpanExporter
) -> None:
    seen: list[object] = []

    async def run() -> None:
        guard = Guard(watching(dsn, seen), budget=4, floor=2)
        with serving():
            assert await guard.aopen(wait=10)
        await guard.aclose()

    asyncio.run(run())
    assert seen == [(False, None)] * 2
    assert len(exported.get_finished_spans()) == 1
