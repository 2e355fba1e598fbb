"""asyncpg's pool, opened in the lifespan.

Defaults (magicstack.github.io/asyncpg/current/api, "Connection Pools"): min_size 10, closed after 5
minutes unused; max_size, by default 10 too, is given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from .endpoint import asgi
from .terms import TERMS

settings: dict[str, Any] = {
    "min_size": min(10, TERMS.size),
    "max_size": TERMS.size,
    "max_inactive_connection_lifetime": TERMS.fast(300),
}
if TERMS.tuned:
    # The same page: a fixed size, all of it opened by create_pool(), nothing closed for being idle
    # (0 switches that off), and bounds on what may take how long.
    settings = {
        "min_size": TERMS.size,
        "max_size": TERMS.size,
        "max_inactive_connection_lifetime": 0,
        "command_timeout": 5,
        "timeout": 5,
    }

pools: list[Any] = []


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    place: dict[str, Any] = TERMS.place()
    async with asyncpg.create_pool(**{**place, "port": int(place["port"])}, **settings) as pool:
        pools.append(pool)
        yield


async def query() -> None:
    async with pools[0].acquire() as conn:
        await conn.execute("SELECT pg_sleep($1)", TERMS.query)


app = asgi(query, opened)
