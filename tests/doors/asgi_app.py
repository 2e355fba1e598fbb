"""The ASGI test application: the same paths as the WSGI one. It has no lifespan of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Any

import poolguard
from poolguard.asgi import App, PoolGuardMiddleware, Receive, Scope, Send

SLEEP = float(os.environ.get("TEST_SLEEP", "1"))


async def status() -> dict[str, Any]:
    return poolguard.guard().status()


async def query() -> int:
    async with poolguard.aconnection() as conn:
        [row] = await (await conn.execute("SELECT pg_backend_pid()")).fetchall()
    return int(row[0])


async def sleep() -> None:
    async with poolguard.aconnection() as conn:
        await conn.execute("SELECT pg_sleep(%s)", [SLEEP])


async def create() -> int:
    async with occupied(poolguard.guard().status()["floor"], lambda: False):
        return await query()


async def wait() -> int:
    guard = poolguard.guard()
    async with occupied(guard.status()["max_size"], lambda: bool(guard.status()["waiting"])):
        return await query()


async def starve() -> int:
    async with occupied(poolguard.guard().status()["max_size"], lambda: False):
        return await query()


LEAKED: list[Any] = []


async def leak() -> None:
    pool: Any = poolguard.guard().pool
    LEAKED.append(await pool.getconn())


@asynccontextmanager
async def occupied(n: int, enough: Callable[[], bool]) -> AsyncIterator[None]:
    held, over = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(n):
                await stack.enter_async_context(poolguard.aconnection())
            held.set()
            while not over.is_set() and not enough():
                await asyncio.sleep(0.01)

    # In an empty context: it is no part of the request.
    task = Context().run(asyncio.ensure_future, hold())
    try:
        await asyncio.wait_for(held.wait(), 10)
        yield
    finally:
        over.set()
        await task


async def watched() -> dict[str, Any]:
    """What the requests so far have paid for."""
    from .watched import report

    return report()


PATHS: dict[str, Callable[[], Awaitable[Any]]] = {
    "status": status,
    "query": query,
    "sleep": sleep,
    "create": create,
    "wait": wait,
    "starve": starve,
    "leak": leak,
    "watched": watched,
}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    code = 200
    path = scope["path"].split("/")[1]
    try:
        body = await PATHS[path]()
    except Exception as error:  # poolguard's and psycopg_pool's
        if path == "starve":
            raise
        code, body = 503, repr(error)
    content = json.dumps(body).encode()
    # gunicorn's own worker does not chunk in 24 and 25.0: without a length the answer has no end.
    length = (b"content-length", b"%d" % len(content))
    headers = [(b"content-type", b"application/json"), length]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": content})


bare = "TEST_BARE" in os.environ
guarded: App = application if bare else PoolGuardMiddleware(application)
if "TEST_DOOR" in os.environ:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Mount

    routes = [Mount("/", application)]
    if os.environ["TEST_DOOR"] == "lifespan":
        guarded = Starlette(routes=routes, lifespan=poolguard.asgi.lifespan)
    else:  # it makes its middleware when it is first called
        guarded = Starlette(routes=routes, middleware=[Middleware(PoolGuardMiddleware)])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say, at the end of the lifespan, what the middleware has left."""
    if scope["type"] == "lifespan" and "TEST_LIFESPAN_GATE" in os.environ:
        while not Path(os.environ["TEST_LIFESPAN_GATE"]).exists():
            await asyncio.sleep(0.01)
    await guarded(scope, receive, send)
    if scope["type"] == "lifespan":
        print("the pool is", "open" if poolguard.guard().opened else "closed", flush=True)
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        left = [name for name in names if name.startswith("default-")]
        print("tasks left:", *left or ["none"], flush=True)
        if "TEST_SHUTS_DOWN" in os.environ:  # uvicorn's worker ends by the signal that stopped it
            from ..telemetry.otlp import shut_down

            shut_down()


if "TEST_INSTRUMENTED" in os.environ:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    app = OpenTelemetryMiddleware(app)

if "tests.doors.watched" in sys.modules:
    from .watched import begin

    begin()
