"""poolguard in an event loop. Tuned: it keeps half of its share warm; by default up to 10."""

from __future__ import annotations

import poolguard
from poolguard.asgi import PoolGuardMiddleware

from .endpoint import asgi
from .terms import TERMS


async def query() -> None:
    async with poolguard.aconnection() as conn:
        await conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = PoolGuardMiddleware(asgi(query))
