"""The project under real gunicorn."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poolguard.lab.postgres import PrivatePostgres

from ...doors.server import Door, Server
from ...support import becomes, until
from .conftest import PACKAGE, Describe, ServeProject

WSGI, ASGI_APP = f"{PACKAGE}.wsgi:application", f"{PACKAGE}.asgi:application"
SYNC = Door("sync", WSGI)
GTHREAD = Door("gthread", WSGI, threads=4)
GEVENT = Door("gevent", WSGI)
ASGI = Door("asgi", ASGI_APP, since=24)
UVICORN = Door("uvicorn_worker.UvicornWorker", ASGI_APP)
LATER = pytest.param(UVICORN, marks=pytest.mark.long)
DOORS = [SYNC, GTHREAD, GEVENT, ASGI, LATER]

Backends = Callable[[str], list[int]]


def guard_of(server: Server, name: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = server.get("/status").body[name]
    return found


def logged_by(server: PrivatePostgres, pids: list[int], since: int) -> list[str]:
    """What these sessions were asked, after so many characters of the log."""
    asked = re.compile(rf"\[({'|'.join(map(str, pids))})\] LOG:  (?:statement|execute [^:]*): (.*)")
    return [
        found[2] for line in server.read_log()[since:].splitlines() if (found := asked.search(line))
    ]


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_the_first_request_opens_nothing_and_asks_nothing_of_its_own(
    door: Door,
    serve_project: ServeProject,
    describe: Describe,
    postgres: PrivatePostgres,
    backends: Backends,
) -> None:
    """All that a new connection needs was said to it before the worker accepted."""
    application = f"first-{door}"
    options = {
        "application_name": application,
        "options": "-c log_statement=all",
        "poolguard": {"floor": 3, "budget": 6},
    }
    server = serve_project(door, {"default": describe(options, TIME_ZONE="Asia/Tokyo")})
    assert guard_of(server)["idle"] >= 3
    before = backends(application)
    known = len(postgres.read_log())
    first = server.get("/books").body
    assert (first["books"], first["zone"], first["pool"]) == (5, "Asia/Tokyo", "default")
    assert first["backend"] in before
    asked = logged_by(postgres, before, known)
    assert [each.split()[0] for each in asked] == ["BEGIN", "SELECT", "COMMIT", "SELECT"]
    assert guard_of(server)["used"] == 0


def url_of(described: dict[str, Any]) -> str:
    """The same database, and what its options say to libpq."""
    words = {"NAME": "dbname", "USER": "user", "PASSWORD": "password"}
    words |= {"HOST": "host", "PORT": "port"}
    said = {theirs: described[ours] for ours, theirs in words.items()}
    return make_conninfo(**said, **described["OPTIONS"])


@pytest.mark.parametrize("is_first", [False, True], ids=["", "warm first"])
def test_a_worker_goes_on_with_the_guard_of_the_environment(
    is_first: bool,
    serve_project: ServeProject,
    describe: Describe,
    postgres: PrivatePostgres,
    backends: Backends,
) -> None:
    """Where DATABASE_URL is what the settings say. What was opened while the application was being
    imported knew nothing of Django, and is dressed before the worker serves."""
    options = {"application_name": "adopted", "options": "-c log_statement=all"}
    described = describe(options, TIME_ZONE="Asia/Tokyo")
    environ = {
        "DATABASE_URL": url_of(described),
        "POOLGUARD_BUDGET": "6",
        "POOLGUARD_FLOOR": "4",  # more is opened ahead where less than a worker's threads may use
        **({"TEST_WARM_FIRST": "1"} if is_first else {}),
    }
    server = serve_project(GTHREAD, {"default": described}, **environ)
    assert [*server.get("/status").body] == ["default"]
    before = backends("adopted")
    assert len(before) == 4
    known = len(postgres.read_log())
    assert {*server.get("/many?of=4").body["backends"]} == {*before}
    asked = logged_by(postgres, before, known)
    assert {each.split()[1] for each in asked} == {"current_user,"}
    first = server.get("/books").body
    assert (first["zone"], first["pool"]) == ("Asia/Tokyo", "default")
    assert "failed" not in server.said()


def test_the_guard_of_the_environment_gives_way_where_it_would_be_async(
    serve_project: ServeProject, describe: Describe, backends: Backends
) -> None:
    described = describe({"application_name": "sync-in-asgi"})
    server = serve_project(
        ASGI, {"default": described}, DATABASE_URL=url_of(described), POOLGUARD_FLOOR="2"
    )
    assert guard_of(server)["mode"] == "sync"
    assert server.get("/books").body["pool"] == "default"
    assert len(backends("sync-in-asgi")) == guard_of(server)["idle"]


def test_a_request_leaves_its_session_as_the_next_one_wants_it(
    serve_project: ServeProject, describe: Describe
) -> None:
    options = {"poolguard": {"floor": 1, "max_size": 1, "budget": 1}}
    server = serve_project(SYNC, {"default": describe(options)})
    left = server.get("/leave").body["backend"]
    found = server.get("/books").body
    assert found == {**found, "backend": left, "zone": "UTC", "books": 5}


@pytest.mark.parametrize("door", [GTHREAD, GEVENT], ids=str)
def test_a_body_that_is_streamed_borrows_until_it_ends(
    door: Door, serve_project: ServeProject, describe: Describe
) -> None:
    options = {"poolguard": {"floor": 2, "budget": 4}}
    server = serve_project(door, {"default": describe(options, ATOMIC_REQUESTS=True)})
    before = sum(guard_of(server)["acquires"].values())
    for answer in server.get_together(*["/books-streamed"] * 6):
        assert len(answer.body.splitlines()) == 5
    becomes(lambda: guard_of(server)["used"], 0)
    found = guard_of(server)
    assert sum(found["acquires"].values()) >= before + 6
    assert found["closed"] == {}, "it was left to nobody, and not returned"


@pytest.mark.parametrize("door", [ASGI, UVICORN], ids=str)
def test_an_asynchronous_view_borrows_from_the_sync_guard(
    door: Door, serve_project: ServeProject, describe: Describe
) -> None:
    server = serve_project(door, {"default": describe({"poolguard": {"floor": 2, "budget": 8}})})
    for answer in server.get_together(*["/books-async"] * 6):
        assert (answer.body["books"], answer.body["pool"]) == (5, "default")
    becomes(lambda: guard_of(server)["used"], 0)
    assert guard_of(server)["mode"] == "sync"


@pytest.mark.parametrize(
    "debug",
    [False, pytest.param(True, marks=pytest.mark.long)],
    ids=["debug off", "debug on"],
)
@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_an_overload_is_answered_with_503_and_no_traceback(
    door: Door, debug: bool, serve_project: ServeProject, describe: Describe
) -> None:
    """Django answers 500, of which the middleware around it makes a 503."""
    options = {"poolguard": {"floor": 1, "max_size": 2, "budget": 2, "acquire_timeout": 0.2}}
    environ = {"TEST_DEBUG": "1"} if debug else {}
    server = serve_project(
        door, {"default": describe({**options})}, POOLGUARD_CHECK_TIMEOUT="0.2", **environ
    )
    refused = server.get("/starve")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert server.get("/books").status == 200
    assert "Traceback" not in server.said()
    [line] = server.lines("was answered with 503")
    assert "GET /starve" in line
    # What fails of itself is told in full, in a request that was refused a connection before, too.
    for path, status, said in (
        ("/fail", 500, "of the application's own"),
        ("/starve?fail", 503, "after it was refused a connection"),
    ):
        assert server.get(path).status == status
        until(partial(server.lines, f"ValueError: {said}"))


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_two_databases_of_one_server_share_its_capacity(
    door: Door,
    serve_project: ServeProject,
    describe: Describe,
    postgres: PrivatePostgres,
    backends: Backends,
) -> None:
    """Each has a guard of its own; both together take no more than one budget."""
    name = "django_project_2"
    with postgres.connect(autocommit=True) as conn:
        if not conn.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
            conn.execute(f"CREATE DATABASE {name}")
    application = f"two-{door}"
    options = {"application_name": application, "poolguard": {"acquire_timeout": 1}}
    described = {"default": describe(options), "other": describe(options, NAME=name)}
    known = len(postgres.read_log())
    server = serve_project(door, described)
    found = server.get("/every").body
    assert [each["pool"] for each in found.values()] == ["default", "other"]
    [budget] = {each["budget"]["budget"] for each in server.get("/status").body.values()}
    of = budget // 2 + 5
    server.get_together(f"/many?of={of}", f"/many?of={of}&alias=other")
    assert budget - 10 < len(backends(application)) <= budget
    assert "too many clients" not in postgres.read_log()[known:]


def test_aliases_that_differ_in_nothing_share_a_guard(
    serve_project: ServeProject, describe: Describe
) -> None:
    options = {"poolguard": {"floor": 1, "budget": 6}}
    described = {
        "replica": describe(options),
        "default": describe(options),
        "reports": describe({**options, "assume_role": "pg_monitor"}),
    }
    server = serve_project(GTHREAD, described)
    found = server.get("/every").body
    assert {alias: each["pool"] for alias, each in found.items()} == {
        "replica": "default",
        "default": "default",
        "reports": "reports",
    }
    assert (found["default"]["user"], found["reports"]["user"]) == ("postgres", "pg_monitor")


@pytest.mark.parametrize("door", [GTHREAD, LATER], ids=str)
def test_a_master_that_preloads_the_project_opens_no_connection(
    door: Door, serve_project: ServeProject, describe: Describe, backends: Backends
) -> None:
    application = f"preload-{door}"
    options = {"application_name": application, "poolguard": {"floor": 2, "budget": 8}}
    server = serve_project(door, {"default": describe(options)}, TEST_PRELOAD="1", TEST_WORKERS="2")
    answers = server.get_together(*["/books"] * 8)
    assert {answer.body["pool"] for answer in answers} == {"default"}
    until(lambda: 4 <= len(backends(application)) <= 8)
    assert "opened in the gunicorn master" not in server.said()
    server.stop()
    assert backends(application) == []


def test_a_reload_brings_workers_with_guards_of_their_own(
    serve_project: ServeProject, describe: Describe, backends: Backends
) -> None:
    options = {"application_name": "reload", "poolguard": {"floor": 2, "budget": 8}}
    server = serve_project(GTHREAD, {"default": describe(options)})
    first = server.get("/books").body
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.get("/books").body["worker"] != first["worker"], within=30)
    assert server.get("/books").body["pool"] == "default"
    becomes(lambda: len(backends("reload")), 2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "persistent": ({"CONN_MAX_AGE": 60}, "CONN_MAX_AGE=60"),
    "persistent for ever": ({"CONN_MAX_AGE": None}, "CONN_MAX_AGE=None"),
    "a second pool": ({"options": {"pool": True}}, "OPTIONS['pool']"),
    "no dict": ({"options": {"poolguard": True}}, "it takes a dict of settings, no bool"),
    "unknown": ({"options": {"poolguard": {"min_size": 4}}}, "did you mean floor?"),
    "not configured": ({"NAME": ""}, "Please supply the NAME"),
}


@pytest.mark.parametrize(
    ("case", "preload"),
    [
        ("persistent", False),
        ("persistent", True),
        ("unknown", False),
        ("not configured", False),
        pytest.param("persistent for ever", False, marks=pytest.mark.long),
        pytest.param("a second pool", False, marks=pytest.mark.long),
        pytest.param("no dict", False, marks=pytest.mark.long),
        pytest.param("unknown", True, marks=pytest.mark.long),
    ],
)
def test_settings_that_cannot_work_end_the_boot_with_one_line(
    case: str, preload: bool, serve_project: ServeProject, describe: Describe
) -> None:
    """No server runs ``manage.py check``."""
    changes, said = WRONG[case]
    environ = {"TEST_PRELOAD": "1"} if preload else {}
    server = serve_project(SYNC, {"default": describe(**changes)}, **environ)
    assert server.wait() == 3
    [line] = server.lines("DATABASES[")
    assert said in line
    assert "Traceback" not in server.said()


def test_a_later_generation_with_wrong_settings_serves_without_connections(
    serve_project: ServeProject, describe: Describe, backends: Backends, tmp_path: Path
) -> None:
    """The service does not end by a reload; but nothing connects beside a budget."""
    described = {"default": describe({"application_name": "later", "poolguard": {"budget": 4}})}
    config = tmp_path / "conf.py"
    wrong = {"default": {**described["default"], "CONN_MAX_AGE": 60}}
    env = tmp_path / "databases"
    env.write_text(json.dumps(described))
    config.write_text(
        "import os, poolguard.gunicorn\n"
        f"os.environ['TEST_DATABASES'] = open({str(env)!r}).read()\n"
        "control_socket_disable = True\n"
        "poolguard.gunicorn.install(globals())\n"
    )
    server = serve_project(SYNC, described, config=str(config))
    first = server.get("/books").body["worker"]
    env.write_text(json.dumps(wrong))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.lines("CONN_MAX_AGE=60"), within=30)
    becomes(lambda: server.get("/books").status, 500, within=30)
    assert first
    assert backends("later") == []


def test_a_guard_that_was_closed_in_a_worker_lends_nothing(
    serve_project: ServeProject, describe: Describe, backends: Backends
) -> None:
    options = {"application_name": "closed", "poolguard": {"floor": 1, "budget": 4}}
    server = serve_project(SYNC, {"default": describe(options)})
    assert server.get("/books").status == 200
    assert server.get("/close").status == 200
    assert server.get("/books").status == 500
    assert backends("closed") == []


@pytest.mark.parametrize("door", [GTHREAD, GEVENT], ids=str)
def test_sessions_that_the_server_ends_are_met_once_at_most(
    door: Door, serve_project: ServeProject, describe: Describe, admin: psycopg.Connection
) -> None:
    options = {"application_name": f"ended-{door}", "poolguard": {"floor": 3, "budget": 6}}
    server = serve_project(door, {"default": describe(options)})
    before = server.get("/books").body["backend"]
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        [f"ended-{door}"],
    )
    found = [server.get("/books") for _ in range(6)]
    assert [answer.status for answer in found].count(200) >= 5
    assert found[-1].body["pool"] == "default"
    assert before not in [answer.body["backend"] for answer in found if answer.status == 200]


def test_a_gunicorn_without_the_hooks_says_so_once(
    serve_project: ServeProject, describe: Describe, tmp_path: Path
) -> None:
    """One of the two changed lines is missing: nothing fails, and nothing is pooled."""
    config = tmp_path / "conf.py"
    config.write_text("control_socket_disable = True\n")
    server = serve_project(SYNC, {"default": describe()}, config=str(config))
    assert server.get("/books").body["pool"] is None
    assert server.get("/books").status == 200
    assert len(server.lines("without poolguard's hooks")) == 1
