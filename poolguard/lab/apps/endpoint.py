"""The application's one endpoint, the same for both contenders: a request is one query."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["endpoint"]

QUERY_SECONDS = float(os.environ["DEMO_QUERY_SECONDS"])


def endpoint(
    connection: Callable[[], AbstractContextManager[Any]], created: Callable[[Any], bool]
) -> WSGIApplication:
    """The WSGI application over a pool.

    :param connection: a connection of the pool, as a context manager.
    :param created: whether this connection was opened after the request asked for one.
    """

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/health":
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        with connection() as conn:
            told = "created" if created(conn) else "ready"
            conn.execute("SELECT pg_sleep(%s)", [QUERY_SECONDS])
        start_response("200 OK", [("Content-Length", "3"), ("X-Connection", told)])
        return [b"ok\n"]

    return app
