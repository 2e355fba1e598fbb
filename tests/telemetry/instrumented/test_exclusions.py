"""A request that an instrumentation leaves out has no server span, from nobody; any other has one.

Each way to leave it out, with ours further out and further in. Flask's and Django's stand in their
own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation import starlette as contrib_starlette
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.http import parse_excluded_urls
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware

from .client import ASGIApp, Receive, Scope, Send, asgi_get
from .conftest import Serve
from .judging import servers
from .test_starlette import added_after, added_before

HEALTH = "health"
"""The pattern of what is left out."""
Build = Callable[[Guard], ASGIApp]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starlette's instrumentor has read the environment as it was imported; FastAPI's replaces a
    method for the whole process."""
    monkeypatch.setattr(contrib_starlette, "_excluded_urls", parse_excluded_urls(HEALTH))
    yield
    FastAPIInstrumentor.uninstrument_app(FastAPI())


def plain(guard: Guard) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with guard.aconnection():
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def on_starlette(guard: Guard) -> Starlette:
    async def page(request: Request) -> Response:
        async with guard.aconnection():
            return PlainTextResponse("")

    return Starlette(routes=[Route("/page", page), Route("/health", page)])


def on_fastapi(guard: Guard, **telemetry: Any) -> FastAPI:
    given: Any = telemetry
    app = FastAPI(telemetry=given)

    async def page() -> str:
        async with guard.aconnection():
            return ""

    app.get("/page")(page)
    app.get("/health")(page)
    return app


def contrib_outside(guard: Guard) -> ASGIApp:
    return OpenTelemetryMiddleware(PoolGuardMiddleware(plain(guard), guard), HEALTH)


def contrib_inside(guard: Guard) -> ASGIApp:
    return PoolGuardMiddleware(OpenTelemetryMiddleware(plain(guard), HEALTH), guard)


def contrib_in_another_task(guard: Guard) -> ASGIApp:
    """What is set in its context is not seen further out."""
    app = on_starlette(guard)
    app.add_middleware(OpenTelemetryMiddleware, excluded_urls=HEALTH)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    return PoolGuardMiddleware(app, guard)


def contrib_in_a_mount(guard: Guard) -> ASGIApp:
    app = on_starlette(guard)
    app.add_middleware(OpenTelemetryMiddleware, excluded_urls=HEALTH)
    return PoolGuardMiddleware(Starlette(routes=[Mount("/", app)]), guard)


def starlettes_instrumentor(place: Callable[..., Any]) -> Build:
    def build(guard: Guard) -> ASGIApp:
        app: ASGIApp = place(on_starlette(guard), guard)
        return app

    return build


def outermost(app: Starlette, guard: Guard) -> ASGIApp:
    contrib_starlette.StarletteInstrumentor.instrument_app(app)
    return PoolGuardMiddleware(app, guard)


def fastapis_instrumentor(guard: Guard) -> ASGIApp:
    app = on_fastapi(guard)
    FastAPIInstrumentor.instrument_app(app, excluded_urls=HEALTH)
    return PoolGuardMiddleware(app, guard)


def fastapis_instrumentor_outside(guard: Guard) -> ASGIApp:
    app = on_fastapi(guard)
    app.add_middleware(PoolGuardMiddleware, guard=guard)
    FastAPIInstrumentor.instrument_app(app, excluded_urls=HEALTH)
    return app


def is_health(scope: Scope) -> bool:
    return HEALTH in scope["path"]


def fastapi_itself(guard: Guard) -> ASGIApp:
    return PoolGuardMiddleware(on_fastapi(guard, exclude=is_health), guard)


def fastapi_itself_outside(guard: Guard) -> ASGIApp:
    app = on_fastapi(guard, exclude=is_health)
    app.add_middleware(PoolGuardMiddleware, guard=guard)
    return app


def starlette_itself(guard: Guard) -> ASGIApp:
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as Own

    return PoolGuardMiddleware(Own(plain(guard), excluded_urls=HEALTH), guard)


def starlette_itself_outside(guard: Guard) -> ASGIApp:
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as Own

    return Own(PoolGuardMiddleware(plain(guard), guard), excluded_urls=HEALTH)


def suppressed(silence: Callable[[], Any]) -> Build:
    def build(guard: Guard) -> ASGIApp:
        app = OpenTelemetryMiddleware(PoolGuardMiddleware(plain(guard), guard))

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            if is_health(scope):
                with silence():
                    await app(scope, receive, send)
            else:
                await app(scope, receive, send)

        return outer

    return build


def ours_alone(guard: Guard) -> ASGIApp:
    """Then ours is the instrumentation that the environment speaks of."""
    return PoolGuardMiddleware(plain(guard), guard)


BUILDS: dict[str, Build] = {
    "contrib outside": contrib_outside,
    "contrib inside": contrib_inside,
    "contrib in another task": contrib_in_another_task,
    "contrib in a mount": contrib_in_a_mount,
    "Starlette's instrumentor": starlettes_instrumentor(outermost),
    "Starlette's instrumentor, ours before": starlettes_instrumentor(added_before),
    "Starlette's instrumentor, ours after": starlettes_instrumentor(added_after),
    "FastAPI's instrumentor": fastapis_instrumentor,
    "FastAPI's instrumentor outside": fastapis_instrumentor_outside,
    "suppress_instrumentation": suppressed(suppress_instrumentation),
    "suppress_http_instrumentation": suppressed(suppress_http_instrumentation),
    "ours alone": ours_alone,
}
if find_spec("fastapi.telemetry"):
    BUILDS |= {"FastAPI itself": fastapi_itself, "FastAPI outside": fastapi_itself_outside}
if find_spec("starlette.middleware.opentelemetry"):
    BUILDS |= {"Starlette itself": starlette_itself, "Starlette outside": starlette_itself_outside}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_who_is_left_out_has_no_server_span(
    build: Build,
    serve: Serve[object],
    exported: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if build is ours_alone:
        monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "other, health")

    async def run(guard: Guard) -> list[int]:
        app = build(guard)
        found = []
        for path in ("/page", "/health", "/page", "/health"):
            assert await asgi_get(app, path) == 200
            found.append(servers(exported))
        return found

    assert serve(run) == [1, 0, 1, 0]


def test_an_excluded_url_of_a_client_is_not_the_requests(
    serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    """Instrumentations of clients ask the same class, while the request lasts."""

    async def run(guard: Guard) -> int:
        app = plain(guard)

        async def asking(scope: Scope, receive: Receive, send: Send) -> None:
            assert parse_excluded_urls(HEALTH).url_disabled("http://other/health")
            await app(scope, receive, send)

        await asgi_get(PoolGuardMiddleware(asking, guard), "/page")
        return servers(exported)

    assert serve(run) == 1
