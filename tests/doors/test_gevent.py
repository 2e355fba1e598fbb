"""gevent workers: nothing of psycopg before the patch, and no query that stops the others."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import psycopg
import pytest

from ..support import until
from .conftest import Serve
from .server import GEVENT, SYNC


def test_queries_of_one_worker_run_at_the_same_time(serve: Serve, dsn: str) -> None:
    """Four that take a second each; imported before the patch, psycopg would do one by one."""
    server = serve(GEVENT, dsn, POOLGUARD_BUDGET="8", POOLGUARD_FLOOR="4")
    until(lambda: server.status()["ready"])
    began = monotonic()
    answers = server.get_together(*["/sleep"] * 4)
    assert [answer.status for answer in answers] == [200] * 4
    assert monotonic() - began < 2
    assert server.status()["acquires"] == {"acquired": 4}


def test_sockets_are_watched_though_the_patch_hides_epoll(
    serve: Serve, dsn: str, admin: psycopg.Connection
) -> None:
    """The next verification would be in 100 s."""
    server = serve(
        GEVENT, dsn, POOLGUARD_BUDGET="8", POOLGUARD_FLOOR="2", POOLGUARD_CHECK_INTERVAL="100"
    )
    until(lambda: server.status()["ready"])
    admin.execute("SELECT pg_terminate_backend(%s)", [server.get("/query").body])
    until(lambda: server.status()["created"] == {"warmup": 2, "replace": 1})
    assert server.status()["closed"] == {"lost": 1}
    assert not server.lines("no epoll")


@pytest.mark.parametrize("how", ["TEST_IMPORTS", "TEST_PRELOAD"])
def test_psycopg_before_the_patch_is_refused_with_the_reason(
    how: str, serve: Serve, dsn: str
) -> None:
    """Imported by gunicorn.conf.py, or by the application under preload_app."""
    server = serve(GEVENT, dsn, **{how: "psycopg"})
    assert server.wait() == 3
    (line,) = server.lines("before this gevent worker was patched")
    assert "ERROR" in line
    assert "psycopg was imported" in line
    assert "monkey.patch_all()" in line
    assert not server.lines("Traceback")


@pytest.mark.parametrize("how", ["TEST_IMPORTS", "TEST_PRELOAD"])
def test_psycopg_after_a_patch_of_the_users_own_is_welcome(
    how: str, serve: Serve, dsn: str
) -> None:
    server = serve(GEVENT, dsn, TEST_PATCHES="1", **{how: "psycopg"})
    until(lambda: server.status()["ready"])
    began = monotonic()
    server.get_together(*["/sleep"] * 3)
    assert monotonic() - began < 2


def test_another_worker_class_may_import_it_when_it_likes(serve: Serve, dsn: str) -> None:
    server = serve(SYNC, dsn, TEST_IMPORTS="psycopg_pool")
    until(lambda: server.status()["ready"])


def test_the_hooks_import_nothing_of_psycopg_before_the_patch(
    serve: Serve, dsn: str, tmp_path: Path
) -> None:
    """As the worker itself tells, in the moment in which it patches."""
    told = tmp_path / "told"
    server = serve(GEVENT, dsn, TEST_TELL_AT_PATCH=str(told))
    until(lambda: server.status()["ready"])
    assert told.read_text() == "[]"
