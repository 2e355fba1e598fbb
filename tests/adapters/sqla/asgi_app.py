"""An ASGI application as SQLAlchemy's users write it: an async engine, a lifespan that uses it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from poolguard.runtime.lookup import guards

PID = text("SELECT pg_backend_pid()")
engine = create_async_engine(
    os.environ["TEST_URL"].replace("+psycopg:", "+psycopg_async:"), plugins=["poolguard"]
)
Session = async_sessionmaker(engine)
connects: list[int] = []
known: dict[str, Any] = {}


@event.listens_for(engine.sync_engine, "connect")
def connected(connection: Any, record: Any) -> None:
    connects.append(connection.info.backend_pid)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """What templates do: something with the database first, and ``dispose()`` at the end."""
    known["asked"] = getattr(engine.dialect, "server_version_info", None) is not None
    known["connects"] = len(set(connects))
    async with engine.begin() as conn:
        await conn.execute(text("SELECT 1"))
    yield
    await engine.dispose()
    print("disposed", len(guards()), flush=True)


async def boot(request: Request) -> JSONResponse:
    pools = {each.name: each.status() for each in guards()}
    return JSONResponse({**known, "pools": pools, "pool": type(engine.pool).__name__})


async def query(request: Request) -> JSONResponse:
    async with Session() as session:
        return JSONResponse(await session.scalar(PID))


async def invalidate(request: Request) -> JSONResponse:
    pids = []
    async with Session() as session:
        pids.append(await session.scalar(PID))
        await (await session.connection()).invalidate()
    for _ in range(8):
        async with Session() as session:
            pids.append(await session.scalar(PID))
    return JSONResponse(pids)


async def busy(request: Request) -> JSONResponse:
    async with AsyncExitStack() as stack:
        while True:
            await stack.enter_async_context(engine.connect())


app = Starlette(
    lifespan=lifespan,
    routes=[Route(f"/{each.__name__}", each) for each in (boot, query, invalidate, busy)],
)
