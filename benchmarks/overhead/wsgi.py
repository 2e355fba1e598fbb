"""A WSGI request with one acquire: bare psycopg_pool, our pool alone, and pool and middleware.

The application takes a connection, gives it back and answers; it sends no query, in which the costs
would be lost. The server is a loop that calls it in the same thread. *bare* has a ConnectionPool of
as many connections as the guard's floor; *pool* asks ``poolguard.connection()``, without the
middleware; *ours* is the same application in the middleware. An instrumentation's server span,
where the state has one, is begun and ended around all of them, and counted in all of them: it is
the same, but for what poolguard adds to it or to its provider.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from psycopg_pool import ConnectionPool

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

from ..table import Table
from .frame import Stage, State, measure

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .tracing import Entry, Tracing

__all__ = ["contenders", "run"]

BODY = [b"done\n"]
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "5")]


def run(stage: Stage) -> Table:
    """Measure."""
    return measure(stage, "wsgi")


@contextmanager
def contenders(state: State, tracing: Tracing) -> Iterator[dict[str, Callable[[int], None]]]:
    """Who plays so many requests, with everything open and warm."""
    with poolguard.Guard() as guard:
        floor = guard.status()["floor"]
        with ConnectionPool(os.environ["DATABASE_URL"], min_size=floor, open=False) as pool:
            pool.wait()
            ours = _application(poolguard.connection)
            acts = {
                "bare": _served(_application(pool.connection), tracing.bare, state),
                "pool": _served(ours, tracing.bare, state),
                "ours": _served(PoolGuardMiddleware(ours), tracing.ours, state),
            }
            if tracing.recorded is not None:
                bare = _application(pool.connection, tracing.child)
                acts |= {
                    "unspanned": _served(_application(pool.connection), tracing.recorded, state),
                    "spanned": _served(bare, tracing.recorded, state),
                }
            yield acts


def _application(
    connection: Callable[[], AbstractContextManager[Any]], child: Entry | None = None
) -> WSGIApplication:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with connection():
            pass
        start_response("200 OK", HEADERS)
        return BODY

    def app_with_child(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert child is not None
        with child(), connection():
            pass
        start_response("200 OK", HEADERS)
        return BODY

    return app if child is None else app_with_child


def _served(app: WSGIApplication, entry: Entry, state: State) -> Callable[[int], None]:
    request: WSGIEnvironment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/17"}
    if state.traceparent is not None:
        request["HTTP_TRACEPARENT"] = state.traceparent

    def start_response(*_: object) -> Callable[[bytes], None]:
        return lambda _: None

    def serve(requests: int) -> None:
        for _ in range(requests):
            with entry():
                app(dict(request), start_response)

    return serve
