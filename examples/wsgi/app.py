"""A WSGI application that borrows connections from its worker's warm pool."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def now(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the server's time, and with what the pool did so far."""
    with poolguard.connection() as conn:
        row = conn.execute("SELECT now()::text").fetchone()
    body = json.dumps({"now": row[0], "pool": poolguard.guard().status()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


app = PoolGuardMiddleware(now)
