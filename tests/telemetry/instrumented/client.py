"""Clients that call an application in this process by its protocol, and read what it answers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send", "asgi_get", "talk", "wsgi_get"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[Any]]


async def asgi_get(app: Any, path: str = "/", **headers: str) -> int:
    """GET *path* in a task and a context of its own, as servers do; returns the status."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "state": {},
    }
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])
    messages = await _run(app, scope, asked)
    assert messages[-1].get("more_body", False) is False
    status: int = messages[0]["status"]
    return status


async def talk(app: Any, path: str, *texts: str) -> list[str]:
    """Open a websocket, send *texts* and leave; returns what was answered."""
    scope: Scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "subprotocols": [],
        "state": {},
    }
    asked: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    messages = await _run(app, scope, iter(asked))
    return [each["text"] for each in messages if each["type"] == "websocket.send"]


async def _run(app: ASGIApp, scope: Scope, asked: Any) -> list[Message]:
    sent: list[Message] = []
    left = asyncio.Event()

    async def receive() -> Message:
        message: Message | None = next(asked, None)
        if message is None:
            await left.wait()  # the client stays, and has nothing more to say
            return {"type": "http.disconnect"}
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    async def serve() -> None:
        await app(scope, receive, send)

    await Context().run(asyncio.ensure_future, serve())
    return sent


def wsgi_get(app: WSGIApplication, path: str = "/", **environ: str) -> str:
    """GET *path* in a context of its own; returns the status, such as ``200 OK``."""

    def serve() -> bytes:
        out = io.BytesIO()
        given: WSGIEnvironment = {"PATH_INFO": path, "SCRIPT_NAME": "", **environ}
        setup_testing_defaults(given)
        SimpleHandler(io.BytesIO(), out, io.StringIO(), given, multithread=False).run(app)
        return out.getvalue()

    version, status = Context().run(serve).splitlines()[0].decode().split(maxsplit=1)
    assert version == "HTTP/1.0"
    return status
