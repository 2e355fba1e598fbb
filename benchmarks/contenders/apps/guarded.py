"""poolguard in threads. Tuned: it keeps half of its share warm, which is also its default there."""

from __future__ import annotations

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

from .endpoint import wsgi
from .terms import TERMS


def query() -> None:
    with poolguard.connection() as conn:
        conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = PoolGuardMiddleware(wsgi(query))
