"""OpenTelemetry's ASGI middleware outside and inside of ours, and applications of many shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware

from ..support import tags
from .client import ASGIApp, Message, Receive, Scope, Send, asgi_get, talk
from .conftest import Serve
from .judging import acquires, judge

tracer = trace.get_tracer("tests")


def ours(app: ASGIApp, guard: Guard) -> ASGIApp:
    return PoolGuardMiddleware(app, guard)


def theirs(app: ASGIApp, guard: Guard) -> ASGIApp:
    return OpenTelemetryMiddleware(app)


def busy(app: ASGIApp, guard: Guard) -> ASGIApp:
    """A middleware with a span of its own around the application."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        with tracer.start_as_current_span("middleware"):
            await app(scope, receive, send)

    return within


def eager(app: ASGIApp, guard: Guard) -> ASGIApp:
    """A middleware that acquires itself, such as one that knows users by their cookies."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        await use(guard)
        await app(scope, receive, send)

    return within


Layer = Callable[[ASGIApp, Guard], ASGIApp]

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


def build(layers: Sequence[Layer], app: ASGIApp, guard: Guard) -> ASGIApp:
    for layer in reversed(layers):
        app = layer(app, guard)
    return app


async def use(guard: Guard) -> None:
    async with guard.aconnection():
        pass


async def answer(send: Send, *chunks: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


# -- what applications do ----------------------------------------------------------------------

Visit = Callable[[Guard, Send], Awaitable[None]]


async def plain(guard: Guard, send: Send) -> None:
    await use(guard)
    await use(guard)
    await answer(send)


async def in_parallel(guard: Guard, send: Send) -> None:
    """The tasks have copies of the context, and share the record."""
    await asyncio.gather(use(guard), use(guard))
    await answer(send)


async def while_streaming(guard: Guard, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2):
        await use(guard)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def in_the_background(guard: Guard, send: Send) -> None:
    """After the response, within the call of the application."""
    await use(guard)
    await answer(send)
    await use(guard)


@pytest.mark.parametrize("visit", [plain, in_parallel, while_streaming, in_the_background])
@pytest.mark.parametrize("stack", STACKS)
def test_the_servers_span_has_the_tags(
    stack: str, visit: Visit, serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    async def run(guard: Guard) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await visit(guard, send)

        assert await asgi_get(build(STACKS[stack], app, guard)) == 200

    serve(run)
    layers = STACKS[stack]
    # Theirs ends with the last part of the response, ours with the application.
    late = 1 if visit is in_the_background and theirs in layers else 0
    early = 1 if stack == "an acquire before theirs" else 0
    more = 1 if eager in layers else 0
    judge(exported, 2 + more, early=early, late=late)


@pytest.mark.parametrize("visit", [plain, in_parallel, while_streaming, in_the_background])
@pytest.mark.parametrize("outside", [True, False])
def test_starlettes_own_middleware(
    outside: bool, visit: Visit, serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    """Its span is always a server's, and lasts as long as the application runs."""
    native = pytest.importorskip("starlette.middleware.opentelemetry")  # Starlette 1.10

    def starlettes(app: ASGIApp, guard: Guard) -> ASGIApp:
        middleware: ASGIApp = native.OpenTelemetryMiddleware(app)
        return middleware

    async def run(guard: Guard) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await visit(guard, send)

        stack = [starlettes, busy, ours] if outside else [ours, starlettes, busy]
        assert await asgi_get(build(stack, app, guard)) == 200

    serve(run)
    judge(exported, 2)


@pytest.mark.parametrize("stack", STACKS)
def test_a_span_of_the_applications_own_is_only_a_parent(
    stack: str, serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    """Of the acquires in it, wherever the server's span was begun."""

    async def run(guard: Guard) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with tracer.start_as_current_span("load"):
                await use(guard)
            await answer(send)

        await asgi_get(build(STACKS[stack], app, guard))

    serve(run)
    [load] = [each for each in exported.get_finished_spans() if each.name == "load"]
    parent = acquires(exported)[-1].parent
    assert parent is not None
    assert parent.span_id == load.context.span_id
    if theirs in STACKS[stack]:
        judge(exported, 2 if eager in STACKS[stack] else 1, early=stack.count("before"))
    else:  # it is the only span there is
        assert tags(load)["acquire_count"] == 1


@pytest.mark.parametrize("stack", STACKS)
def test_a_websocket(stack: str, serve: Serve[object], exported: InMemorySpanExporter) -> None:
    """Its span lasts as long as it does, and the tags of each message are there at once."""

    async def run(guard: Guard) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await use(guard)
                await send({"type": "websocket.send", "text": message["text"]})

        assert await talk(build(STACKS[stack], app, guard), "/", "a", "b") == ["a", "b"]

    serve(run)
    layers = STACKS[stack]
    judge(exported, 3 if eager in layers else 2, early=stack.count("before"))


def test_a_task_that_outlives_its_request(
    serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    left: list[asyncio.Task[None]] = []

    async def run(guard: Guard) -> None:
        ended = asyncio.Event()

        async def later() -> None:
            await ended.wait()
            await use(guard)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await use(guard)
            left.append(asyncio.create_task(later()))
            await answer(send)

        await asgi_get(build([ours, theirs], app, guard))
        ended.set()
        await left[0]

    serve(run)
    judge(exported, 2, late=1)


def test_a_request_that_leaks_its_context_into_the_next(
    serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    """As a server does that begins the next request of a connection from within the last send."""

    async def run(guard: Guard) -> None:
        following: list[asyncio.Task[int]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await use(guard)
            await answer(send)
            if scope["path"] == "/first":
                await following[0]

        served = build([ours], app, guard)

        async def server(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body" and scope["path"] == "/first":
                    following.append(asyncio.create_task(follow()))

            await served(scope, receive, sent)

        async def follow() -> int:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(message)

            async def receive() -> Message:
                return {"type": "http.request"}

            await served({"type": "http", "path": "/second"}, receive, send)
            return len(sent)

        await asgi_get(server, "/first")

    serve(run)
    found = {
        (each.attributes or {})["url.path"]: tags(each)["acquire_count"]
        for each in exported.get_finished_spans()
        if each.kind is SpanKind.SERVER
    }
    assert found == {"/first": 1, "/second": 1}


def test_several_guards(dsn: str, serve: Serve[object], exported: InMemorySpanExporter) -> None:
    """One request, one count; each acquire says which pool it was."""

    async def run(guard: Guard) -> None:
        async with Guard(dsn, mode="async", name="other", budget=4, floor=1, spans="all") as other:
            assert await other.aopen(10)

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                await use(guard)
                await use(other)
                await answer(send)

            await asgi_get(build([ours, theirs], PoolGuardMiddleware(app, other), guard))

    serve(run)
    judge(exported, 2)
    pools = [
        (each.attributes or {})["db.client.connection.pool.name"] for each in acquires(exported)
    ]
    assert pools == ["default", "other"]
