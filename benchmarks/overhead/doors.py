"""A request with one acquire, at either door: bare psycopg_pool, our pool, pool and middleware.

The application takes a connection, gives it back and answers; it sends no query, in which the costs
would be lost. The server is a loop that calls it, in the same thread or in a task. *bare* has a
psycopg_pool of as many connections as the guard's floor; *pool* asks the guard, without the
middleware; *ours* is the same application in the middleware. An instrumentation's server span,
where the state has one, is begun and ended around all of them, and counted in all of them: it is
the same, but for what poolguard adds to it or to its provider.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

import poolguard
from poolguard.asgi import PoolGuardMiddleware as AsgiMiddleware
from poolguard.wsgi import PoolGuardMiddleware as WsgiMiddleware

from .states import State
from .tracing import Entry, Tracing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from poolguard.asgi import App, Message, Receive, Scope, Send

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "5")]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(name.lower().encode(), value.encode()) for name, value in HEADERS],
}
BODY = {"type": "http.response.body", "body": b"done\n"}

Act = Callable[[int], Any]
"""Plays so many requests."""


def _acts(
    tracing: Tracing, app: Any, middleware: Any, serve: Any, *, bare: Any, ours: Any
) -> dict[str, Act]:
    """Who plays, from what is the door's own: its *app*lication, and how it is *serve*d."""
    guarded = app(ours)
    acts = {
        "bare": serve(app(bare), tracing.bare),
        "pool": serve(guarded, tracing.bare),
        "ours": serve(middleware(guarded), tracing.ours),
    }
    if tracing.recorded is not None:
        acts["unspanned"] = serve(app(bare), tracing.recorded)
        acts["spanned"] = serve(app(bare, tracing.child), tracing.recorded)
    return acts


@contextmanager
def wsgi(state: State, tracing: Tracing) -> Iterator[dict[str, Act]]:
    """Who plays so many requests, with everything open and warm."""
    request: WSGIEnvironment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/17"}
    if state.traceparent is not None:
        request["HTTP_TRACEPARENT"] = state.traceparent

    def start_response(*_: object) -> Callable[[bytes], None]:
        return lambda _: None

    def serve(app: WSGIApplication, entry: Entry) -> Act:
        def requests(n: int) -> None:
            for _ in range(n):
                with entry():
                    app(dict(request), start_response)

        return requests

    with poolguard.Guard() as guard:
        floor = guard.status()["floor"]
        with ConnectionPool(os.environ["DATABASE_URL"], min_size=floor, open=False) as pool:
            pool.wait()
            ours = poolguard.connection
            yield _acts(tracing, _wsgi_app, WsgiMiddleware, serve, bare=pool.connection, ours=ours)


def _wsgi_app(connection: Any, child: Entry | None = None) -> WSGIApplication:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with connection():
            pass
        start_response("200 OK", HEADERS)
        return [b"done\n"]

    def app_with_child(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert child is not None
        with child(), connection():
            pass
        start_response("200 OK", HEADERS)
        return [b"done\n"]

    return app if child is None else app_with_child


@contextmanager
def asgi(state: State, tracing: Tracing) -> Iterator[dict[str, Act]]:
    """The same in an event loop."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    acts = _asgi_acts(state, tracing)

    def act(requests: Callable[[int], Any]) -> Act:
        return lambda n: loop.run_until_complete(requests(n))

    try:
        yield {who: act(each) for who, each in loop.run_until_complete(anext(acts)).items()}
    finally:
        loop.run_until_complete(acts.aclose())
        loop.close()


async def _asgi_acts(state: State, tracing: Tracing) -> AsyncGenerator[dict[str, Act], None]:
    headers = [(b"host", b"localhost")]
    if state.traceparent is not None:
        headers.append((b"traceparent", state.traceparent.encode()))
    request = {"type": "http", "method": "GET", "path": "/orders/17", "headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    def serve(app: App, entry: Entry) -> Act:
        async def requests(n: int) -> None:
            for _ in range(n):
                with entry():
                    await app(dict(request), receive, send)

        return requests

    async with poolguard.Guard(mode="async") as guard:
        dsn, floor = os.environ["DATABASE_URL"], guard.status()["floor"]
        async with AsyncConnectionPool(dsn, min_size=floor, open=False) as pool:
            await pool.wait()
            ours = poolguard.aconnection
            yield _acts(tracing, _asgi_app, AsgiMiddleware, serve, bare=pool.connection, ours=ours)


def _asgi_app(connection: Any, child: Entry | None = None) -> App:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        async with connection():
            pass
        await send(START)
        await send(BODY)

    async def app_with_child(_: Scope, __: Receive, send: Send) -> None:
        assert child is not None
        with child():
            async with connection():
                pass
        await send(START)
        await send(BODY)

    return app if child is None else app_with_child
