"""The WSGI test application. Its first path segment says what a request does with the pool."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

from ..support import until

for variable in ("TEST_PRELOAD", "TEST_BEGINS_WITH"):
    if variable in os.environ:
        import_module(os.environ[variable])
if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


SLEEP = float(os.environ.get("TEST_SLEEP", "1"))


def status() -> dict[str, Any]:
    """The guard's status: no acquire."""
    return poolguard.guard().status()


def query() -> int:
    """One acquire, one query; the backend that answered it."""
    with poolguard.connection() as conn:
        row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def sleep() -> None:
    """A request that is under way for a while."""
    with poolguard.connection() as conn:
        conn.execute("SELECT pg_sleep(%s)", [SLEEP])


def create() -> int:
    """All connections of the floor are lent: this request has to have one opened."""
    with occupied(poolguard.guard().status()["floor"], lambda: False):
        return query()


def wait() -> int:
    """All connections that may be are lent: this request waits until they are returned."""
    with occupied(poolguard.guard().status()["max_size"], lambda: bool(status()["waiting"])):
        return query()


def starve() -> int:
    """All connections that may be are lent, and nobody returns one: this request finds none."""
    with occupied(poolguard.guard().status()["max_size"], lambda: False):
        return query()


LEAKED: list[Any] = []


def leak() -> None:
    """A request that does not return what it has acquired."""
    pool: Any = poolguard.guard().pool
    LEAKED.append(pool.getconn())


@contextmanager
def occupied(n: int, enough: Callable[[], bool]) -> Iterator[None]:
    """Another thread, which is no request, holds *n* connections: to the end, or till *enough*."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for _ in range(n):
                stack.enter_context(poolguard.connection())
            held.set()
            until(lambda: over.is_set() or enough())

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        over.set()
        thread.join()


def watched() -> dict[str, Any]:
    """What the requests so far have paid for."""
    from .watched import report

    return report()


PATHS: dict[str, Callable[[], Any]] = {
    "status": status,
    "query": query,
    "sleep": sleep,
    "create": create,
    "wait": wait,
    "starve": starve,
    "leak": leak,
    "watched": watched,
    "role": poolguard.role,
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer what the path asks for, as JSON; 503 where the pool has no connection to give, but
    for the path whose error nobody handles."""
    line = "200 OK"
    path = environ["PATH_INFO"].split("/")[1]
    try:
        body = PATHS[path]()
    except Exception as error:  # poolguard's and psycopg_pool's
        if path == "starve":
            raise
        line, body = "503 Service Unavailable", repr(error)
    start_response(line, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


if "TEST_ROLES" in os.environ:
    with open(os.environ["TEST_ROLES"], "a") as roles:
        print(poolguard.role(), file=roles)
bare = "TEST_BARE" in os.environ
app: WSGIApplication = application if bare else PoolGuardMiddleware(application)
if "TEST_INSTRUMENTED" in os.environ:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    app = OpenTelemetryMiddleware(app)

if "tests.doors.watched" in sys.modules:
    from .watched import begin

    begin()
