"""The tests of app.py: ``pytest`` in this folder runs them, and no server does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import psycopg
import pytest
from app import add, app, name_of  # type: ignore[import-not-found]

from poolguard.testing import FakedGuard, fake

NAME = "SELECT name FROM users WHERE id = %s"
ADD = "INSERT INTO users (name) VALUES (%s)"


@pytest.fixture
def db() -> Iterator[FakedGuard]:
    """What stands for the database."""
    with fake(results={NAME: [("Ann",)], ADD: 1}, acquire_timeout=0.05) as db:
        yield db


def get(path: str) -> tuple[str, dict[str, str], Any]:
    """Status, headers and body of a request to the application."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    said: list[Any] = []
    body = b"".join(app(environ, lambda status, headers, *_: said.extend((status, dict(headers)))))
    return said[-2], said[-1], body


def test_a_user_is_greeted(db: FakedGuard) -> None:
    status, _, body = get("/7")
    assert (status, json.loads(body)) == ("200 OK", {"hello": "Ann"})
    assert db.queries == [(NAME, (7,))]
    assert db.events.outcomes == ["acquired"]


def test_nobody_is_not_found(db: FakedGuard) -> None:
    db.on(NAME, [])
    assert name_of(8) is None
    assert get("/8")[0] == "404 Not Found"


def test_a_name_that_is_taken_is_rolled_back(db: FakedGuard) -> None:
    db.on(ADD, 1, psycopg.errors.UniqueViolation("duplicate key value"))
    assert [add("Ann"), add("Ann")] == [True, False]
    assert (db.commits, db.rollbacks) == (1, 1)


def test_answers_may_depend_on_the_parameters(db: FakedGuard) -> None:
    names = {7: "Ann", 8: "Bo"}
    db.on(NAME, lambda user: [(names[user],)] if user in names else [])
    assert [name_of(7), name_of(8), name_of(9)] == ["Ann", "Bo", None]


def test_under_overload_clients_are_told_when_to_try_again(db: FakedGuard) -> None:
    with db.exhausted():
        status, headers, _ = get("/7")
    assert status == "503 Service Unavailable"
    assert headers["Retry-After"] == "1"
    assert db.events.outcomes == ["timeout"]
    assert get("/7")[0] == "200 OK"


def test_it_goes_on_after_the_database_was_restarted(db: FakedGuard) -> None:
    db.kill()
    db.events.wait_for(lambda: db.events.closes.count("lost") == 4)
    assert get("/7")[0] == "200 OK"
