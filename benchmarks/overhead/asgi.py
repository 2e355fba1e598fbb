"""An ASGI request with one acquire: bare psycopg_pool, our pool alone, and pool and middleware.

As at the WSGI door, with an AsyncConnectionPool: the server is a task that awaits the application,
one request after the other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    contextmanager,
)
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

import poolguard
from poolguard.asgi import PoolGuardMiddleware

from ..table import Table
from .frame import Stage, State, measure

if TYPE_CHECKING:
    from poolguard.asgi import App, Message, Receive, Scope, Send

    from .tracing import Entry, Tracing

__all__ = ["contenders", "run"]

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"5")],
}
BODY = {"type": "http.response.body", "body": b"done\n"}

Serve = Callable[[int], Coroutine[Any, Any, None]]


def run(stage: Stage) -> Table:
    """Measure."""
    return measure(stage, "asgi")


@contextmanager
def contenders(state: State, tracing: Tracing) -> Iterator[dict[str, Callable[[int], None]]]:
    """Who plays so many requests, with everything open and warm."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    servers = _servers(state, tracing)

    def act(serve: Serve) -> Callable[[int], None]:
        return lambda requests: loop.run_until_complete(serve(requests))

    try:
        yield {who: act(serve) for who, serve in loop.run_until_complete(anext(servers)).items()}
    finally:
        loop.run_until_complete(servers.aclose())
        loop.close()


async def _servers(state: State, tracing: Tracing) -> AsyncGenerator[dict[str, Serve], None]:
    async with poolguard.Guard(mode="async") as guard:
        floor = guard.status()["floor"]
        async with AsyncConnectionPool(
            os.environ["DATABASE_URL"], min_size=floor, open=False
        ) as pool:
            await pool.wait()
            ours = _application(poolguard.aconnection)
            acts = {
                "bare": _served(_application(pool.connection), tracing.bare, state),
                "pool": _served(ours, tracing.bare, state),
                "ours": _served(PoolGuardMiddleware(ours), tracing.ours, state),
            }
            if tracing.recorded is not None:
                bare = _application(pool.connection, tracing.child)
                acts |= {
                    "unspanned": _served(_application(pool.connection), tracing.recorded, state),
                    "spanned": _served(bare, tracing.recorded, state),
                }
            yield acts


def _application(
    connection: Callable[[], AbstractAsyncContextManager[Any]], child: Entry | None = None
) -> App:
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


def _served(app: App, entry: Entry, state: State) -> Serve:
    headers = [(b"host", b"localhost")]
    if state.traceparent is not None:
        headers.append((b"traceparent", state.traceparent.encode()))
    request = {"type": "http", "method": "GET", "path": "/orders/17", "headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    async def serve(requests: int) -> None:
        for _ in range(requests):
            with entry():
                await app(dict(request), receive, send)

    return serve
