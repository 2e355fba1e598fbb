"""The ASGI door: a middleware that opens the pools in the lifespan and records each request.

Pure protocol: no framework is imported, the application runs in the same task with the same scope
and receive, and nothing of a request is kept on ``self``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from . import registry
from .errors import PoolguardError
from .guards import Guard
from .guards import guard as guard_of

__all__ = ["PoolGuardMiddleware", "lifespan"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("poolguard")


class PoolGuardMiddleware:
    """Opens, warms and closes the async pools with the server's lifespan; records requests.

    :param app: the ASGI application.
    :param guard: the guard to open; by default every async guard that is registered when the
        server starts, or the default one from the environment where none is.
    """

    def __init__(self, app: App, guard: Guard | None = None) -> None:
        self.app = app
        self._guard = guard

    def __repr__(self) -> str:
        return f"<PoolGuardMiddleware guard={self._guard!r} app={self.app!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(self.app, self._guard).run(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._request(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        from .telemetry.request import CURRENT, Request

        for guard in _guards(self._guard):
            if not guard.opened:
                # The server runs no lifespan (asgi_lifespan="off"): the first request opens.
                await guard.aopen()
        request = Request(scope.get("method", "WEBSOCKET"), scope.get("path", ""), _traced(scope))
        status: int | None = None

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = CURRENT.set(request)
        try:
            await self.app(scope, receive, send if request.has_span else send_and_see)
        except BaseException as error:
            request.end(status, error)
            raise
        else:
            request.end(status)
        finally:
            CURRENT.reset(token)


def _traced(scope: Scope) -> dict[str, str]:
    """The headers that may carry a trace; all others stay undecoded."""
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate", b"baggage", b"b3") or name[:4] == b"x-b3"
    }


def _guards(given: Guard | None) -> list[Guard]:
    """The async guards that a door is responsible for."""
    if given is not None:
        return [given]
    found = registry.guards() or [guard_of()]
    return [guard for guard in found if guard.mode != "sync"]


@asynccontextmanager
async def lifespan(_app: object = None, *, guard: Guard | None = None) -> AsyncIterator[None]:
    """Opens and warms the pools, and closes them at the end: what the middleware's lifespan does.

    For applications that have a lifespan of their own; it may also be given as it is, as
    ``Starlette(lifespan=poolguard.asgi.lifespan)``. Waits at most ``warmup_timeout`` seconds; a
    database that is away is no error, unless ``on_warmup_failure`` is ``exit``.
    """
    guards = _guards(guard)
    try:
        for each in guards:
            if not await each.aopen(each.settings.warmup_timeout):
                _complain(each)
        yield
    finally:
        for each in guards:
            await each.aclose()


def _complain(guard: Guard) -> None:
    said = guard.not_warm()
    if guard.settings.on_warmup_failure == "exit":
        raise PoolguardError(said)
    logger.warning("%s", said)


class _Lifespan:
    """One run of the lifespan protocol around the application's own.

    The pools open before the application's startup runs, which may use them, and close after its
    shutdown. An application without lifespan support gets its answers from here.
    """

    def __init__(self, app: App, guard: Guard | None) -> None:
        self._app = app
        self._pools = lifespan(guard=guard)
        self._open = False
        self._started = False
        """The server has been told that the startup is complete, or has failed."""

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = [await receive()]
        try:
            await self._pools.__aenter__()
        except Exception as error:  # noqa: BLE001 - see below
            # Only an explicit failure stops a server: an exception makes some of them serve
            # without lifespan, and so without pools.
            logger.error("%s", error)  # noqa: TRY400 - the text says it all
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._open = True

        async def receive_again() -> Message:
            return startup.pop() if startup else await receive()

        async def send_when_closed(message: Message) -> None:
            if message["type"].startswith("lifespan.startup."):
                self._started = True
            if message["type"] != "lifespan.startup.complete":
                await self._close()
            await send(message)

        try:
            await self._app(scope, receive_again, send_when_closed)
        except Exception:
            if self._started:
                await self._close()
                raise
            logger.debug("the application has no lifespan of its own", exc_info=True)
        if not self._open:
            return
        if not self._started:
            await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown, which the application has not waited for
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _close(self) -> None:
        if self._open:
            self._open = False
            await self._pools.__aexit__(None, None, None)
