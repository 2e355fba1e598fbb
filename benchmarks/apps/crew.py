"""The application of a crew: one query a request, behind no pool, psycopg_pool, or poolguard.

A worker that has no pool imports no driver either: it is what a worker costs without all this.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import Any

from .ready import ready

WHO = os.environ["CREW_WHO"]
ASYNC = os.environ["CREW_CLASS"] == "asgi"
SIZE = int(os.environ["CREW_SIZE"])
SETTINGS: dict[str, Any] = {"min_size": SIZE, "open": False}
if WHO == "psycopg_pool tuned":
    SETTINGS["num_workers"] = SIZE  # as many connects at once as it has connections

if WHO == "poolguard":
    import poolguard
    import poolguard.asgi
    import poolguard.wsgi

    connection: Any = poolguard.aconnection if ASYNC else poolguard.connection
elif WHO != "nothing":
    import psycopg_pool

    kind = psycopg_pool.AsyncConnectionPool if ASYNC else psycopg_pool.ConnectionPool
    pool: Any = kind(os.environ["DATABASE_URL"], **SETTINGS)
    connection = pool.connection
    if not ASYNC:  # at import, and warm before the worker accepts, as "Pool startup check" has it
        pool.open()
        pool.wait()


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] != "/health" and WHO != "nothing":
        with connection() as conn:
            conn.execute("SELECT 1")
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]


@asynccontextmanager
async def opened() -> Any:
    """The pool of an ASGI worker that is not poolguard's, which opens its own."""
    if WHO in ("nothing", "poolguard"):
        yield
    else:
        async with pool:
            await pool.wait()
            yield


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        async with opened():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/health" and WHO != "nothing":
        async with connection() as conn:
            await conn.execute("SELECT 1")
    headers = [(b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})


def telling(inner: Any) -> Any:
    """Outermost: by what passes here the server knows that the worker is up."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def heard(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                ready()

        await inner(scope, receive, heard if scope["type"] == "lifespan" else send)

    return app


app: Any = asgi if ASYNC else wsgi
if WHO == "poolguard":
    door: Any = poolguard.asgi if ASYNC else poolguard.wsgi
    app = door.PoolGuardMiddleware(app)
if ASYNC:
    app = telling(app)
