"""OpenTelemetry's WSGI middleware outside and inside of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolguard import Guard
from poolguard.wsgi import PoolGuardMiddleware

from ..support import tags, use
from .client import wsgi_get
from .judging import acquires, judge, servers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

tracer = trace.get_tracer("tests")

Layer = Callable[["WSGIApplication", Guard], "WSGIApplication"]


def ours(app: WSGIApplication, guard: Guard) -> WSGIApplication:
    return PoolGuardMiddleware(app, guard)


def theirs(app: WSGIApplication, guard: Guard) -> WSGIApplication:
    middleware: WSGIApplication = OpenTelemetryMiddleware(app)
    return middleware


def busy(app: WSGIApplication, guard: Guard) -> WSGIApplication:
    """A middleware with a span of its own around the call."""

    def within(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with tracer.start_as_current_span("middleware"):
            return app(environ, start_response)

    return within


def eager(app: WSGIApplication, guard: Guard) -> WSGIApplication:
    """A middleware that acquires itself."""

    def within(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(guard)
        return app(environ, start_response)

    return within


STACKS: dict[str, Sequence[Layer]] = {
    "theirs outside": [theirs, ours],
    "theirs inside": [ours, theirs],
    "theirs on both sides": [theirs, ours, theirs],
    "ours on both sides": [ours, theirs, ours],
    "something between": [ours, theirs, busy],
    "something between, outside": [theirs, busy, ours],
    "an acquire before theirs": [ours, eager, theirs],
    "an acquire between": [ours, theirs, eager],
    "an acquire between ours": [ours, theirs, eager, ours],
    "ours alone": [ours],
    "ours alone, twice": [ours, ours],
}
"""From the outside to the inside."""


def build(layers: Sequence[Layer], app: WSGIApplication, guard: Guard) -> WSGIApplication:
    for layer in reversed(layers):
        app = layer(app, guard)
    return app


OK: tuple[str, list[tuple[str, str]]] = ("200 OK", [])

Body = Callable[[Guard], Iterable[bytes]]


def at_once(guard: Guard) -> list[bytes]:
    use(guard)
    use(guard)
    return [b"one"]


def by_a_generator(guard: Guard) -> Iterator[bytes]:
    """Nothing of it runs during the call."""
    for _ in range(2):
        use(guard)
        yield b"one"


def and_when_it_is_closed(guard: Guard) -> Iterable[bytes]:
    class Closing:
        def __iter__(self) -> Iterator[bytes]:
            use(guard)
            return iter([b"one"])

        def close(self) -> None:
            use(guard)

    return Closing()


@pytest.mark.parametrize("body", [at_once, by_a_generator, and_when_it_is_closed])
@pytest.mark.parametrize("stack", STACKS)
def test_the_servers_span_has_the_tags(
    stack: str, body: Body, guard: Guard, exported: InMemorySpanExporter
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(*OK)
        return body(guard)

    assert wsgi_get(build(STACKS[stack], app, guard)) == "200 OK"
    layers = STACKS[stack]
    judge(exported, 3 if eager in layers else 2, early=stack.count("before"))


@pytest.mark.parametrize("stack", STACKS)
def test_a_span_of_the_applications_own_is_only_a_parent(
    stack: str, guard: Guard, exported: InMemorySpanExporter
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with tracer.start_as_current_span("load"):
            use(guard)
        start_response(*OK)
        return []

    wsgi_get(build(STACKS[stack], app, guard))
    [load] = [each for each in exported.get_finished_spans() if each.name == "load"]
    parent = acquires(exported)[-1].parent
    assert parent is not None
    assert parent.span_id == load.context.span_id
    if theirs in STACKS[stack]:
        judge(exported, 2 if eager in STACKS[stack] else 1, early=stack.count("before"))
    else:  # it is the only span there is
        assert tags(load)["acquire_count"] == 1


def test_several_guards(dsn: str, guard: Guard, exported: InMemorySpanExporter) -> None:
    """One request, one count; each acquire says which pool it was."""
    with Guard(dsn, mode="sync", name="other", budget=4, floor=1, spans="all") as other:
        assert other.open(10)

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            use(guard)
            use(other)
            start_response(*OK)
            return []

        wsgi_get(build([ours, theirs], PoolGuardMiddleware(app, other), guard))
    judge(exported, 2)
    name = "db.client.connection.pool.name"
    pools: list[Any] = [(each.attributes or {})[name] for each in acquires(exported)]
    assert pools == ["sync", "other"]


@pytest.mark.parametrize("silence", [suppress_instrumentation, suppress_http_instrumentation])
def test_who_is_silenced_has_no_server_span(
    silence: Any, guard: Guard, exported: InMemorySpanExporter
) -> None:
    """From ours; theirs leaves nothing out, and does not heed that."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(guard)
        start_response(*OK)
        return []

    def quiet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with silence():
            return ours(app, guard)(environ, start_response)

    wsgi_get(ours(app, guard))
    assert servers(exported) == 1
    wsgi_get(quiet)
    assert servers(exported) == 0
