"""The application of the budget's tests: a query as long as the path says, and the worker's pid."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import psycopg

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/SECONDS``: one query; ``/status``: what the guard has. 502: the connection was killed."""
    path = environ["PATH_INFO"].strip("/")
    line, body = "200 OK", ""
    if path == "status":
        body = json.dumps(poolguard.guard().status())
    else:
        try:
            with poolguard.connection() as conn:
                conn.execute("SELECT pg_sleep(%s)", [float(path)])
        except psycopg.OperationalError as error:
            # A pool's error is one of these, too, and none that may happen here.
            killed = not isinstance(error, poolguard.PoolguardError)
            line, body = ("502 Killed" if killed else "503 No connection"), repr(error)
    headers = [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))]
    start_response(line, headers)
    return [body.encode()]


app = PoolGuardMiddleware(application)
