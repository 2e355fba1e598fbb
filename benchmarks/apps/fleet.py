"""The application of a fleet's hosts. Every answer names its worker, and what went wrong.

``/SECONDS`` is one query. ``/reset/SECONDS``, ``/unlock/SECONDS`` and ``/discard/SECONDS`` have let
go of all locks of its session before: by ``DISCARD ALL``, by PostgreSQL's function, and by both.
``/status`` tells what the guard has, and ``/threads`` the kernel's numbers of this worker's
threads.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


LETS_GO: Mapping[str, Sequence[bytes]] = {
    "reset": (b"DISCARD ALL",),
    "unlock": (b"SELECT pg_advisory_unlock_all()",),
    "discard": (b"DISCARD ALL", b"SELECT pg_advisory_unlock_all()"),
}


def query(seconds: float, before: Sequence[bytes]) -> None:
    """One query in a transaction of its own, and others without one *before* it."""
    with poolguard.connection() as conn:
        if before:
            conn.autocommit = True
            for each in before:
                conn.execute(each)
            conn.autocommit = False
        conn.execute("SELECT pg_sleep(%s)", [seconds], prepare=False)  # DISCARD ALL drops it


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """502: the session was lost; 503: there was no connection."""
    path = environ["PATH_INFO"].strip("/")
    line, body = "200 OK", ""
    if path == "status":
        body = json.dumps(poolguard.guard().status())
    elif path == "threads":
        threads = {each.name: each.native_id for each in threading.enumerate()}
        body = json.dumps({"pid": os.getpid(), "threads": threads})
    elif path != "health":
        what, _, seconds = path.rpartition("/")
        try:
            query(float(seconds), LETS_GO.get(what, ()))
        except psycopg.Error as error:
            # A pool's errors are psycopg's, too.
            ours = isinstance(error, poolguard.PoolguardError)
            line = "503 No connection" if ours else "502 Lost"
            body = f"{type(error).__name__}: {error}"
    start_response(line, [("Content-Type", "text/plain")])
    return [body.encode()]


_guarded = PoolGuardMiddleware(application)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The middleware's own answers name the worker, too."""

    def named(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        return start_response(status, [*headers, ("X-Worker", str(os.getpid()))], *more)

    return _guarded(environ, named)
