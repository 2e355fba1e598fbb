"""The examples' applications under gunicorn, with their frameworks' instrumentors or without."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres

from ...doors.server import Door, Server, Span
from ...examples.applications import APPLICATIONS, Application, Database
from ...support import until

INSTRUMENTORS = {
    "django_app": "opentelemetry.instrumentation.django:DjangoInstrumentor",
    "flask_app": "opentelemetry.instrumentation.flask:FlaskInstrumentor",
    "fastapi_app": "opentelemetry.instrumentation.fastapi:FastAPIInstrumentor",
    "starlette_app": "opentelemetry.instrumentation.starlette:StarletteInstrumentor",
    "celery_worker": "opentelemetry.instrumentation.flask:FlaskInstrumentor",
}
ONE = {"outcome": "acquired", "acquire_count": 1, "wait_time": 0.0}


class Stage(NamedTuple):
    """One application under gunicorn, whose only worker has one connection."""

    application: Application
    server: Server
    database: Database


@pytest.fixture(scope="module", params=APPLICATIONS, ids=str)
def application(request: pytest.FixtureRequest) -> Application:
    found: Application = request.param
    return found


@pytest.fixture(scope="module")
def database(application: Application, postgres: PrivatePostgres) -> Database:
    return Database(application, postgres)


@pytest.fixture(scope="module", params=["instrumented", "not instrumented"])
def stage(
    request: pytest.FixtureRequest,
    application: Application,
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    said = runpy.run_path(str(application.folder / "gunicorn.conf.py"))
    door = Door(application.door.worker_class, said["wsgi_app"], threads=4)
    folder = tmp_path_factory.mktemp(application.name)
    environ = {
        "BROKER_FOLDER": str(folder),
        "DJANGO_SETTINGS_MODULE": "config.settings",  # instrument() reads it
        "POOLGUARD_BUDGET": "1",
        "POOLGUARD_ACQUIRE_TIMEOUT": "1",
    }
    if request.param == "instrumented":
        environ["TEST_INSTRUMENTOR"] = INSTRUMENTORS[application.name]
    with Janitor() as janitor:
        server = Server(
            door,
            environ,
            janitor=janitor,
            folder=folder,
            dsn=database.url,
            cwd=application.folder,
        )
        yield Stage(application, server, database)
        server.close()


def spans_of(server: Server, method: str, path: str) -> list[Span]:
    """The server spans of the requests for *path*, whichever names they have for their methods."""
    names = ("http.request.method", "http.method")
    found = server.server_spans(path)
    return [span for span in found if method in map(span.attributes.get, names)]


def last_span(server: Server, method: str, path: str, n: int) -> Span:
    """The last of *n* such spans: there are no more."""
    until(lambda: len(spans_of(server, method, path)) >= n)
    found = spans_of(server, method, path)
    assert len(found) == n
    return found[-1]


def ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    told = response.read()
    connection.close()
    return response.status, json.loads(told or "null")


def test_each_request_has_one_acquire_and_its_servers_span_the_tags(stage: Stage) -> None:
    """A list, what is not found, and a transaction."""
    application, server, _ = stage
    assert server.get(application.page).status == 200
    assert last_span(server, "GET", application.page, 1).tags == ONE
    assert server.get(application.missing).status == 404
    assert last_span(server, "GET", application.missing, 1).tags == ONE
    path, body = application.write
    status, answer = ask(server, "POST", path, body)
    assert status in (200, 201, 202)
    if application.undo is not None:  # the next worker class writes the same
        ask(server, "DELETE", application.undo(answer))
    assert last_span(server, "POST", path, 1).tags == ONE


def test_one_that_gets_no_connection_says_so_in_its_span(
    stage: Stage, postgres: PrivatePostgres
) -> None:
    """The only connection waits for a lock meanwhile."""
    application, server, database = stage
    before = len(spans_of(server, "GET", application.page))
    with postgres.connect(dbname=database.role) as blocker, ThreadPoolExecutor(1) as crowd:
        blocker.autocommit = False
        owned = "SELECT quote_ident(tablename) FROM pg_tables WHERE tableowner = %s"
        for (table,) in blocker.execute(owned, [database.role]).fetchall():
            blocker.execute(f"LOCK TABLE {table}")
        blocked = crowd.submit(server.get, application.page)
        until(lambda: waiting_for_a_lock(postgres, database.role) == 1)
        assert server.get(application.page).status == 503
        refused = last_span(server, "GET", application.page, before + 1)
        blocker.rollback()
        assert blocked.result().status == 200
    assert refused.tags["outcome"] == "timeout"
    assert refused.tags["acquire_count"] == 1
    assert 1 <= refused.tags["wait_time"] < 5
    assert last_span(server, "GET", application.page, before + 2).tags == ONE


def waiting_for_a_lock(postgres: PrivatePostgres, role: str) -> int:
    query = "SELECT FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
    with postgres.connect() as conn:
        return conn.execute(query, [role]).rowcount
