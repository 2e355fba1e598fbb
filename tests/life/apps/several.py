"""Several guards, made at import: a primary and a replica; in an ASGI worker a sync one beside."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import poolguard
from poolguard import asgi, wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WHO = "SELECT current_database()"
BUDGETS: dict[str, Any] = {"budget": 4, "floor": 1}

primary = poolguard.Guard(name="primary", **BUDGETS)
replica = poolguard.Guard(os.environ["TEST_REPLICA"], name="replica", **BUDGETS)
in_threads = poolguard.Guard(name="in threads", mode="sync", **BUDGETS)
"""What sync endpoints use, which an ASGI server runs in threads."""


def ask(guard: poolguard.Guard) -> str:
    with guard.connection() as conn:
        [row] = conn.execute(WHO).fetchall()
        return str(row[0])


async def aask(guard: poolguard.Guard) -> str:
    async with guard.aconnection() as conn:
        [row] = await (await conn.execute(WHO)).fetchall()
        return str(row[0])


def statuses() -> dict[str, Any]:
    return {each.name: each.status() for each in poolguard.worker.registry.guards()}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body: Any = statuses()
    if environ["PATH_INFO"] == "/query":
        body = [ask(primary), ask(replica), ask(in_threads)]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


async def aapplication(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    assert scope["type"] == "http"
    body: Any = statuses()
    if scope["path"] == "/query":
        body = [await aask(primary), await aask(replica), await asyncio.to_thread(ask, in_threads)]
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


app = wsgi.PoolGuardMiddleware(application)
aapp = asgi.PoolGuardMiddleware(aapplication)
