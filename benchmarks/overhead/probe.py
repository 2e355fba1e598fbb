"""The process that is measured: it plays turns of requests at one door, and prints their costs.

Each request's application takes a connection, gives it back and answers; it sends no query, in
which the costs would be lost. The server is a loop that calls it. *bare* has a psycopg_pool of as
many connections as the guard's floor; *ours* is the same application in the middleware, and asks
the guard. *unspanned* is the bare pool below a server span that records, *spanned* the same with
a child span around it: their difference is the unit. It is taken of whole requests, as what it is
compared with: a loop that does nothing but spans has them in the processor's caches, and makes them
look cheaper.

An instrumentation's server span, where the state has one, is around all of them, and counted
in all of them: it is the same, but for what poolguard adds to it or to its provider.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from functools import partial
from time import process_time
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

import poolguard
from poolguard.asgi import PoolGuardMiddleware as AsgiMiddleware
from poolguard.wsgi import PoolGuardMiddleware as WsgiMiddleware

from ..table import turns
from .tracing import STATES, Entry, State, Tracing, prepare

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from poolguard.asgi import App, Message, Receive, Scope, Send

DSN = os.environ["DATABASE_URL"]
REQUESTS = 50
"""Requests of a turn, a few milliseconds: short, so that what else the machine does hits few."""
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "5")]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(name.lower().encode(), value.encode()) for name, value in HEADERS],
}
BODY = {"type": "http.response.body", "body": b"done\n"}

Act = Callable[[int], Any]
"""Plays so many requests."""


def _acts(tracing: Tracing, app: Any, middleware: Any, serve: Any, *connections: Any) -> Any:
    """Who plays, from what is the door's own: its *app*lication, and how it is *serve*d."""
    bare, ours = (app(connection, nullcontext) for connection in connections)
    acts = {
        "bare": serve(bare, tracing.bare),
        "ours": serve(middleware(ours), tracing.ours),
    }
    if tracing.recorded is not None:
        acts["unspanned"] = serve(bare, tracing.recorded)
        acts["spanned"] = serve(app(connections[0], tracing.child), tracing.recorded)
    return acts


def _wsgi_app(connection: Any, child: Entry) -> WSGIApplication:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with child(), connection():
            pass
        start_response("200 OK", HEADERS)
        return [b"done\n"]

    return app


@contextmanager
def _wsgi(state: State, tracing: Tracing) -> Iterator[dict[str, Act]]:
    """Who plays so many requests, with everything open and warm."""
    request: WSGIEnvironment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/17"}
    request["HTTP_TRACEPARENT"] = state.traceparent

    def start_response(*_: object) -> Callable[[bytes], None]:
        return lambda _: None

    def serve(app: WSGIApplication, entry: Entry) -> Act:
        def requests(n: int) -> None:
            for _ in range(n):
                with entry():
                    app(dict(request), start_response)

        return requests

    with ExitStack() as stack:
        guard = stack.enter_context(poolguard.Guard())
        pool = ConnectionPool(DSN, min_size=guard.status()["floor"], open=False)
        stack.enter_context(pool).wait()
        connections = pool.connection, poolguard.connection
        yield _acts(tracing, _wsgi_app, WsgiMiddleware, serve, *connections)


def _asgi_app(connection: Any, child: Entry) -> App:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        with child():
            async with connection():
                pass
        await send(START)
        await send(BODY)

    return app


@contextmanager
def _asgi(state: State, tracing: Tracing) -> Iterator[dict[str, Act]]:
    """The same in an event loop."""
    headers = [(b"host", b"localhost"), (b"traceparent", state.traceparent.encode())]
    request = {"type": "http", "method": "GET", "path": "/orders/17", "headers": headers}
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    stack = AsyncExitStack()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    def serve(app: App, entry: Entry) -> Act:
        async def requests(n: int) -> None:
            for _ in range(n):
                with entry():
                    await app(dict(request), receive, send)

        return lambda n: loop.run_until_complete(requests(n))

    async def opened() -> AsyncConnectionPool:
        guard = await stack.enter_async_context(poolguard.Guard(mode="async"))
        pool = AsyncConnectionPool(DSN, min_size=guard.status()["floor"], open=False)
        await stack.enter_async_context(pool)
        await pool.wait()
        return pool

    try:
        connections = loop.run_until_complete(opened()).connection, poolguard.aconnection
        yield _acts(tracing, _asgi_app, AsgiMiddleware, serve, *connections)
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()


def main(door: str, name: str, rounds: str, times: str) -> None:
    state = STATES[name]
    tracing = prepare(state)
    with (_wsgi if door == "wsgi" else _asgi)(state, tracing) as acts:
        played = {who: partial(_turn, act) for who, act in acts.items()}
        turns(1, played)  # the first is slower: caches, and code not yet specialised
        # What is measured is the state that the table names.
        assert state.sdk == any(module.startswith("opentelemetry") for module in sys.modules)
        gc.collect()
        gc.freeze()  # what a server has imported is not looked through again and again
        us: dict[str, list[float]] = {who: [] for who in played}
        for _ in range(int(rounds)):
            for who, took in turns(int(times), played).items():
                us[who].append(statistics.median(took))
    print(json.dumps(us))


def _turn(act: Act) -> float:
    """What a request costs, in µs."""
    act(REQUESTS // 5)  # what other turns have left in the processor's caches is gone then
    began = process_time()  # nothing here waits: all else that passes is others' work
    act(REQUESTS)
    return (process_time() - began) / REQUESTS * 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
