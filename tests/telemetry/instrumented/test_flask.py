"""Flask's instrumentor, which begins the span in a hook of its own before the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import flask
import pytest
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolguard import Guard
from poolguard.wsgi import PoolGuardMiddleware

from ..support import use
from .client import wsgi_get
from .judging import judge, servers


def instrument(app: flask.Flask) -> None:
    FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]


def around(app: flask.Flask, guard: Guard) -> None:
    """Ours around the instrumented application."""
    instrument(app)
    wrap(app, guard)


def within(app: flask.Flask, guard: Guard) -> None:
    wrap(app, guard)
    instrument(app)


def around_excluding(app: flask.Flask, guard: Guard) -> None:
    FlaskInstrumentor().instrument_app(app, excluded_urls="late")  # type: ignore[no-untyped-call]
    wrap(app, guard)


def within_excluding(app: flask.Flask, guard: Guard) -> None:
    wrap(app, guard)
    FlaskInstrumentor().instrument_app(app, excluded_urls="late")  # type: ignore[no-untyped-call]


def not_instrumented(app: flask.Flask, guard: Guard) -> None:
    wrap(app, guard)


def wrap(app: flask.Flask, guard: Guard) -> None:
    app.wsgi_app = PoolGuardMiddleware(app.wsgi_app, guard)  # type: ignore[method-assign]


Place = Callable[[flask.Flask, Guard], None]
PLACES = [around, within, not_instrumented]


def made(guard: Guard) -> flask.Flask:
    """An application whose pages acquire twice."""
    app = flask.Flask("shop")

    @app.get("/page")
    def page() -> str:
        use(guard)
        use(guard)
        return ""

    @app.get("/stream")
    def stream() -> flask.Response:
        def chunks() -> Iterator[str]:
            for _ in range(2):
                use(guard)
                yield "one"

        return flask.Response(flask.stream_with_context(chunks()))

    @app.get("/late")
    def late() -> flask.Response:
        def chunks() -> Iterator[str]:
            use(guard)
            yield "one"

        use(guard)
        return flask.Response(chunks())

    return app


@pytest.mark.parametrize("path", ["/page", "/stream", "/late"])
@pytest.mark.parametrize("place", PLACES)
def test_the_servers_span_has_the_tags(
    place: Place, path: str, guard: Guard, exported: InMemorySpanExporter
) -> None:
    app = made(guard)
    place(app, guard)
    assert wsgi_get(app, path) == "200 OK"
    # Flask's context ends before a body is iterated, and their span with it: what a body acquires
    # cannot be in its tags. (stream_with_context brings back the context, and not the span.)
    late = {"/page": 0, "/late": 1, "/stream": 2}[path] if place is not not_instrumented else 0
    judge(exported, 2, late=late)


@pytest.mark.parametrize("place", PLACES)
def test_a_hook_that_runs_before_the_instrumentors(
    place: Place, guard: Guard, exported: InMemorySpanExporter
) -> None:
    """It was registered before the application was instrumented."""
    app = made(guard)
    app.before_request(lambda: use(guard))
    place(app, guard)
    assert wsgi_get(app, "/page") == "200 OK"
    judge(exported, 3)  # their span is back-dated to the request's start


@pytest.mark.parametrize("place", PLACES)
def test_a_page_that_fails(place: Place, guard: Guard, exported: InMemorySpanExporter) -> None:
    app = flask.Flask("shop")

    @app.get("/")
    def page() -> str:
        use(guard)
        raise LookupError

    place(app, guard)
    assert wsgi_get(app).startswith("500")
    judge(exported, 1)


def test_instrumented_as_a_whole(guard: Guard, exported: InMemorySpanExporter) -> None:
    """As ``opentelemetry-instrument`` does: the class itself is replaced."""
    FlaskInstrumentor().instrument()
    try:
        app = made(guard)
        wrap(app, guard)
        assert wsgi_get(app, "/page") == "200 OK"
    finally:
        FlaskInstrumentor().uninstrument()
    judge(exported, 2)


@pytest.mark.parametrize("place", [around_excluding, within_excluding])
def test_a_page_that_is_left_out_has_no_server_span(
    place: Place, guard: Guard, exported: InMemorySpanExporter
) -> None:
    app = made(guard)
    place(app, guard)
    for path, count in (("/page", 1), ("/late", 0), ("/page", 1), ("/late", 0)):
        assert wsgi_get(app, path, SCRIPT_NAME="/shop") == "200 OK"
        assert servers(exported) == count
