"""The record of a request: what it counts, which span it tags, and the span it begins itself."""

from __future__ import annotations

import gc
import io
import threading
import time
from collections.abc import Mapping

import pytest
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from poolguard.pool.acquirer import CURRENT
from poolguard.pool.events import (
    AcquireEnded,
    Connected,
    Outcome,
    Place,
)
from poolguard.telemetry import request as request_module
from poolguard.telemetry.request import Reader, Request
from poolguard.util import clock
from poolguard.util.rarely import Failures

from .support import server_span, tags, tracer

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}


def acquire(outcome: Outcome = "acquired", wait: float = 0.0) -> AcquireEnded:
    """An acquire that has just ended, after *wait* seconds."""
    now = clock.now()
    place, connected = Place("db", 5432, "shop"), None
    if outcome in ("acquired", "waited", "created"):
        connected = Connected("main", "growth", now - wait, now, place)
    return AcquireEnded("main", outcome, now - wait, now, connected, place)


def request(headers: dict[str, str] | None = None) -> Request:
    return Request("GET", "/orders", headers or {})


# -- what it counts ----------------------------------------------------------------------------


def test_a_request_that_acquires_nothing_gets_nothing(exported: InMemorySpanExporter) -> None:
    with server_span():
        request().end(200)
    request().end(200)
    [span] = exported.get_finished_spans()
    assert tags(span) == {}


def test_an_immediate_acquire(exported: InMemorySpanExporter) -> None:
    """Nothing is said of waiting where nothing waited."""
    with server_span() as span:
        request().note(acquire(wait=0.001))
        assert tags(span) == {"outcome": "acquired", "acquire_count": 1, "wait_time": 0.0}


def test_each_acquire_is_written_through_at_once(exported: InMemorySpanExporter) -> None:
    """The span may end before the application returns, so what it says is always up to date."""
    with server_span() as span:
        record = request()
        record.note(acquire("waited", 0.25))
        expected = {"outcome": "waited", "acquire_count": 1, "wait_time": 0.25, "waited_count": 1}
        assert tags(span) == pytest.approx(expected)
        record.note(acquire("created", 0.5))
        expected |= {"outcome": "created", "acquire_count": 2, "wait_time": 0.75}
        assert tags(span) == pytest.approx(expected | {"created_count": 1})
        record.note(acquire())
        assert tags(span) == pytest.approx(expected | {"created_count": 1, "acquire_count": 3})


def test_the_wait_is_told_to_the_microsecond(exported: InMemorySpanExporter) -> None:
    with server_span() as span:
        request().note(acquire("waited", 1 / 3))
        assert tags(span)["wait_time"] == 0.333333


@pytest.mark.parametrize("failure", ["timeout", "rejected", "error"])
def test_a_failed_acquire_counts_and_is_the_worst(
    failure: Outcome, exported: InMemorySpanExporter
) -> None:
    with server_span() as span:
        record = request()
        record.note(acquire(failure, 0.5))
        record.note(acquire("created", 0.25))
        expected = {"outcome": failure, "acquire_count": 2, "wait_time": 0.75, "created_count": 1}
        assert tags(span) == pytest.approx(expected)


class Held(NonRecordingSpan):
    """A span whose first writer is held up until told to go on."""

    def __init__(self) -> None:
        super().__init__(SpanContext(TRACE, PARENT, is_remote=False))
        self.writing, self.go_on = threading.Event(), threading.Event()

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self.writing.set()
        assert self.go_on.wait(10)


def test_threads_of_one_request_count_one_after_the_other() -> None:
    """So that what is written last is the sum."""
    held = Held()
    with trace.use_span(held):
        record = request()
    first = threading.Thread(target=record.note, args=[acquire("waited", 0.25)])
    first.start()
    assert held.writing.wait(10)
    second = threading.Thread(target=record.note, args=[acquire("waited", 0.25)])
    second.start()
    second.join(0.1)
    assert record.acquires == 1
    held.go_on.set()
    first.join(10)
    second.join(10)
    assert (record.acquires, record.waited) == (2, 2)
    assert record.wait_time == pytest.approx(0.5)


# -- which span it tags ------------------------------------------------------------------------


def test_the_span_at_the_entry_has_the_tags(exported: InMemorySpanExporter) -> None:
    """Not one that the application has begun meanwhile."""
    with server_span() as span:
        record = request()
        assert record.span is not None
        with tracer.start_as_current_span("inner") as inner:
            assert record.note(acquire()) is span
            assert isinstance(inner, Span)
            assert tags(inner) == {}
    assert tags(span)["acquire_count"] == 1


