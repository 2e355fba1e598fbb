"""psycopg_pool in an event loop, opened in the lifespan as its documentation has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg_pool import AsyncConnectionPool

from .endpoint import asgi
from .psycopg_settings import settings
from .terms import TERMS

pool = AsyncConnectionPool(TERMS.dsn, open=False, **settings(AsyncConnectionPool.check_connection))


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await pool.open(wait=TERMS.tuned or TERMS.limit)
    yield
    await pool.close()


async def query() -> None:
    async with pool.connection() as conn:
        await conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = asgi(query, opened)
