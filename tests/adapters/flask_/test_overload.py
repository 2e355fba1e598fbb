"""A request that finds no connection is answered with 503, however Flask handles its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg_pool
import pytest
from flask import Flask

import poolguard
from poolguard.flask import PoolGuard
from poolguard.util.rarely import Paced
from poolguard.worker import overload


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_pace", Paced(overload.SAID_EVERY))


@pytest.fixture
def app(dsn: str) -> Iterator[Flask]:
    """One whose pool has no connection left."""
    app = Flask("shop")
    timeouts: dict[str, Any] = {"acquire_timeout": 0.05, "check_timeout": 0.05}
    guard = poolguard.Guard(dsn, mode="sync", budget=1, floor=1, **timeouts)
    db = PoolGuard(app, guard=guard)
    app.get("/")(lambda: str(db.connection))
    with guard, guard.connection():
        yield app


def test_it_is_answered_with_503(app: Flask) -> None:
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_test_sees_the_error_itself(app: Flask) -> None:
    """As every other that nobody handles."""
    app.testing = True
    with pytest.raises(psycopg_pool.PoolTimeout):
        app.test_client().get("/")


def test_the_applications_page_for_errors_is_shown(app: Flask) -> None:
    app.errorhandler(500)(lambda _: ("our page", 500))
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.text) == (503, "our page")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("kind", [psycopg_pool.PoolTimeout, poolguard.PoolguardError, Exception])
def test_the_applications_handler_goes_first(app: Flask, kind: type[Exception]) -> None:
    app.errorhandler(kind)(lambda _: ("come back", 429))
    assert app.test_client().get("/").status_code == 429


def test_requests_too_many_are_a_line_in_the_log(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a traceback each."""
    for _ in range(3):
        app.test_client().get("/")
    assert [each.levelname for each in caplog.records if not each.args] == []
    [said] = [each.getMessage() for each in caplog.records if "503" in each.getMessage()]
    assert said.startswith("poolguard: GET / was answered with 503: ")
    assert "Traceback" not in caplog.text


def test_other_errors_are_logged_as_ever(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A pool of the application's own is none of poolguard's, and is answered with 500."""

    @app.get("/other")
    def other() -> str:
        raise psycopg_pool.PoolTimeout

    assert app.test_client().get("/other").status_code == 500
    assert "Traceback" in caplog.text
