"""The application that gunicorn runs: FastAPI with raw psycopg, and one mounted below it."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from psycopg import AsyncConnection
from starlette.responses import PlainTextResponse

import poolguard
from poolguard.starlette import PoolGuardMiddleware, connection

Conn = Annotated[AsyncConnection[Any], Depends(connection, scope="function")]


async def query(conn: Conn) -> dict[str, Any]:
    """Whether a pool's connection answers."""
    await conn.execute("SELECT 1")
    return {"pooled": poolguard.guard().opened, "pid": os.getpid()}


async def starve(conn: Conn) -> None:
    """This request holds the one connection that there is, and wants another."""
    async with poolguard.aconnection():
        pass


def status() -> dict[str, Any]:
    return poolguard.guard().status()


app = FastAPI(debug="TEST_DEBUG" in os.environ)
inner = FastAPI()
for each in (app, inner):
    each.get("/query")(query)
    each.get("/starve")(starve)
app.get("/status")(status)
app.mount("/inner", inner)
if "TEST_INNER" in os.environ:  # an application's lifespan does not reach those below it
    inner.add_middleware(PoolGuardMiddleware)
elif "TEST_ADDED" in os.environ:
    app.add_middleware(PoolGuardMiddleware)
if "TEST_PAGE" in os.environ:
    app.exception_handler(500)(lambda *_: PlainTextResponse("our page", 500))
if "TEST_HANDLES" in os.environ:
    for each in (app, inner):
        each.exception_handler(poolguard.PoolguardError)(
            lambda *_: PlainTextResponse("come back", 429)
        )
