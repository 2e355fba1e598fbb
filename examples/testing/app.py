"""A WSGI application whose tests need no PostgreSQL: they stand beside it, in test_app.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import psycopg

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def name_of(user: int) -> str | None:
    """The name of a user; None where there is no such user."""
    with poolguard.connection() as conn:
        row = conn.execute("SELECT name FROM users WHERE id = %s", (user,)).fetchone()
    return None if row is None else str(row[0])


def add(name: str) -> bool:
    """Whether the name was free, and is a user's from now on."""
    try:
        with poolguard.connection() as conn:
            conn.execute("INSERT INTO users (name) VALUES (%s)", (name,))
    except psycopg.errors.UniqueViolation:
        return False
    return True


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greet the user whose number is the path."""
    name = name_of(int(environ["PATH_INFO"].strip("/")))
    status = "404 Not Found" if name is None else "200 OK"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps({"hello": name}).encode()]


app: WSGIApplication = PoolGuardMiddleware(hello)
