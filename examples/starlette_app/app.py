"""Short links: psycopg over each worker's warm pool. DATABASE_URL says where the database is."""

from __future__ import annotations

import secrets

from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import poolguard


async def links(request: Request) -> Response:
    """The hundred links that were followed most."""
    async with poolguard.aconnection() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT code, target, visits FROM links ORDER BY visits DESC, code LIMIT 100"
        )
        return JSONResponse({"links": await cursor.fetchall()})


async def shorten(request: Request) -> Response:
    """A code for ``{"target": "<URL>"}``."""
    target, code = (await request.json())["target"], secrets.token_urlsafe(6)
    async with poolguard.aconnection() as conn:
        await conn.execute("INSERT INTO links (code, target) VALUES (%s, %s)", (code, target))
    return JSONResponse({"code": code}, status_code=201)


async def follow(request: Request) -> Response:
    """Redirect to a link's target and note the visit, in one transaction; 404 for another code."""
    code = request.path_params["code"]
    async with poolguard.aconnection() as conn:
        cursor = await conn.execute(
            "UPDATE links SET visits = visits + 1 WHERE code = %s RETURNING id, target", (code,)
        )
        if (found := await cursor.fetchone()) is None:
            raise HTTPException(404)
        await conn.execute("INSERT INTO visits (link_id) VALUES (%s)", (found[0],))
    return RedirectResponse(found[1])


app = Starlette(
    routes=[
        Route("/links", links),
        Route("/links", shorten, methods=["POST"]),
        Route("/l/{code}", follow),
    ]
)
