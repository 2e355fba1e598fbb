"""The WSGI middleware and the request's span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import poolguard
from poolguard.pool.acquirer import CURRENT
from poolguard.wsgi import PoolGuardMiddleware

from .conftest import Spans
from .test_wsgi import (
    OK,
    Server,
    after_a_change_of_mind,
    after_the_headers_are_sent,
    backend,
    environ_of,
    nothing,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@pytest.fixture
def guard(dsn: str) -> Iterator[poolguard.Guard]:
    """A guard that is open and warm."""
    with poolguard.Guard(dsn, mode="sync", budget=3, floor=2) as guard:
        yield guard


def test_a_generator_that_acquires_while_it_is_iterated_has_its_own_span_ended(
    guard: poolguard.Guard, spans: Spans
) -> None:
    """By the time it is closed, and not before."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        yield b"first"
        yield backend(guard)
        assert not spans()
        yield backend(guard)

    Server(PoolGuardMiddleware(app)).get("/stream")
    (span,) = spans()
    assert (span.kind, span.tags["acquire_count"]) == ("SERVER", 2)
    assert span.attributes["url.path"] == "/stream"
    assert span.attributes["http.response.status_code"] == 200
    assert CURRENT.get() is None


def test_an_acquire_in_close_is_recorded_too(guard: poolguard.Guard, spans: Spans) -> None:
    """Frameworks give connections back, and take new ones, when the response is closed."""

    class Closing:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one"])

        def close(self) -> None:
            backend(guard)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        return Closing()

    Server(PoolGuardMiddleware(app)).get()
    (span,) = spans()
    assert span.tags["acquire_count"] == 1


@pytest.mark.parametrize("midway", [False, True], ids=["at once", "midway"])
def test_a_failure_is_in_the_span(midway: bool, guard: poolguard.Guard, spans: Spans) -> None:
    def at_once(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        backend(guard)
        raise ValueError

    def streaming(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        yield backend(guard)
        raise ValueError

    Server(PoolGuardMiddleware(streaming if midway else at_once)).get()
    (span,) = spans()
    assert span.attributes["error.type"] == "ValueError"
    assert span.raw["status"]["status_code"] == "ERROR"


def test_a_client_that_goes_away_is_no_error(guard: poolguard.Guard, spans: Spans) -> None:
    """The server closes the body while an exception of its own is on its way."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        yield backend(guard)

    body: Any = PoolGuardMiddleware(app)(environ_of(), nothing)
    with suppress(BrokenPipeError):
        try:
            next(iter(body))
            raise BrokenPipeError
        finally:
            body.close()
    (span,) = spans()
    assert "error.type" not in span.attributes
    assert span.raw["status"]["status_code"] == "UNSET"


def test_the_status_that_was_sent_is_in_the_span(guard: poolguard.Guard, spans: Spans) -> None:
    """Not one that came too late."""

    def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        backend(guard)
        return after_the_headers_are_sent(environ, start_response)

    def in_time(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        backend(guard)
        return after_a_change_of_mind(environ, start_response)

    for app in (late, in_time):
        Server(PoolGuardMiddleware(app)).get()
    assert [span.attributes["http.response.status_code"] for span in spans()] == [200, 500]


def test_a_span_that_is_current_gets_the_tags(guard: poolguard.Guard, spans: Spans) -> None:
    """Also those of acquires while the body is iterated, when it is current no more."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        yield backend(guard)

    theirs = trace.get_tracer("tests").start_span("theirs")
    with trace.use_span(theirs):
        body: Any = PoolGuardMiddleware(app)(environ_of(), nothing)
    list(body)
    body.close()
    theirs.end()
    (span,) = spans()
    assert (span.name, span.tags["acquire_count"]) == ("theirs", 1)
    assert CURRENT.get() is None


def test_any_propagators_headers_are_found(guard: poolguard.Guard, spans: Spans) -> None:
    """Names are looked up as the propagator spells them."""
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        return [backend(guard)]

    Server(PoolGuardMiddleware(app)).get(HTTP_TRACEPARENT=f"00-{trace_id}-{caller}-01")
    (span,) = spans()
    assert (span.trace, span.parent) == (f"0x{trace_id}", f"0x{caller}")


def test_one_middleware_within_another_records_nothing(
    guard: poolguard.Guard, spans: Spans
) -> None:
    """Two applications under one roof, both wrapped: one request has one span."""

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        return [backend(guard)]

    def outer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = PoolGuardMiddleware(inner)(environ, start_response)
        backend(guard)
        backend(guard)
        return body

    Server(PoolGuardMiddleware(outer)).get()
    assert [span.tags["acquire_count"] for span in spans()] == [3]
    assert CURRENT.get() is None


def test_a_body_that_was_never_closed_does_not_take_the_next_request(
    guard: poolguard.Guard, spans: Spans
) -> None:
    """Its server is to blame, and its thread serves others."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        yield backend(guard)

    body: Any = PoolGuardMiddleware(app)(environ_of(), nothing)
    next(body)
    Server(PoolGuardMiddleware(app)).get()
    assert [span.tags["acquire_count"] for span in spans()] == [1]
    body.close()
    assert len(spans()) == 2
