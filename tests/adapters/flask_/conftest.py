"""What the tests of Flask's extension have in common: real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

import poolguard
from poolguard.flask import PoolGuard
from tests.doors.conftest import backends, janitor, serve

__all__ = ["add", "backend", "backends", "janitor", "serve", "used"]


@pytest.fixture(params=["pooled", "plain"])
def db(request: pytest.FixtureRequest, dsn: str) -> Iterator[PoolGuard]:
    """The extension, as it is where its guard is open, and as it is elsewhere."""
    with ExitStack() as stack:
        guard = poolguard.Guard(dsn, mode="sync", budget=4, floor=1)
        if request.param == "pooled":
            stack.enter_context(guard)
        yield PoolGuard(guard=guard)


@pytest.fixture
def app(db: PoolGuard) -> Flask:
    """An application without a view."""
    app = Flask("shop")
    db.init_app(app)
    return app


def add(db: PoolGuard, name: str) -> None:
    """Write a thing, over the current context's connection."""
    db.connection.execute("INSERT INTO things VALUES (%s)", [name])


def backend(db: PoolGuard) -> int:
    """The server's process behind the current context's connection."""
    row: Any = db.connection.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0])


def used(db: PoolGuard) -> int:
    """How many connections are lent now; 0 where there is no pool."""
    found: int = db._given.status().get("used", 0) if db._given is not None else 0
    return found