def test_else_the_span_at_the_first_acquire(exported: InMemorySpanExporter) -> None:
    """As where the framework's instrumentation begins it further in than the middleware is."""
    record = request()
    assert record.span is None
    with server_span() as span:
        record.note(acquire())
        with tracer.start_as_current_span("inner"):
            record.note(acquire())
    record.end(200)
    assert tags(span)["acquire_count"] == 2
    assert len(exported.get_finished_spans()) == 2


def test_else_the_first_server_span_that_begins(exported: InMemorySpanExporter) -> None:
    """Neither a span that is current at the acquire, nor a server span that begins later."""
    record = request()
    token = CURRENT.set(record)
    with tracer.start_as_current_span("outer"), server_span() as span:
        assert record.span is not None
        with tracer.start_as_current_span("inner"), server_span() as second:
            assert record.note(acquire()) is span
    CURRENT.reset(token)
    record.end(200)
    assert tags(span)["acquire_count"] == 1
    assert tags(second) == {}
    assert len(exported.get_finished_spans()) == 4


def test_a_server_span_that_begins_after_the_first_acquire(exported: InMemorySpanExporter) -> None:
    """As where a hook of the framework's runs before its instrumentation's: nothing is lost."""
    record = request()
    token = CURRENT.set(record)
    assert record.note(acquire("created", 0.25)) is None
    children: list[object] = []
    record.defer(children.append)
    with server_span() as span:
        assert tags(span)["created_count"] == 1
    CURRENT.reset(token)
    assert children == []
    record.end(200)
    assert children == [span]
    [exported_span] = exported.get_finished_spans()
    assert exported_span.context is span.context


def test_a_span_at_a_later_acquire_is_not_the_requests(exported: InMemorySpanExporter) -> None:
    """Only of the first: that one has shown that nobody has instrumented the request."""
    record = request()
    record.note(acquire())
    with tracer.start_as_current_span("inner"):
        record.note(acquire())
    record.end(200)
    inner, own = exported.get_finished_spans()
    assert tags(inner) == {}
    assert tags(own)["acquire_count"] == 2


