"""A Starlette application that borrows connections from its worker's warm pool."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import poolguard
from poolguard.asgi import PoolGuardMiddleware


async def now(_: Request) -> JSONResponse:
    """Answer with the server's time, and with what the pool did so far."""
    async with poolguard.aconnection() as conn:
        row = await (await conn.execute("SELECT now()::text")).fetchone()
    return JSONResponse({"now": row[0], "pool": poolguard.guard().status()})


app = PoolGuardMiddleware(Starlette(routes=[Route("/", now)]))
