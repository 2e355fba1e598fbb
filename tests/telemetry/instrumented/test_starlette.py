"""Starlette and FastAPI with their instrumentors, and all the ways in which they run endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware

from .client import asgi_get, talk
from .conftest import Serve
from .judging import by_whom, judge

App = Starlette | FastAPI
tracer = trace.get_tracer("tests")


def instrument(app: App) -> None:
    if isinstance(app, FastAPI):
        FastAPIInstrumentor.instrument_app(app)
    else:
        StarletteInstrumentor.instrument_app(app)


def outermost(app: App, guard: Guard) -> Any:
    """Ours is wrapped around the instrumented application."""
    instrument(app)
    return PoolGuardMiddleware(app, guard)


def added_before(app: App, guard: Guard) -> Any:
    """Ours is a middleware of the application, which is instrumented thereafter."""
    app.add_middleware(PoolGuardMiddleware, guard=guard)
    instrument(app)
    return app


def added_after(app: App, guard: Guard) -> Any:
    instrument(app)
    app.add_middleware(PoolGuardMiddleware, guard=guard)
    return app


def with_another_between(app: App, guard: Guard) -> Any:
    """One that begins a span, and runs the application in a task of its own."""

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        with tracer.start_as_current_span("middleware"):
            return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    instrument(app)
    return PoolGuardMiddleware(app, guard)


def mounted(app: App, guard: Guard) -> Any:
    """Below another application; both are instrumented, and both have ours."""
    outer = Starlette()
    outer.mount("/", added_after(app, guard))
    instrument(outer)
    return PoolGuardMiddleware(outer, guard)


def not_instrumented(app: App, guard: Guard) -> Any:
    return PoolGuardMiddleware(app, guard)


PLACES = [outermost, added_before, added_after, with_another_between, mounted, not_instrumented]


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    """FastAPI's instrumentor replaces BackgroundTask's method for the whole process."""
    yield
    if hasattr(BackgroundTask, "_otel_original_call"):
        FastAPIInstrumentor.uninstrument_app(FastAPI())


async def use(guard: Guard) -> None:
    async with guard.aconnection():
        pass


def use_sync(guard: Guard) -> None:
    with guard.connection():
        pass


# -- Starlette ---------------------------------------------------------------------------------


def starlette(asynchronous: Guard, sync: Guard) -> Starlette:
    """An application with an endpoint of each kind; each acquires twice."""
    app = Starlette()

    async def task(request: Request) -> Response:
        await use(asynchronous)
        await use(asynchronous)
        return PlainTextResponse("")

    def thread(request: Request) -> Response:
        use_sync(sync)
        use_sync(sync)
        return PlainTextResponse("")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            await use(asynchronous)
            yield b"one"

    def chunks_of_thread() -> Iterator[bytes]:
        for _ in range(2):
            use_sync(sync)
            yield b"one"

    async def background(request: Request) -> Response:
        await use(asynchronous)
        return PlainTextResponse("", background=BackgroundTask(use, asynchronous))

    async def background_thread(request: Request) -> Response:
        await use(asynchronous)
        return PlainTextResponse("", background=BackgroundTask(use_sync, sync))

    app.add_route("/task", task)
    app.add_route("/thread", thread)
    app.add_route("/stream", lambda request: StreamingResponse(chunks()))
    app.add_route("/stream-thread", lambda request: StreamingResponse(chunks_of_thread()))
    app.add_route("/background", background)
    app.add_route("/background-thread", background_thread)
    return app


# -- FastAPI -----------------------------------------------------------------------------------


def fastapi(asynchronous: Guard, sync: Guard) -> FastAPI:
    """The same, by dependencies where there are such."""
    app = FastAPI()

    async def connection() -> AsyncIterator[None]:
        async with asynchronous.aconnection():
            yield

    def connection_of_thread() -> Iterator[None]:
        with sync.connection():
            yield

    async def task(_: None = Depends(connection)) -> str:
        async with asynchronous.aconnection():
            return ""

    def thread(_: None = Depends(connection_of_thread)) -> str:
        with sync.connection():
            return ""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            await use(asynchronous)
            yield b"one"

    def chunks_of_thread() -> Iterator[bytes]:
        for _ in range(2):
            use_sync(sync)
            yield b"one"

    async def background(tasks: BackgroundTasks) -> str:
        await use(asynchronous)
        tasks.add_task(use, asynchronous)
        return ""

    def background_thread(tasks: BackgroundTasks) -> str:
        use_sync(sync)
        tasks.add_task(use_sync, sync)
        return ""

    app.get("/task")(task)
    app.get("/thread")(thread)
    app.get("/stream")(lambda: StreamingResponse(chunks()))
    app.get("/stream-thread")(lambda: StreamingResponse(chunks_of_thread()))
    app.get("/background")(background)
    app.get("/background-thread")(background_thread)
    return app


# -- both --------------------------------------------------------------------------------------

PATHS = ["/task", "/thread", "/stream", "/stream-thread", "/background", "/background-thread"]
Make = Callable[[Guard, Guard], App]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [starlette, fastapi])
def test_the_servers_span_has_the_tags(  # noqa: PLR0917
    make: Make,
    place: Callable[[App, Guard], Any],
    path: str,
    guard: Guard,
    serve: Serve[object],
    exported: InMemorySpanExporter,
) -> None:
    async def run(asynchronous: Guard) -> None:
        app = place(make(asynchronous, guard), asynchronous)
        assert await asgi_get(app, path) == 200

    serve(run)
    # Theirs ends with the last part of the response, ours with the application. FastAPI 0.165 has
    # one of its own, also where nobody has instrumented it.
    late = path.startswith("/background") and by_whom(exported) != "poolguard"
    judge(exported, 2, late=int(late))
    assert (by_whom(exported) == "poolguard") <= (place is not_instrumented)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_a_websocket(
    make: Callable[[], App],
    place: Callable[[App, Guard], Any],
    serve: Serve[object],
    exported: InMemorySpanExporter,
) -> None:
    async def run(guard: Guard) -> None:
        async def echo(websocket: WebSocket) -> None:
            await websocket.accept()
            async for text in websocket.iter_text():
                await use(guard)
                await websocket.send_text(text)

        app = make()
        app.router.routes.append(WebSocketRoute("/talk", echo))
        assert await talk(place(app, guard), "/talk", "a", "b") == ["a", "b"]

    serve(run)
    judge(exported, 2)


@pytest.mark.parametrize("instrumentor", [StarletteInstrumentor, FastAPIInstrumentor])
def test_instrumented_as_a_whole(
    instrumentor: Any, serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    """As ``opentelemetry-instrument`` does: the class itself is replaced."""
    import fastapi
    import starlette.applications

    instrumentor().instrument()
    try:
        framework: Any = (
            fastapi.FastAPI
            if instrumentor is FastAPIInstrumentor
            else starlette.applications.Starlette
        )

        async def run(guard: Guard) -> None:
            app = framework()

            async def page(request: Request) -> Response:
                await use(guard)
                return PlainTextResponse("")

            app.add_route("/", page)
            assert await asgi_get(PoolGuardMiddleware(app, guard)) == 200

        serve(run)
    finally:
        instrumentor().uninstrument()
    judge(exported, 1)


def test_an_endpoint_that_fails(serve: Serve[object], exported: InMemorySpanExporter) -> None:
    """The span that tells of the error tells of the acquires too."""

    async def run(guard: Guard) -> None:
        async def page(request: Request) -> Response:
            await use(guard)
            raise LookupError

        app = Starlette()
        app.add_route("/", page)
        with pytest.raises(LookupError):
            await asgi_get(outermost(app, guard))

    serve(run)
    judge(exported, 1)
