"""Exemplars lead from the histograms to the traces of the requests that were timed.

The real SDK makes them, with the filter that it has by default.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as TheirsForASGI
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as TheirsForWSGI
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from poolguard import Guard, asgi, wsgi
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry import durations
from poolguard.telemetry.names import CREATE_TIME, USE_TIME, WAIT_TIME
from poolguard.telemetry.request import Request

from .collected import Read, ours
from .instrumented.client import Receive, Scope, Send, asgi_get, wsgi_get
from .support import lent, named, server_span, use

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"
STACKS = ("ours alone", "theirs outside", "theirs inside")

_names = count(1)


@pytest.fixture
def name(read: Read) -> str:
    durations.look(wait=10)
    return f"exemplars-{next(_names)}"


def made(dsn: str, name: str, mode: str = "sync") -> Guard:
    return Guard(dsn, name=name, mode=mode, budget=2, floor=1, metrics="all")


def stacked(stack: str, theirs: Callable[..., Any], ours: Callable[[Any], Any], app: Any) -> Any:
    """In *stack*, where theirs adds no metrics to those that other tests read."""
    silent = NoOpMeterProvider()
    if stack == "theirs outside":
        return theirs(ours(app), meter_provider=silent)
    return ours(theirs(app, meter_provider=silent) if stack == "theirs inside" else app)


def wsgi_app(stack: str, guard: Guard) -> WSGIApplication:
    """An application each of whose requests acquires once."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(guard)
        start_response("200 OK", [])
        return []

    built: WSGIApplication = stacked(stack, TheirsForWSGI, wsgi.PoolGuardMiddleware, app)
    return built


def asgi_app(stack: str, guard: Guard) -> Any:
    """As :func:`wsgi_app`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with guard.aconnection():
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return stacked(stack, TheirsForASGI, asgi.PoolGuardMiddleware, app)


def serve_by_threads(dsn: str, name: str, stack: str, traceparent: str) -> None:
    """One request that waits for a connection to be created."""
    with made(dsn, name) as guard:
        assert guard.open(10)
        with lent(guard):
            app = wsgi_app(stack, guard)
            assert wsgi_get(app, HTTP_TRACEPARENT=traceparent) == "200 OK"


def serve_on_a_loop(dsn: str, name: str, stack: str, traceparent: str) -> None:
    """As :func:`serve_by_threads`."""

    async def run() -> None:
        async with made(dsn, name, "async") as guard:
            assert await guard.aopen(10)
            async with guard.aconnection():
                assert await asgi_get(asgi_app(stack, guard), traceparent=traceparent) == 200

    asyncio.run(run())


Serve = Callable[[str, str], None]


@pytest.fixture(params=[serve_by_threads, serve_on_a_loop])
def serve(request: pytest.FixtureRequest, dsn: str, name: str) -> Serve:
    """Has one request wait, in a stack and with a ``traceparent``."""
    return partial(request.param, dsn, name)


def server_of(exported: InMemorySpanExporter) -> ReadableSpan:
    [server] = [span for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]
    return server


def traces(histogram: HistogramDataPoint) -> list[tuple[int | None, int | None]]:
    """Where its exemplars lead: trace and span."""
    return [(each.trace_id, each.span_id) for each in histogram.exemplars]


@pytest.mark.parametrize("stack", STACKS)
def test_a_wait_and_a_use_lead_to_their_requests_trace(
    serve: Serve,
    stack: str,
    name: str,
    read: Read,
    exported: InMemorySpanExporter,
) -> None:
    """To the span below which the acquire is, also where poolguard begins it, at the very end."""
    serve(stack, SAMPLED)
    server = server_of(exported)
    [acquire] = named(exported, "pool.acquire")
    assert acquire.parent is not None
    to_request = (server.context.trace_id, acquire.parent.span_id)
    found = read(name)
    assert traces(found.histogram(WAIT_TIME)) == [to_request]
    assert found.histogram(USE_TIME).count == 2
    assert traces(found.histogram(USE_TIME)) == [to_request], "the other one was no request's"


@pytest.mark.parametrize("stack", STACKS)
def test_a_request_that_is_not_sampled_has_none(
    serve: Serve,
    stack: str,
    name: str,
    read: Read,
    exported: InMemorySpanExporter,
) -> None:
    """There is no trace to lead to. Its wait is told all the same."""
    serve(stack, UNSAMPLED)
    assert exported.get_finished_spans() == ()
    found = read(name)
    assert (found.histogram(WAIT_TIME).count, found.histogram(USE_TIME).count) == (1, 2)
    assert traces(found.histogram(WAIT_TIME)) == traces(found.histogram(USE_TIME)) == []


def test_a_request_that_is_to_have_no_span_has_none(
    serve: Serve,
    name: str,
    read: Read,
    exported: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "/")
    serve("ours alone", SAMPLED)
    assert exported.get_finished_spans() == ()
    found = read(name)
    assert found.histogram(WAIT_TIME).count == 1
    assert traces(found.histogram(WAIT_TIME)) == []


@pytest.mark.parametrize("is_over", [False, True])
def test_what_comes_after_the_span_leads_to_it(
    is_over: bool, dsn: str, name: str, read: Read, exported: InMemorySpanExporter
) -> None:
    """As in a streamed body, and in a task that a request has left behind."""
    with made(dsn, name) as guard:
        assert guard.open(10)
        with server_span() as span:
            request = Request("GET", "/", {})
        if is_over:
            request.end(200)
        with lent(guard):
            token = CURRENT.set(request)
            use(guard)
            CURRENT.reset(token)
    [exemplar] = traces(read(name).histogram(WAIT_TIME))
    assert exemplar == (span.context.trace_id, span.context.span_id)


def test_a_connect_belongs_to_no_request(
    serve: Serve,
    name: str,
    read: Read,
    exported: InMemorySpanExporter,
) -> None:
    """Not to the one that has set it off either: whoever is first in the queue may get it."""
    serve("theirs outside", SAMPLED)
    assert named(exported, "pool.connect")
    found = read(name).histogram(CREATE_TIME)
    assert (found.count, traces(found)) == (2, [])


def test_a_long_request_is_told_of_while_it_lasts(
    dsn: str,
    name: str,
    read: Read,
    exported: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A websocket may last for hours, and its span may begin at its end. It is told of once."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with lent(guard):
            use(guard)
            assert WAIT_TIME not in read(name).points, "it waits for the request's span"
            durations.look()
            assert WAIT_TIME not in read(name).points, "it has not waited for long"
            monkeypatch.setattr(durations, "OVERDUE", 0.0)
            durations.look()
            assert read(name).histogram(WAIT_TIME).count == 1
        start_response("200 OK", [])
        return []

    with made(dsn, name) as guard:
        assert guard.open(10)
        assert wsgi_get(wsgi.PoolGuardMiddleware(app)) == "200 OK"
    assert server_of(exported)
    found = read(name).histogram(WAIT_TIME)
    assert (found.count, traces(found)) == (1, [])


@pytest.mark.usefixtures("exported")
def test_what_is_read_belongs_to_no_trace(
    dsn: str, name: str, reader: InMemoryMetricReader
) -> None:
    """Not to the span in which somebody collects, as one that is scraped through itself does."""
    with made(dsn, name) as guard:
        assert guard.open(10)
        use(guard)
        with server_span():
            points = [point for metric in ours(reader) for point in metric.data.data_points]
    assert len(points) > 10
    assert [point.exemplars for point in points if point.exemplars] == []
