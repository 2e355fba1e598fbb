"""Requests, spans and pools in the state that a test needs, and how their spans are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from poolguard import Guard
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry.request import Request

from ..support import until

tracer = trace.get_tracer("tests")

ONE: dict[str, Any] = {"budget": 1, "floor": 1}
TWO: dict[str, Any] = {"budget": 2, "floor": 1}


@contextmanager
def server_span() -> Iterator[Span]:
    """A server span as an instrumentation begins it, current inside."""
    with tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as span:
        assert isinstance(span, Span)
        yield span


@contextmanager
def serving() -> Iterator[Span]:
    """A request, within its server span."""
    with server_span() as span:
        token = CURRENT.set(Request("GET", "/", {}))
        try:
            yield span
        finally:
            CURRENT.reset(token)


@contextmanager
def lent(guard: Guard) -> Iterator[None]:
    """One connection is in use by somebody else."""
    with guard.connection():
        yield


def use(guard: Guard) -> None:
    with guard.connection():
        pass


@contextmanager
def lent_until_waited_for(guard: Guard) -> Iterator[None]:
    """One connection is in use by somebody else, until a queue has formed."""
    taken = threading.Event()

    def hold() -> None:
        with guard.connection():
            taken.set()
            until(lambda: guard.status()["waiting"])

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    yield
    thread.join(10)


def opened(dsn: str, **settings: Any) -> Guard:
    guard = Guard(dsn, **settings)
    assert guard.open(wait=10)
    return guard


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def lasted(span: ReadableSpan) -> float:
    return (end_of(span) - start_of(span)) / 1e9


def start_of(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def end_of(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def assert_child(span: ReadableSpan, parent: ReadableSpan) -> None:
    assert span.parent is not None
    assert span.parent.span_id == parent.context.span_id
    assert span.context.trace_id == parent.context.trace_id


@contextmanager
def lent_by_another_thread(guard: Guard) -> Iterator[None]:
    """As :func:`lent`, where the request of this context must not notice."""
    done, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with guard.connection():
            taken.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    yield
    done.set()
    thread.join(10)


def tags(span: ReadableSpan) -> dict[str, Any]:
    """poolguard's attributes on a span, by the end of their names."""
    prefix = "poolguard.request."
    return {
        key.removeprefix(prefix): value
        for key, value in (span.attributes or {}).items()
        if key.startswith(prefix)
    }
