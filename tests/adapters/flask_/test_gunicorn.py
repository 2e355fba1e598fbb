"""Flask under real gunicorn: a factory, in each class of worker that runs WSGI."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from poolguard.lab.janitor import Janitor
from tests.doors.conftest import Serve
from tests.doors.server import Door, Server
from tests.support import until

from ..conftest import Things

APP = "tests.adapters.flask_.shop:create_app()"
SYNC, GTHREAD, GEVENT = Door("sync", APP), Door("gthread", APP, threads=4), Door("gevent", APP)


@pytest.mark.parametrize("door", [SYNC, GTHREAD, GEVENT], ids=str)
def test_requests_share_a_pool_and_leave_nothing_lent(
    serve: Serve, dsn: str, things: Things, door: Door
) -> None:
    server = serve(door, dsn, TEST_AT_IMPORT="1")
    answers = [server.get("/query").body for _ in range(3)]
    assert all(each["pooled"] for each in answers)
    assert len({each["backend"] for each in answers}) <= 2  # which is the budget
    streamed = server.get("/stream").body.decode().split()
    assert len(streamed) == 2
    assert len(set(streamed)) == 1
    assert server.get("/add?name=a").status == 200
    assert server.get("/add?name=b&fail=").status == 500
    assert server.get("/add-twice").status == 500  # its commit has failed
    assert things() == ["a"]
    busy = server.get("/starve")
    assert (busy.status, busy.headers["Retry-After"]) == (503, "1")
    until(lambda: server.status()["used"] == 0)
    assert server.status()["mode"] == "sync"
    assert "poolguard WARNING" not in server.said()


def test_an_overload_is_answered_where_errors_are_passed_on(serve: Serve, dsn: str) -> None:
    """As in debug mode: Flask lets the server see them."""
    answer = serve(SYNC, dsn, TEST_PROPAGATE="1").get("/starve")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


def test_a_preloaded_application_has_a_pool_in_each_worker(serve: Serve, dsn: str) -> None:
    """And none in the master, which has imported it."""
    server = serve(SYNC, dsn, TEST_PRELOAD="1", TEST_AT_IMPORT="1")
    answer = server.get("/query").body
    assert answer["pooled"]
    assert answer["pid"] != server.process.pid
    assert "opened in the gunicorn master" not in server.said()


def test_gunicorn_without_the_hooks_is_told_of(janitor: Janitor, dsn: str, tmp_path: Path) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("control_socket_disable = True")
    server = Server(SYNC, {}, janitor=janitor, folder=tmp_path, dsn=dsn, config=str(config))
    with closing(server):
        for _ in range(2):
            assert not server.get("/query").body["pooled"]
        assert len(server.lines("without poolguard's hooks")) == 1
