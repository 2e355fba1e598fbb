"""The application of a crew: one query a request, behind no pool, psycopg_pool, or poolguard.

A worker that has no pool imports no driver either: it is what a worker costs without all this.
psycopg_pool is opened as many would: at import in a WSGI worker, in the lifespan in an ASGI one.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from time import thread_time
from typing import Any

WHO = os.environ["CREW_WHO"]
ASYNC = os.environ["CREW_CLASS"] not in ("sync", "gthread", "gevent")
WAITS = os.environ["CREW_WAITS"] == "1"

if WHO == "poolguard":
    import poolguard
    import poolguard.asgi
    import poolguard.wsgi

until = thread_time() + float(os.environ["CREW_IMPORT"])
while thread_time() < until:
    pass  # importing an application is work for the interpreter, and so is this

if WHO == "poolguard":
    connection: Any = poolguard.aconnection if ASYNC else poolguard.connection
elif WHO != "nothing":
    import psycopg_pool

    kind = psycopg_pool.AsyncConnectionPool if ASYNC else psycopg_pool.ConnectionPool
    size = int(os.environ["CREW_SIZE"])
    pool: Any = kind(os.environ["DATABASE_URL"], min_size=size, open=False)
    connection = pool.connection
    if not ASYNC:
        pool.open(wait=WAITS)


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """``/health`` needs no database."""
    if environ["PATH_INFO"] != "/health" and WHO != "nothing":
        with connection() as conn:
            conn.execute("SELECT 1")
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]


@asynccontextmanager
async def opened() -> Any:
    """The pool of an ASGI worker that is not poolguard's, which opens its own."""
    if WHO == "psycopg_pool":
        await pool.open(wait=WAITS)
    yield
    if WHO == "psycopg_pool":
        await pool.close()


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


app: Any = asgi if ASYNC else wsgi
if WHO == "poolguard":
    door: Any = poolguard.asgi if ASYNC else poolguard.wsgi
    app = door.PoolGuardMiddleware(app)
