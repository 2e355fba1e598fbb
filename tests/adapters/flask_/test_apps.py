"""Applications: factories, one for each test, several in a process, with settings of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from flask import Flask

import poolguard
from poolguard.budget.plan import Workplace
from poolguard.errors import SettingsError
from poolguard.flask import PoolGuard
from poolguard.worker import registry
from poolguard.worker.context import Role, WorkerContext
from poolguard.wsgi import PoolGuardMiddleware
from tests.support import until

from .conftest import backend


def made(db: PoolGuard, **guard: Any) -> Flask:
    """An application as a factory makes it."""
    app = Flask("shop")
    app.config["POOLGUARD"] = guard
    db.init_app(app)
    app.get("/")(lambda: str(backend(db)))
    return app


def application_name(app: Flask, db: PoolGuard) -> str:
    with app.app_context():
        found = db.connection.info.parameter_status("application_name")
    assert found is not None
    return found


# -- the middleware ----------------------------------------------------------------------------


def test_an_application_is_wrapped_once(dsn: str) -> None:
    """And the hooks see it."""
    app = Flask("shop")
    theirs = app.wsgi_app
    db = PoolGuard(app)
    db.init_app(app)
    PoolGuard(app, guard=poolguard.Guard(dsn, name="reports"))
    assert isinstance(app.wsgi_app, PoolGuardMiddleware)
    assert app.wsgi_app.app == theirs
    assert registry.wrapped
    assert len(app.teardown_appcontext_funcs) == 2


def test_one_that_wears_the_middleware_already_is_left_alone() -> None:
    app = Flask("shop")
    app.wsgi_app = theirs = PoolGuardMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    PoolGuard(app)
    assert app.wsgi_app is theirs


# -- outside of gunicorn -----------------------------------------------------------------------


def test_an_application_for_each_test_leaves_nothing(
    dsn: str, backends: Callable[[str], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """No guard that the next one would meet, no connection, and no word of what is missing."""
    db = PoolGuard()
    for name in ("first", "second"):
        app = made(db, dsn=dsn, kwargs={"application_name": name})
        assert application_name(app, db) == name
        assert app.test_client().get("/").status_code == 200
        until(lambda name=name: not backends(name))  # type: ignore[misc]
    assert registry.guards() == []
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_many_requests_over_plain_connections_are_no_mistake(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A door says that nothing is acquired after 200 of them."""
    db = PoolGuard()
    client = made(db, dsn=dsn).test_client()
    poolguard.Guard(dsn)
    assert client.get("/").status_code == 200
    for _ in range(210):
        client.get("/nowhere")
    assert "does the application still connect by itself" not in caplog.text


def test_the_environments_database_is_the_default(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that of the moment, which a test may have changed."""
    app = Flask("shop")
    db = PoolGuard(app)
    for name in ("first", "second"):
        dsn = psycopg.conninfo.make_conninfo(dsn, application_name=name)
        monkeypatch.setenv("DATABASE_URL", dsn)
        assert application_name(app, db) == name


def test_a_guard_that_was_opened_on_purpose_is_used(dsn: str) -> None:
    db = PoolGuard()
    config: dict[str, Any] = {"dsn": dsn, "floor": 1, "budget": 2}
    app, other = made(db, **config), made(db, **{**config, "floor": 2})
    with poolguard.Guard(**config) as guard:
        with app.app_context():
            assert db.guard is guard
            assert db.connection
            assert guard.status()["used"] == 1
        with other.app_context():
            assert db.guard is not guard
            assert not db.guard.opened
            assert db.connection


def test_its_own_guard_can_be_opened(dsn: str) -> None:
    """As in a script that has much to do."""
    db = PoolGuard()
    app = made(db, dsn=dsn, floor=1)
    with app.app_context(), db.guard as guard:
        assert guard is poolguard.guard()
        with app.app_context():
            assert db.connection
            assert guard.status()["used"] == 1


# -- in gunicorn -------------------------------------------------------------------------------


def become(role: Role) -> None:
    """As the hooks say it."""
    registry.become(WorkerContext(told=Workplace(1, 1, "sync"), role=role))


@pytest.mark.parametrize("preload", [False, True])
def test_a_worker_makes_the_guard_and_opens_it(dsn: str, preload: bool) -> None:
    become("master" if preload else "worker")
    db = PoolGuard()
    app = made(db, dsn=dsn, floor=1)
    if preload:
        assert registry.guards() == []
        with app.app_context():  # the master asks the database something, as the app is imported
            assert not db.guard.opened
            assert db.connection
        become("worker")
    with app.app_context():
        assert db.guard is poolguard.guard()
        assert db.guard.opened != preload  # otherwise the hooks are about to


def test_a_worker_that_has_no_pool_yet_may_ask_the_database(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of gevent's class, which imports the application before the hooks open the pools."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    become("worker")
    app = Flask("shop")
    db = PoolGuard(app)
    with app.app_context():
        assert db.connection
        assert not db.guard.opened


def test_in_a_worker_two_applications_share_a_guard(dsn: str) -> None:
    become("worker")
    one, two = PoolGuard(), PoolGuard()
    apps = [made(each, dsn=dsn, floor=1) for each in (one, two)]
    with apps[0].app_context():
        first = one.guard
    with apps[1].app_context():
        assert two.guard is first


@pytest.mark.parametrize("config", [{"flor": 4}, ["dsn"], "postgresql://u:secret@h/n"])
def test_a_mistake_ends_a_worker_and_is_raised_elsewhere(config: Any) -> None:
    app = Flask("shop")
    app.config["POOLGUARD"] = config
    db = PoolGuard(app)
    with app.app_context(), pytest.raises(SettingsError) as caught:
        assert db.connection
    assert "secret" not in str(caught.value)
    become("worker")
    PoolGuard(app)
    assert str(registry.complaint()) == str(caught.value)


# -- what it says ------------------------------------------------------------------------------


def test_an_application_that_it_does_not_know_is_an_error() -> None:
    with Flask("shop").app_context(), pytest.raises(RuntimeError, match=r"call init_app\(app\)"):
        assert PoolGuard().connection


def test_its_repr(dsn: str) -> None:
    assert repr(PoolGuard()) == "<PoolGuard for the guard of each application>"
    assert repr(PoolGuard(guard=poolguard.Guard(dsn))).startswith("<PoolGuard for <Guard 'default'")
