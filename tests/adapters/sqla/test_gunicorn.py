"""Engines in real workers of gunicorn's, whose applications know of poolguard by one word."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from poolguard.lab.postgres import PrivatePostgres
from tests.doors.conftest import Serve
from tests.doors.server import ASGI, GEVENT, GTHREAD, UVICORN, Door, Server
from tests.support import until

from .conftest import url_of

WSGI_APP, ASGI_APP = "tests.adapters.sqla.wsgi_app:app", "tests.adapters.sqla.asgi_app:app"
DOORS = [
    replace(GTHREAD, app=WSGI_APP),
    pytest.param(replace(GEVENT, app=WSGI_APP), marks=pytest.mark.long),
    replace(ASGI, app=ASGI_APP),
    pytest.param(replace(UVICORN, app=ASGI_APP), marks=pytest.mark.long),
]
THREADS = replace(GTHREAD, app=WSGI_APP)
ENVIRON = {"POOLGUARD_FLOOR": "3", "POOLGUARD_BUDGET": "5", "POOLGUARD_ACQUIRE_TIMEOUT": "0.5"}

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve, postgres: PrivatePostgres) -> Start:
    """Starts an application on an engine for the database of ``DATABASE_URL``; libpq's name for
    what is connected is the application's."""

    def start(door: Door, name: str = "sqla", **environ: str) -> Server:
        dsn = postgres.conninfo(application_name=name)
        url = url_of(dsn, "psycopg").render_as_string(hide_password=False)
        return serve(door, dsn, **{"TEST_URL": url, **ENVIRON, **environ})

    return start


def boot(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/boot").body
    return found


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_before_its_first_request_all_is_asked_and_all_are_dressed(
    door: Door, start: Start
) -> None:
    """Traps 2 and 7: it is the hooks' guard that the engine goes on with, in each kind of worker;
    an application's lifespan finds it warm."""
    server = start(door)
    said = boot(server)
    assert said["asked"]
    assert [*said["pools"]] == ["default"]
    assert said["connects"] == said["pools"]["default"]["floor"] == 3
    assert said["pools"]["default"]["created"] == {"warmup": 3}
    assert said["pool"] == ("AsyncGuardPool" if door.is_async else "GuardPool")
    assert {server.get("/query").status for _ in range(3)} == {200}
    assert server.stop()[0] == 0
    assert server.lines("Traceback") == []
    waits = re.findall(r"waited for (\d+) ms", server.log())
    assert all(int(each) < 5000 for each in waits), "it did not see that the jobs were done"


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_one_that_is_invalidated_is_not_served_again(door: Door, start: Start) -> None:
    bad, *others = start(door).get("/invalidate").body
    assert bad not in others


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_a_request_without_a_connection_is_answered_with_503(door: Door, start: Start) -> None:
    """By the middleware that the hooks put there, though SQLAlchemy wraps the pool's error."""
    server = start(door)
    answer = server.get("/busy")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    until(lambda: boot(server)["pools"]["default"]["used"] == 0)
    assert server.get("/query").status == 200


def test_an_engine_of_the_master_is_pooled_in_each_worker_and_after_a_reload(
    start: Start, backends: Callable[[str], list[int]]
) -> None:
    """``preload_app``: the master makes the engine, and no connection."""
    server = start(THREADS, "preloaded", TEST_PRELOAD="1", TEST_WORKERS="2", POOLGUARD_FLOOR="2")
    said = boot(server)
    assert (said["connects"], said["asked"]) == (said["pools"]["default"]["floor"], True)
    assert set(server.get("/dispose").body) <= set(backends("preloaded"))
    first = said["pid"]
    server.process.send_signal(signal.SIGHUP)
    until(lambda: boot(server)["pid"] != first, within=30)
    assert server.get("/query").status == 200
    assert len(backends("preloaded")) <= 5
    assert server.stop()[0] == 0
    until(lambda: backends("preloaded") == [])


def test_what_the_engine_gives_the_guard_overrules_the_environment(start: Start) -> None:
    options = json.dumps({"poolguard": {"floor": 2, "name": "mine"}})
    server = start(THREADS, TEST_ENGINE=options)
    pools = boot(server)["pools"]
    assert pools["mine"]["floor"] == 2
    assert server.lines("pool_size, max_overflow are left to the guard")


def test_wrong_settings_end_the_boot_with_one_line(start: Start) -> None:
    server = start(THREADS, TEST_ENGINE=json.dumps({"poolguard": {"floor": 9, "max_size": 2}}))
    assert server.wait() != 0
    assert server.lines("keyword floor=9")


def test_two_databases_of_one_server_share_its_capacity(serve: Serve) -> None:
    """Trap 17: two engines plan one budget."""
    with PrivatePostgres(settings={"max_connections": "30"}) as server:
        with server.connect(autocommit=True) as admin:
            admin.execute("CREATE DATABASE other")
        urls = [
            url_of(server.conninfo(dbname=name)).render_as_string(hide_password=False)
            for name in ("postgres", "other")
        ]
        environ = {"TEST_URL": urls[0], "TEST_OTHERS": urls[1], "POOLGUARD_ACQUIRE_TIMEOUT": "1"}
        app = serve(THREADS, server.dsn, POOLGUARD_FLOOR="2", **environ)
        pools = boot(app)["pools"]
        assert [*pools] == ["default", "other"]
        budget = pools["default"]["budget"]["budget"]
        assert pools["other"]["budget"]["budget"] == budget < 30
        assert sum(app.get("/fill").body) <= budget
        assert app.stop()[0] == 0
