"""A WSGI application with a quick path and a slow one: ``/`` and ``/report``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the server's time, after 0.2 seconds of work in the server for a report."""
    seconds = 0.2 if environ["PATH_INFO"] == "/report" else 0
    with poolguard.connection() as conn:
        [row] = conn.execute("SELECT now()::text FROM pg_sleep(%s)", [seconds]).fetchall()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [row[0].encode() + b"\n"]


app = PoolGuardMiddleware(answer)
