"""poolguard in threads. Tuned: it keeps warm all that it may open."""

from __future__ import annotations

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

from .endpoint import wsgi
from .terms import TERMS


def query() -> None:
    with poolguard.connection() as conn:
        conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = PoolGuardMiddleware(wsgi(query))
