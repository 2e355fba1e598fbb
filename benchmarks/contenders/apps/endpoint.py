"""The endpoint that all have: ``/`` asks one query of the given length, ``/health`` none."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["asgi", "wsgi"]

WORKER = str(os.getpid())
"""Whose answer it is: a connection that is kept open stays with its worker."""


def wsgi(query: Callable[[], object]) -> WSGIApplication:
    """The application in threads; *query* does all that a request does with its database."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/health":
            query()
        start_response("200 OK", [("Content-Length", "3"), ("X-Worker", WORKER)])
        return [b"ok\n"]

    return app


def asgi(
    query: Callable[[], Awaitable[object]],
    pool: Callable[[], AbstractAsyncContextManager[object]] | None = None,
) -> Any:
    """The same in an event loop; *pool* is open during the lifespan."""

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        if pool is not None:
            async with pool():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        else:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        if scope["path"] != "/health":
            await query()
        headers = [(b"content-length", b"3"), (b"x-worker", WORKER.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok\n"})
        return None

    return app
