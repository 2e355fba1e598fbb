"""The application that the files beside it deploy: one query per request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def now(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the server's time."""
    with poolguard.connection() as conn:
        [row] = conn.execute("SELECT now()::text").fetchall()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [row[0].encode() + b"\n"]


app = PoolGuardMiddleware(now)
