"""A WSGI application as SQLAlchemy's users write it: engines at the top, a session in each request.

Nothing in it is poolguard's but the plugin's name, and what a test wants to see.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, exc, text
from sqlalchemy.orm import sessionmaker

from poolguard.runtime.lookup import guards

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PID = text("SELECT pg_backend_pid()")
OPTIONS: dict[str, Any] = json.loads(os.environ.get("TEST_ENGINE", "{}"))
engine = create_engine(
    os.environ["TEST_URL"], plugins=["poolguard"], pool_size=1, max_overflow=0, **OPTIONS
)
Session = sessionmaker(engine)
connects: list[int] = []


@event.listens_for(engine, "connect")
def connected(connection: Any, record: Any) -> None:
    connects.append(connection.info.backend_pid)


more = os.environ.get("TEST_OTHERS", "").split()
others = [create_engine(url, plugins=["poolguard"]) for url in more]


def boot() -> dict[str, Any]:
    """What was done before the first request."""
    pools = {each.name: each.status() for each in guards()}
    return {
        "connects": len(set(connects)),
        "asked": getattr(engine.dialect, "server_version_info", None) is not None,
        "pools": pools,
        "pool": type(engine.pool).__name__,
        "pid": os.getpid(),
    }


def query() -> int:
    with Session() as session:
        return int(session.scalar(PID) or 0)


def invalidate() -> list[int]:
    """A connection that a request has found of no use, and those that the next ones have."""
    with Session() as session:
        bad = int(session.scalar(PID) or 0)
        session.connection().invalidate()
    return [bad, *(query() for _ in range(8))]


def dispose() -> list[int]:
    before = query()
    engine.dispose()
    engine.dispose(close=False)
    return [before, query()]


def busy() -> int:
    """A request whose pool has nothing left, and which handles no error."""
    with ExitStack() as stack:
        while True:
            stack.enter_context(engine.connect())


def fill() -> list[int]:
    """All that there is, of each engine."""
    counts = []
    with ExitStack() as stack:
        for each in (engine, *others):
            n = 0
            try:
                while True:
                    stack.enter_context(each.connect())
                    n += 1
            except exc.TimeoutError:
                counts.append(n)
    return counts


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


PATHS: dict[str, Callable[[], Any]] = {
    each.__name__: each for each in (boot, query, invalidate, dispose, busy, fill, threads)
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps(PATHS[environ["PATH_INFO"].strip("/")]()).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
