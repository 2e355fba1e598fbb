"""Real gunicorn, each worker class, a real PostgreSQL on which connects are slow, real spans."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gunicorn
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy

from ..conftest import CONNECT_DELAY
from ..support import until
from .conftest import Serve
from .server import ASGI, DOORS, GEVENT, GTHREAD, SYNC, UVICORN, Door

Backends = Callable[[str], list[int]]

every_door = pytest.mark.parametrize("door", DOORS, ids=str)
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@every_door
def test_a_request_neither_imports_nor_waits_for_the_first_full_collection(
    door: Door, serve: Serve, slow_dsn: str
) -> None:
    """Both are done before the worker accepts, where OpenTelemetry is set up by then."""
    server = serve(door, slow_dsn, TEST_IMPORTS="tests.doors.watched")

    assert server.get("/query").status == 200
    watched = server.get("/watched").body
    assert watched["imported"] == []
    assert watched["collections"] >= 1


@pytest.mark.parametrize("door", [SYNC, ASGI], ids=str)
def test_of_poolguard_a_worker_imports_nothing_but_what_needs_an_sdk(
    door: Door, serve: Serve, dsn: str
) -> None:
    """All of it is in the master, once, and its memory is shared. The collector keeps off that:
    what it visits it writes to, and each worker would have a copy."""
    server = serve(door, dsn, TEST_IMPORTS="tests.doors.watched")

    watched = server.get("/watched").body
    # The test's SDK is set up in the workers, as that of a user's.
    assert watched["by_the_worker"] == ["poolguard.telemetry.processor"]
    assert watched["frozen"] > 10_000


@every_door
def test_what_the_pool_did_for_a_request_is_in_its_span(
    door: Door, serve: Serve, slow_dsn: str
) -> None:
    """The first requests after boot are served at once."""
    floor = 1 if door is SYNC else 3
    server = serve(door, slow_dsn, POOLGUARD_BUDGET=str(floor + 2), POOLGUARD_FLOOR=str(floor))

    # More than the floor, and as many of them at once as the worker class can serve.
    paths = [f"/query/{n}" for n in range(floor + 1)]
    answers = [*server.get_together(*paths[:floor]), server.get(paths[floor])]
    status = server.status()
    assert {answer.status for answer in answers} == {200}
    assert status["acquires"] == {"acquired": floor + 1}
    assert status["created"] == {"warmup": floor}
    assert status["warmup"]["seconds"] >= CONNECT_DELAY
    for path in paths:
        span = server.server_span(path)
        assert span.tags == {"outcome": "acquired", "acquire_count": 1, "wait_time": 0.0}
        assert span.attributes["http.response.status_code"] == 200
        assert not server.children(span)


@every_door
def test_the_hooks_wrap_an_application_that_nobody_has_wrapped(
    door: Door, serve: Serve, slow_dsn: str
) -> None:
    server = serve(door, slow_dsn, TEST_BARE="1", POOLGUARD_BUDGET="3", POOLGUARD_FLOOR="1")
    assert server.get("/query").status == 200
    assert server.server_span("/query").tags == {
        "outcome": "acquired",
        "acquire_count": 1,
        "wait_time": 0.0,
    }


@pytest.mark.parametrize(("wrap", "status"), [("on", 503), ("off", 500)])
def test_a_setting_leaves_the_application_as_it_is(
    serve: Serve, dsn: str, wrap: str, status: int
) -> None:
    server = serve(
        GTHREAD,
        dsn,
        TEST_BARE="1",
        POOLGUARD_WRAP=wrap,
        POOLGUARD_BUDGET="2",
        POOLGUARD_ACQUIRE_TIMEOUT="0.2",
        POOLGUARD_CHECK_TIMEOUT="0.1",
    )
    assert server.get("/query").status == 200
    assert server.get("/starve").status == status


@every_door
def test_what_a_request_had_to_wait_for_is_in_its_span(
    door: Door, serve: Serve, slow_dsn: str
) -> None:
    """One has to create, and one to wait. (With two lent, one would be opened ahead.)"""
    server = serve(door, slow_dsn, POOLGUARD_BUDGET="3", POOLGUARD_FLOOR="1")

    assert server.get("/create").status == 200
    span = server.server_span("/create")
    wait_time = span.tags["wait_time"]
    assert span.tags == {
        "outcome": "created",
        "acquire_count": 1,
        "created_count": 1,
        "wait_time": wait_time,
    }
    assert wait_time >= 0.8 * CONNECT_DELAY
    (acquire,) = server.children(span)
    assert (acquire.name, acquire.kind) == ("pool.acquire", "INTERNAL")
    assert acquire.attributes["poolguard.acquire.outcome"] == "created"
    (connect,) = server.children(acquire)
    assert (connect.name, connect.kind) == ("pool.connect", "CLIENT")

    assert server.get("/wait").status == 200
    span = server.server_span("/wait")
    assert span.tags == {
        "outcome": "waited",
        "acquire_count": 1,
        "waited_count": 1,
        "wait_time": span.tags["wait_time"],
    }
    (acquire,) = server.children(span)
    assert acquire.attributes["poolguard.acquire.outcome"] == "waited"
    assert not server.children(acquire)

    assert server.get("/status").status == 200
    assert not server.server_spans("/status"), "a request that never acquired gets nothing"


@every_door
def test_a_request_without_a_connection_is_answered_and_one_that_keeps_it_is_told_of(
    door: Door, serve: Serve, dsn: str
) -> None:
    """The application handles neither."""
    server = serve(
        door,
        dsn,
        POOLGUARD_BUDGET="2",
        POOLGUARD_FLOOR="2",  # so that whoever lends them all need not wait for a connect
        POOLGUARD_ACQUIRE_TIMEOUT="0.2",
        POOLGUARD_CHECK_TIMEOUT="0.2",
        POOLGUARD_LEAK_AFTER="0.2",
    )
    until(lambda: server.status()["ready"])
    answer = server.get("/starve")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert b"Try again later" in answer.body
    span = server.server_span("/starve")
    assert span.tags["outcome"] == "timeout"
    assert span.attributes["http.response.status_code"] == 503
    until(lambda: len(server.lines("GET /starve was answered with 503")) == 1)  # a moment later
    assert not server.lines("Traceback")

    assert server.get("/leak").status == 200
    until(lambda: server.lines("GET /leak has ended without returning a connection"))
    until(lambda: server.lines("GET /leak has held a connection"))
    assert server.lines(" in leak"), "where it was taken"


@every_door
def test_sigterm_ends_it_cleanly(
    door: Door, serve: Serve, dsn: str, admin: psycopg.Connection, backends: Backends
) -> None:
    """The request under way is answered, no backend is left, and nobody complains."""
    if door is ASGI and gunicorn.version_info[:2] == (25, 3):
        pytest.skip("gunicorn 25.3 waits for a client that keeps its connection, and gives it up")
    name = f"poolguard-sigterm-{door}"
    server = serve(
        door,
        make_conninfo(dsn, application_name=name),
        POOLGUARD_BUDGET="4",
        POOLGUARD_FLOOR="2",
    )
    until(lambda: server.status()["ready"])
    assert len(backends(name)) == 2
    asleep = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'"
    with server.getting("/sleep") as answer:
        until(lambda: admin.execute(asleep, [name]).fetchall())
        status, seconds = server.stop()
        assert answer().status == 200
    assert status == 0, server.said()
    assert seconds < 10, "no longer than the graceful timeout"
    assert backends(name) == []
    assert set(server.lines("the pool is")) == {"the pool is closed"}, "before the process ended"
    for word in ("Traceback", "Error", "rror connecting", "psycopg", "WARNING", "SIGKILL"):
        # (A floor of 2 is more than a sync worker uses, and that is said.)
        assert not [line for line in server.lines(word) if "floor 2 is more" not in line]


@every_door
def test_a_database_that_is_away_at_boot_stops_nothing(
    door: Door, serve: Serve, postgres: PrivatePostgres
) -> None:
    """The worker boots, says so in one line, and serves as soon as the database is back."""
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0) as proxy:
        dsn = postgres.conninfo(host=proxy.host, port=proxy.port)
        proxy.refuse()
        server = serve(door, dsn, POOLGUARD_WARMUP_TIMEOUT="1.5", POOLGUARD_ACQUIRE_TIMEOUT="1")
        assert server.status()["ready"] is False
        assert server.get("/query").status == 503
        (line,) = server.lines("is not warm")
        assert "WARNING" in line
        assert "poolguard 'default' is not warm after 1.5 s" in line
        assert "refused" in line
        proxy.resume()
        until(lambda: server.status()["ready"])
        assert server.get("/query/back").status == 200
        assert server.server_span("/query/back").tags["outcome"] == "acquired"
        assert len(server.lines("is not warm")) == 1
        assert not server.lines("Traceback")


@pytest.mark.parametrize("door", [SYNC, ASGI, UVICORN], ids=str)
def test_sigterm_is_noticed_while_the_pool_warms_up(
    door: Door, serve: Serve, slow: SlowProxy, postgres: PrivatePostgres
) -> None:
    """It waits for a database that is away; told to stop, it does not wait on."""
    with SlowProxy(target=("127.0.0.1", postgres.port)) as proxy:
        proxy.blackhole()
        server = serve(
            door,
            postgres.conninfo(host=proxy.host, port=proxy.port),
            POOLGUARD_WARMUP_TIMEOUT="60",
            POOLGUARD_CONNECT_TIMEOUT="60",
        )
        until(lambda: proxy.stats()["accepted"], within=30)
        _, seconds = server.stop()
    assert seconds < 10, "gunicorn's graceful timeout, after which it kills"
    assert not server.lines("Traceback")


@every_door
def test_idle_connections_are_kept_fresh(
    door: Door, serve: Serve, dsn: str, admin: psycopg.Connection, backends: Backends
) -> None:
    """They are verified again and again; those that die are replaced before a request meets one."""
    name = f"poolguard-fresh-{door}"
    server = serve(
        door,
        make_conninfo(dsn, application_name=name),
        POOLGUARD_BUDGET="4",
        POOLGUARD_FLOOR="2",
        POOLGUARD_CHECK_INTERVAL="0.2",
    )
    until(lambda: server.status()["ready"])
    first = backends(name)
    asked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = %s AND query_start > backend_start + interval '1 s'"
    )
    until(lambda: admin.execute(asked, [name]).fetchone() == (2,))

    for pid in first:
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    until(lambda: server.status()["created"].get("replace") == 2)
    until(lambda: server.status()["idle"] == 2)
    assert not set(first) & set(backends(name))
    served = [server.get(f"/query/{n}").body for n in range(4)]
    assert set(served) <= set(backends(name))
    status = server.status()
    assert status["acquires"] == {"acquired": 4}
    assert status["created"] == {"warmup": 2, "replace": 2}
    assert status["closed"] == {"lost": 2}


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_an_instrumentations_own_span_is_the_one_that_is_tagged(
    door: Door, serve: Serve, dsn: str
) -> None:
    """OpenTelemetry's middleware around ours: its server span says it, none of ours is begun."""
    server = serve(door, dsn, TEST_INSTRUMENTED="1", POOLGUARD_BUDGET="4", POOLGUARD_FLOOR="1")
    assert server.get("/query").status == 200
    span = server.server_span("/query")
    assert span.scope.startswith("opentelemetry.instrumentation.")
    assert span.tags == {"outcome": "acquired", "acquire_count": 1, "wait_time": 0.0}
    assert server.get("/create").status == 200
    span = server.server_span("/create")
    assert span.tags["outcome"] == "created"
    (acquire,) = (child for child in server.children(span) if child.name == "pool.acquire")
    assert [child.name for child in server.children(acquire)] == ["pool.connect"]
    assert {each.kind for each in server.spans() if each.scope == "poolguard"} == {
        "INTERNAL",
        "CLIENT",
    }


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_without_instrumentation_our_own_span_continues_the_callers_trace(
    door: Door, serve: Serve, dsn: str
) -> None:
    server = serve(door, dsn, POOLGUARD_BUDGET="4", POOLGUARD_FLOOR="1")
    traced = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
    assert server.get("/query", traced).status == 200
    span = server.server_span("/query")
    assert (span.trace, span.parent) == (f"0x{TRACE}", f"0x{CALLER}")
    assert "vendor" in span.raw["context"]["trace_state"]
    assert span.tags["outcome"] == "acquired"