def test_a_span_that_cannot_begin_harms_nobody(
    exported: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server says things that no server says; the response has been sent."""

    def describe(_: object) -> dict[str, AttributeValue]:
        raise LookupError

    monkeypatch.setattr(request_module, "failures", Failures())  # those are logged ever more rarely
    record = Request("GET", "/orders", {}, Reader(dict, describe))
    record.note(acquire())
    record.end(200)
    assert exported.get_finished_spans() == ()
    [said] = caplog.records
    assert said.getMessage().startswith("a request's span could not be completed")


def test_what_waits_for_the_span_is_bounded(exported: InMemorySpanExporter) -> None:
    record = request()
    record.note(acquire())
    children: list[object] = []
    for _ in range(200):
        record.defer(children.append)
    record.end(200)
    assert len(children) == 100
    assert {id(each) for each in children} == {id(children[0])}


def test_a_span_that_has_ended_is_not_the_requests(exported: InMemorySpanExporter) -> None:
    """asyncio may run a request in what is left of the context of the one before it."""
    with server_span() as before:
        pass
    with trace.use_span(before):
        record = request()
        assert record.span is None
        with server_span() as span:
            record.note(acquire())
    assert tags(span)["acquire_count"] == 1


def test_no_span_outlives_its_request(exported: InMemorySpanExporter) -> None:
    """A task that is left behind has the record in its context, maybe for days."""
    record = Request("GET", "/", headers := {"a": "b"}, source=(source := io.BytesIO()))
    token = CURRENT.set(record)
    with server_span() as span:
        record.note(acquire())
    CURRENT.reset(token)
    record.end(200)
    with server_span() as job:
        record.began(job)
        record.note(acquire())
    assert tags(job) == {}
    kept = gc.get_referents(record)
    assert not [each for each in kept if each in (source, headers) or isinstance(each, Span)]
    [left] = [each for each in kept if isinstance(each, NonRecordingSpan)]
    assert left.get_span_context() is span.get_span_context()


def test_what_begins_after_the_request_is_not_its(exported: InMemorySpanExporter) -> None:
    """As the jobs of a task that it has left behind."""
    record = request()
    record.end(200)
    with server_span() as job:
        record.began(job)
        record.note(acquire())
    assert tags(job) == {}
    assert record.span is None


def test_a_span_that_is_not_sampled_is_a_span(exported: InMemorySpanExporter) -> None:
    """Nothing is recorded of such a request, neither on it nor beside it."""
    unsampled = NonRecordingSpan(SpanContext(TRACE, PARENT, is_remote=False))
    with trace.use_span(unsampled):
        record = request(TRACEPARENT)
        assert record.span is not None
        assert record.note(acquire("created", 0.1)) is unsampled
        record.end(200)
    assert exported.get_finished_spans() == ()


def test_one_that_is_not_sampled_is_remembered(exported: InMemorySpanExporter) -> None:
    """It is current when the response begins, and gone when a body that is iterated acquires."""
    record = request()
    with trace.use_span(NonRecordingSpan(SpanContext(TRACE, PARENT, is_remote=False))):
        record.note_unsampled()
    record.note(acquire("created", 0.1))
    record.end(200)
    assert exported.get_finished_spans() == ()


def test_one_that_records_is_not_bound_by_looking(exported: InMemorySpanExporter) -> None:
    """Were the response begun within a span of the application's own, that one would be over."""
    record = request()
    with tracer.start_as_current_span("inner"):
        record.note_unsampled()
        assert record.span is None


def test_a_span_that_has_ended_is_left_alone(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK would warn of each attribute."""
    with server_span():
        record = request()
    record.note(acquire("created", 0.1))
    record.end(200)
    [span] = exported.get_finished_spans()
    assert tags(span) == {}
    assert caplog.records == []


# -- the span it begins itself -----------------------------------------------------------------


def test_its_own_span_begins_with_the_request(exported: InMemorySpanExporter) -> None:
    before = time.time_ns()
    record = request()
    entered = time.time_ns()
    record.note(acquire("waited", 0.1))
    assert exported.get_finished_spans() == ()
    record.end(204)
    [span] = exported.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("GET", SpanKind.SERVER, None)
    assert span.start_time is not None
    assert span.end_time is not None
    assert before <= span.start_time <= entered <= span.end_time <= time.time_ns()
    assert (span.attributes or {}).items() >= {
        ("http.request.method", "GET"),
        ("url.path", "/orders"),
        ("http.response.status_code", 204),
    }
    assert tags(span)["outcome"] == "waited"
    assert span.status.status_code is StatusCode.UNSET


def test_its_own_span_continues_the_trace(exported: InMemorySpanExporter) -> None:
    record = request(TRACEPARENT)
    record.note(acquire())
    record.end(200)
    [span] = exported.get_finished_spans()
    assert span.context.trace_id == TRACE
    assert span.parent is not None
    assert (span.parent.span_id, span.parent.is_remote) == (PARENT, True)


@pytest.mark.parametrize("headers", [{}, TRACEPARENT])
def test_a_trace_that_was_only_announced_is_no_span(
    headers: dict[str, str], exported: InMemorySpanExporter
) -> None:
    """Somebody has extracted the header and begun nothing: there is nothing to tag but our own."""
    token = context.attach(propagate.extract(TRACEPARENT))
    try:
        record = request(headers)
        assert record.span is None
        record.note(acquire())
        record.end(200)
    finally:
        context.detach(token)
    [span] = exported.get_finished_spans()
    assert span.context.trace_id == TRACE
    assert tags(span)["acquire_count"] == 1


def test_a_trace_that_the_caller_does_not_sample_is_not_sampled(
    exported: InMemorySpanExporter,
) -> None:
    unsampled = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-{TraceFlags.DEFAULT:02x}"}
    record = request(unsampled)
    record.note(acquire("created", 0.1))
    record.end(200)
    assert exported.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (500, None, "500"),
        (503, None, "503"),
        (None, LookupError("no"), "LookupError"),
        (200, LookupError("no"), "LookupError"),
    ],
)
def test_its_own_span_says_that_the_request_failed(
    status: int | None,
    error: BaseException | None,
    reason: str,
    exported: InMemorySpanExporter,
) -> None:
    record = request()
    record.note(acquire())
    record.end(status, error)
    [span] = exported.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == reason


def test_its_own_span_ends_once(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    record = request()
    record.note(acquire())
    record.end(200)
    record.end(500, RuntimeError("too late"))
    [span] = exported.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET
    assert caplog.records == []


def test_it_does_not_end_a_span_that_is_not_its_own(exported: InMemorySpanExporter) -> None:
    with server_span() as span:
        record = request()
        record.note(acquire())
        record.end(500)
        assert span.is_recording()


def test_after_the_end_it_begins_no_span(exported: InMemorySpanExporter) -> None:
    """A task that outlives its request may acquire: nobody would end a span begun then."""
    record = request()
    record.end(200)
    assert record.note(acquire("created", 0.1)) is None
    assert record.acquires == 1


def test_repr_tells_what_it_has_counted() -> None:
    record = request()
    assert repr(record) == (
        "<Request GET /orders acquired acquires=0 waited=0 created=0 wait_time=0.000000>"
    )
