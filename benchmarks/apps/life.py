"""The application that is booted and reloaded: one query a request, by poolguard or without it.

Without it there is a psycopg_pool of the same size, as many would write it: opened at import in a
WSGI worker, in the lifespan in an ASGI one.
"""

from __future__ import annotations

import os
from time import thread_time
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

GUARDED = os.environ["BENCH_GUARDED"] == "1"
if GUARDED:
    import poolguard
    import poolguard.asgi
    import poolguard.wsgi
SIZE = int(os.environ["BENCH_FLOOR"])
DSN = os.environ["DATABASE_URL"]

until = thread_time() + float(os.environ["BENCH_IMPORT"])
while thread_time() < until:
    pass  # importing an application is work for the interpreter, and so is this


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """``/health`` needs no database."""
    if environ["PATH_INFO"] != "/health":
        with connection() as conn:
            conn.execute("SELECT 1")
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same; outside of poolguard it has the lifespan to itself."""
    if scope["type"] == "lifespan":
        await receive()
        if not GUARDED:
            await apool.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if not GUARDED:
            await apool.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/health":
        async with aconnection() as conn:
            await conn.execute("SELECT 1")
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
    )
    await send({"type": "http.response.body", "body": b"ok\n"})


app: Any
if os.environ["BENCH_CLASS"] in ("sync", "gthread", "gevent"):
    app = wsgi
    if GUARDED:
        app = poolguard.wsgi.PoolGuardMiddleware(wsgi)
        connection: Any = poolguard.connection
    else:
        connection = ConnectionPool(DSN, min_size=SIZE, open=True).connection
else:
    app = asgi
    if GUARDED:
        app = poolguard.asgi.PoolGuardMiddleware(asgi)
        aconnection: Any = poolguard.aconnection
    else:
        apool: Any = AsyncConnectionPool(DSN, min_size=SIZE, open=False)
        aconnection = apool.connection