def test_without_a_lifespan_the_first_requests_open_the_pool(serve: Serve, dsn: str) -> None:
    """gunicorn's ``asgi_lifespan = "off"``: both wait until it is open."""
    server = serve(ASGI, dsn, TEST_LIFESPAN="off", POOLGUARD_BUDGET="4", POOLGUARD_FLOOR="2")
    assert [each.status for each in server.get_together("/query/1", "/query/2")] == [200, 200]
    until(lambda: server.status()["ready"])
    status, _ = server.stop()
    assert status == 0
    assert not server.lines("Traceback")


@pytest.mark.parametrize(
    ("door", "lifespan"),
    [*((door, "auto") for door in DOORS), (ASGI, "on")],
    ids=[*map(str, DOORS), "asgi with lifespan on"],
)
def test_who_may_not_serve_cold_says_why_and_exits(
    door: Door, lifespan: str, serve: Serve, postgres: PrivatePostgres
) -> None:
    """on_warmup_failure=exit: one clear line from poolguard, and gunicorn halts."""
    with SlowProxy(target=("127.0.0.1", postgres.port)) as proxy:
        proxy.refuse()
        server = serve(
            door,
            postgres.conninfo(host=proxy.host, port=proxy.port),
            POOLGUARD_ON_WARMUP_FAILURE="exit",
            POOLGUARD_WARMUP_TIMEOUT="1.5",
            TEST_LIFESPAN=lifespan,
        )
        assert server.wait() == 3
    (line,) = server.lines("is not warm")
    assert "ERROR" in line
    assert "refused" in line
    assert not server.lines("Traceback")


@pytest.mark.parametrize("door", [GEVENT, ASGI, UVICORN], ids=str)
def test_a_worker_that_takes_anothers_place_opens_as_many_as_that_one_has(
    door: Door, serve: Serve, slow_dsn: str, admin: psycopg.Connection
) -> None:
    """A worker class that sets no bound has a small floor, and may use many more."""
    application = f"poolguard-place-{door}"
    server = serve(
        door,
        make_conninfo(slow_dsn, application_name=application),
        POOLGUARD_BUDGET="40",
        POOLGUARD_FLOOR="2",
        TEST_SLEEP="3",
    )
    old = server.status()["pid"]
    asleep = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'"
    with ExitStack() as requests:
        for _ in range(6):
            requests.enter_context(server.getting("/sleep"))
        until(lambda: len(admin.execute(asleep, [application]).fetchall()) == 6)
        server.process.send_signal(signal.SIGHUP)
        # The old one goes on accepting for a moment.
        new: dict[str, Any] = {}

        def is_as_large() -> bool:
            new.update(server.status())
            return bool(new["pid"] != old and new["idle"] >= 6)

        until(is_as_large)
        assert new["acquires"] == {}


@pytest.mark.parametrize("door", [GEVENT, ASGI, UVICORN], ids=str)
def test_a_service_that_is_started_again_opens_as_many_as_it_had(
    door: Door, serve: Serve, slow_dsn: str, tmp_path: Path
) -> None:
    settings = {
        "POOLGUARD_BUDGET": "40",
        "POOLGUARD_FLOOR": "2",
        "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run"),
    }
    server = serve(door, slow_dsn, TEST_SLEEP="0.5", **settings)
    with ExitStack() as requests:
        answers = [requests.enter_context(server.getting("/sleep")) for _ in range(6)]
        assert {answer().status for answer in answers} == {200}
    had = server.status()["idle"]
    assert had >= 6
    assert server.stop()[0] == 0
    again = serve(door, slow_dsn, **settings)
    until(lambda: again.status()["idle"] >= had)
    assert again.status()["acquires"] == {}


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_a_later_generation_serves_cold_all_the_same(
    door: Door, serve: Serve, postgres: PrivatePostgres
) -> None:
    """With on_warmup_failure=exit too: a reload during an outage must not take the service down."""
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0) as proxy:
        server = serve(
            door,
            postgres.conninfo(host=proxy.host, port=proxy.port),
            POOLGUARD_ON_WARMUP_FAILURE="exit",
            POOLGUARD_WARMUP_TIMEOUT="2",
        )
        first = server.status()["pid"]
        proxy.refuse()
        proxy.reset_all()
        server.process.send_signal(signal.SIGHUP)
        if gunicorn.version_info < (24,):  # its gthread resets what it accepts as it ends
            until(lambda: server.lines("Worker exiting"), within=30)
        until(lambda: server.status()["pid"] != first, within=30)
        assert len(server.lines("is not warm")) == 1
        proxy.resume()
        until(lambda: server.status()["ready"])
