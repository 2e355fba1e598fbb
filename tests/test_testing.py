"""poolguard.testing: a stand-in for the server, for applications' tests and for our own."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID
from wsgiref.util import setup_testing_defaults

import psycopg
import psycopg_pool
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import poolguard
from poolguard import (
    AsyncGuardedPool,
    Guard,
    GuardedPool,
    PoolguardError,
    SettingsError,
    asgi,
    wsgi,
)
from poolguard.pool.core import Core
from poolguard.pool.entry import Entry
from poolguard.pool.events import (
    AcquireEnded,
    Closed,
    Connected,
    ConnectFailed,
    Outcome,
    Place,
    Returned,
)
from poolguard.status import published
from poolguard.testing import (
    AsyncFakeConnection,
    FakeConnection,
    FakedGuard,
    FakePostgres,
    ManualClock,
    Query,
    RecordingListener,
    UnexpectedQuery,
    fake,
    server,
)
from poolguard.util import clock as real
from poolguard.util import rundir
from tests.doors.conftest import Spans, spans
from tests.pool.support import descriptors
from tests.support import until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from starlette.requests import Request

__all__ = ["spans"]

EXAMPLE = Path(__file__).parent.parent / "examples" / "testing"
NAME = "SELECT name FROM users WHERE id = %s"
UTC = datetime.timezone.utc
tracer = trace.get_tracer("tests")


@pytest.fixture(name="db")
def _db() -> Iterator[FakePostgres]:
    with FakePostgres({NAME: [("Ann",)], "SELECT 1": [(1,)]}) as db:
        yield db


@pytest.fixture(name="conn")
def _conn(db: FakePostgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(db.conninfo, autocommit=True) as conn:
        yield conn


# -- queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "params", "text", "known"),
    [
        (NAME, (7,), NAME, (7,)),
        ("SELECT  name FROM users\n WHERE id = %(id)s ;", {"id": 7}, NAME, (7,)),
        (b"SELECT name FROM users WHERE id = %b", (7,), NAME, (7,)),
        ("SELECT %(a)s, %(b)s, %(a)s", {"a": 1, "b": None}, "SELECT %s, %s, %s", (1, None)),
        ("SELECT 100 %% %s", (7,), "SELECT 100 % %s", (7,)),
        ("SELECT %s", (Decimal("1.50"),), "SELECT %s", (Decimal("1.50"),)),
        ("SELECT %s", ("x",), "SELECT %s", ("x",)),
        ("SELECT %s", ([1, 2],), "SELECT %s", ([1, 2],)),
        ("SELECT %s", (Jsonb({"a": [1]}),), "SELECT %s", ({"a": [1]},)),
        ("SELECT 1", None, "SELECT 1", ()),
    ],
)
def test_a_query_is_remembered_with_its_parameters(
    db: FakePostgres,
    conn: psycopg.Connection[Any],
    *,
    sent: Any,
    params: Any,
    text: str,
    known: tuple[Any, ...],
) -> None:
    db.on(text, [(1,)])
    for prepare in (False, True):
        conn.execute(sent, params, prepare=prepare)
    assert db.queries == [Query(text, known)] * 2
    assert db.queries[0] == (text, known)


def test_a_script_may_write_parameters_in_each_way(
    db: FakePostgres, conn: psycopg.Connection[Any]
) -> None:
    for n, written in enumerate(("%s", "%(id)s", "$1", " %t ")):
        db.on(f"SELECT  {n}\nWHERE 5 %% id = {written};", [(n,)])
        assert conn.execute(f"SELECT {n} WHERE 5 %% id = %s", (7,)).fetchall() == [(n,)]


@pytest.mark.parametrize("binary", [False, True])
def test_values_come_as_from_a_server(
    db: FakePostgres, conn: psycopg.Connection[Any], *, binary: bool
) -> None:
    day, noon = datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 12, 0, 0, 5)
    values = [
        *(1, -(2**40), 2**70, True, 1.5, Decimal("1.20"), "ä\n'", b"\0a", None),
        *(day, noon, noon.replace(tzinfo=UTC), datetime.timedelta(days=-1, seconds=3)),
        *(UUID(int=7), [1, 2], ["a"], [], {"a": [None]}),
    ]
    db.on("SELECT all", [values, [None] * len(values)])
    cursor = conn.cursor(binary=binary)
    assert cursor.execute("SELECT all").fetchall() == [tuple(values), (None,) * len(values)]
    assert cursor.rowcount == 2


@pytest.mark.parametrize("binary", [False, True])
def test_a_column_has_one_type_for_integers_of_all_sizes(
    db: FakePostgres, conn: psycopg.Connection[Any], *, binary: bool
) -> None:
    numbers = [(1,), (2**40,), (None,), (-(2**20),)]
    db.on("SELECT n", numbers)
    assert conn.cursor(binary=binary).execute("SELECT n").fetchall() == numbers


Row = namedtuple("Row", ["id", "name"])


@pytest.mark.parametrize("rows", [[{"id": 7, "name": "Ann"}], [Row(7, "Ann")]])
def test_columns_have_names_where_rows_name_them(
    db: FakePostgres, conn: psycopg.Connection[Any], rows: list[Any]
) -> None:
    db.on("SELECT users", rows)
    cursor = conn.cursor(row_factory=dict_row)
    assert cursor.execute("SELECT users").fetchall() == [{"id": 7, "name": "Ann"}]
    db.on("SELECT users", [(7, "Ann")])
    assert cursor.execute("SELECT users").fetchone() == {"column1": 7, "column2": "Ann"}
    db.on("SELECT users", [])
    assert cursor.execute("SELECT users").fetchall() == []
    assert cursor.description is not None
    assert [column.name for column in cursor.description] == ["column1"]


@pytest.mark.parametrize(
    ("query", "answer", "count", "status"),
    [
        ("INSERT INTO t VALUES (1)", 1, 1, "INSERT 0 1"),
        ("UPDATE t SET a = 1", 3, 3, "UPDATE 3"),
        ("delete from t", 0, 0, "DELETE 0"),
        ("CREATE TABLE t ()", None, -1, "CREATE"),
        ("INSERT INTO t VALUES (1) RETURNING id", [(1,), (2,)], 2, "INSERT 0 2"),
        ("SELECT 2", [(1,), (2,)], 2, "SELECT 2"),
    ],
)
def test_commands_tell_how_many_rows_they_have_changed(
    db: FakePostgres,
    conn: psycopg.Connection[Any],
    *,
    query: str,
    answer: Any,
    count: int,
    status: str,
) -> None:
    db.on(query, answer)
    for prepare in (False, True):
        cursor = conn.execute(query, prepare=prepare)
        assert (cursor.rowcount, cursor.statusmessage) == (count, status)
        assert (cursor.description is not None) == isinstance(answer, list)


def test_many_at_once_and_in_a_pipeline(db: FakePostgres, conn: psycopg.Connection[Any]) -> None:
    db.on("INSERT INTO t VALUES (%s)", 1)
    cursor = conn.cursor()
    cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,), (3,)])
    assert cursor.rowcount == 3
    assert [params for _, params in db.queries] == [(1,), (2,), (3,)]
    with conn.pipeline():
        answers = [conn.execute(NAME, (n,)) for n in range(3)]
        assert [each.fetchone() for each in answers] == [("Ann",)] * 3
    db.on("SELECT 2", errors.UniqueViolation("taken"))

    def fail_first() -> None:
        with conn.pipeline():
            for query in ("SELECT 2", "SELECT 1"):
                conn.execute(query)

    with pytest.raises(errors.UniqueViolation, match="taken"):
        fail_first()
    assert ("SELECT 1", ()) not in db.queries
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_async_connection() -> None:
    async def use() -> Any:
        connecting = psycopg.AsyncConnection.connect(db.conninfo)
        async with await connecting as conn:
            return await (await conn.execute(NAME, (7,))).fetchone()

    with FakePostgres({NAME: [("Ann",)]}) as db:
        assert asyncio.run(use()) == ("Ann",)
    assert (db.commits, db.rollbacks) == (1, 0)


# -- answers -----------------------------------------------------------------------------------


def test_each_answer_is_given_once_and_the_last_for_ever(
    db: FakePostgres, conn: psycopg.Connection[Any]
) -> None:
    db.on(NAME, [("Ann",)], [("Bo",)])
    assert [conn.execute(NAME, (7,)).fetchone() for _ in range(3)] == [("Ann",), ("Bo",), ("Bo",)]
    db.on(NAME, [("Cy",)])
    assert conn.execute(NAME, (7,)).fetchone() == ("Cy",)


def test_a_pattern_stands_for_all_in_which_it_is_found(
    db: FakePostgres, conn: psycopg.Connection[Any]
) -> None:
    db.on(re.compile("FROM orders WHERE .* = %s$"), lambda total: [(total + 1,)])
    assert conn.execute("SELECT a\nFROM orders  WHERE b = %s", (1,)).fetchone() == (2,)
    with pytest.raises(errors.InternalError_, match="nothing is scripted"):
        conn.execute("SELECT a FROM orders")
    db.unexpected.clear()


def test_an_answer_may_be_found_when_it_is_asked_for(
    db: FakePostgres, conn: psycopg.Connection[Any]
) -> None:
    def find(user: int) -> Any:
        if user == 9:
            raise errors.LockNotAvailable("somebody else has it")
        return [("Ann",)] if user == 7 else 0 if user == 8 else errors.UniqueViolation

    db.on(NAME, find)
    assert conn.execute(NAME, (7,)).fetchone() == ("Ann",)
    assert conn.execute(NAME, (8,)).description is None
    with pytest.raises(errors.LockNotAvailable, match="somebody else has it"):
        conn.execute(NAME, (9,))
    with pytest.raises(errors.UniqueViolation):
        conn.execute(NAME, (10,))


@pytest.mark.parametrize("prepare", [False, True])
def test_an_error_without_a_state_is_a_crash(
    db: FakePostgres, conn: psycopg.Connection[Any], *, prepare: bool
) -> None:
    db.on("SELECT 1", psycopg.OperationalError)
    with pytest.raises(psycopg.OperationalError, match="closed the connection unexpectedly"):
        conn.execute("SELECT 1", prepare=prepare)
    assert conn.broken


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Ann", "is no answer"),
        (1.5, "is no answer"),
        ({"name": "Ann"}, "is no answer"),
        (ValueError("no error of psycopg's"), "is no answer"),
        ([1], "is no row"),
        (["Ann"], "is no row"),
        ([(1,), (1, 2)], "the same number of columns"),
        ([{"a": 1}, {"b": 1}], "the same columns"),
        ([{"a": 1}, (1,)], "the same columns"),
    ],
)
def test_what_can_be_no_answer_is_refused(db: FakePostgres, answer: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        db.on("SELECT 1", answer)


def test_what_can_be_no_query_is_refused(db: FakePostgres) -> None:
    with pytest.raises(TypeError, match="a text or a compiled pattern, and no int"):
        FakePostgres({7: 1})
    with pytest.raises(TypeError, match="an answer is missing"):
        db.on("SELECT 1")


# -- what is not scripted ----------------------------------------------------------------------


def test_a_query_that_is_not_scripted_fails_and_the_block_says_so_again() -> None:
    """An application may handle the error that it was given."""
    db = FakePostgres()
    db.start()
    with psycopg.connect(db.conninfo) as conn:
        for query in ("SELECT 2", "SELECT 3"):
            with pytest.raises(errors.InternalError_, match=f"scripted for '{query}' with"):
                conn.execute(query)
            assert conn.info.transaction_status == TransactionStatus.INERROR
            conn.rollback()
    with pytest.raises(UnexpectedQuery) as raised:
        db.__exit__(None, None, None)
    assert str(raised.value) == (
        "nothing is scripted for 'SELECT 2' with ()\nnothing is scripted for 'SELECT 3' with ()"
    )
    assert [query.text for query in db.queries] == ["SELECT 2", "SELECT 3"]


@pytest.mark.parametrize(
    "answer", [lambda: {"b": 1}["a"], lambda: 1.5, lambda a: [], [(object(),)]]
)
def test_a_script_that_fails_is_told_in_the_same_way(answer: Any) -> None:
    db = FakePostgres({"SELECT 1": answer})
    db.start()
    with psycopg.connect(db.conninfo) as conn, pytest.raises(errors.InternalError_):
        conn.execute("SELECT 1")
    with pytest.raises(UnexpectedQuery, match=r"'SELECT 1' has failed: (Key|Type|Program).*Error"):
        db.__exit__(None, None, None)


def test_what_the_test_itself_raises_comes_first() -> None:
    db = FakePostgres()
    db.start()
    with psycopg.connect(db.conninfo) as conn, pytest.raises(errors.InternalError_) as raised:
        conn.execute("SELECT 2")
    db.__exit__(raised.type, raised.value, raised.tb)
    assert db.unexpected
    assert not db.folder.exists()


# -- transactions ------------------------------------------------------------------------------


def test_transactions_end_as_psycopg_has_them_end(db: FakePostgres) -> None:
    seen: list[TransactionStatus] = []
    with psycopg.connect(db.conninfo) as conn:
        seen.append(conn.info.transaction_status)
        conn.execute("SELECT 1")
        seen.append(conn.info.transaction_status)
        conn.commit()
        seen.append(conn.info.transaction_status)
        conn.execute("SELECT 1")
    assert [each.name for each in seen] == ["IDLE", "INTRANS", "IDLE"]
    assert (db.commits, db.rollbacks) == (2, 0)

    def fail() -> None:
        with psycopg.connect(db.conninfo) as conn:
            conn.execute("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (db.commits, db.rollbacks) == (2, 1)
    assert {query.text for query in db.queries} == {"SELECT 1"}


def test_after_an_error_a_transaction_does_nothing_until_it_ends(db: FakePostgres) -> None:
    db.on("SELECT 2", errors.UniqueViolation("taken"))
    with psycopg.connect(db.conninfo) as conn:
        with pytest.raises(errors.UniqueViolation, match="taken"):
            conn.execute("SELECT 2")
        with pytest.raises(errors.InFailedSqlTransaction):
            conn.execute("SELECT 1")
        conn.commit()
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert (db.commits, db.rollbacks) == (1, 1)


def test_what_goes_back_to_a_savepoint_goes_on(db: FakePostgres) -> None:
    db.on("SELECT 2", errors.UniqueViolation("taken"))
    with psycopg.connect(db.conninfo) as conn, conn.transaction():
        with pytest.raises(errors.UniqueViolation), conn.transaction():
            conn.execute("SELECT 2")
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert (db.commits, db.rollbacks) == (1, 0)


def test_what_is_told_to_the_session_needs_no_script(
    db: FakePostgres, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("SET search_path TO shop")
    conn.execute("SELECT 1")
    conn.execute("RESET ALL")
    conn.execute("COMMIT")
    conn.execute("ROLLBACK")
    assert db.queries == [("SELECT 1", ())]
    assert (db.commits, db.rollbacks) == (0, 0)


# -- what befalls a server ---------------------------------------------------------------------


def test_it_refuses_connections_and_takes_them_again(db: FakePostgres) -> None:
    with db.refusing(), pytest.raises(psycopg.OperationalError, match="is starting up"):
        psycopg.connect(db.conninfo)
    full = errors.TooManyConnections("no room")
    with db.refusing(full), pytest.raises(psycopg.OperationalError, match="no room"):
        psycopg.connect(db.conninfo)
    psycopg.connect(db.conninfo).close()


def test_it_ends_its_sessions_as_a_restart_does(db: FakePostgres) -> None:
    with psycopg.connect(db.conninfo) as one, psycopg.connect(db.conninfo) as other:
        assert db.kill() == 2
        for conn in (one, other):
            with pytest.raises(errors.AdminShutdown):
                conn.execute("SELECT 1")
        until(lambda: db.sessions == 0)


@pytest.mark.parametrize("longest", [0, 100])
def test_where_a_path_would_be_too_long_it_listens_on_a_port(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LONGEST_PATH", longest)
    with FakePostgres({"SELECT 1": [(1,)]}) as db:
        assert ("host=127.0.0.1 " in db.conninfo) == (longest == 0)
        for sslmode in ("disable", "prefer"):
            with psycopg.connect(db.conninfo, sslmode=sslmode) as conn:
                assert conn.execute("SELECT 1").fetchone() == (1,)


def test_it_leaves_nothing_behind() -> None:
    before = descriptors(), threading.active_count()
    with FakePostgres() as db:
        standing = [psycopg.connect(db.conninfo) for _ in range(3)]
        assert db.folder.is_dir()
        with pytest.raises(RuntimeError, match="is running already"):
            db.start()
    for conn in standing:
        conn.close()
    db.stop()
    assert not db.folder.exists()
    assert (descriptors(), threading.active_count()) == before
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host={db.folder} port={server.PORT}")


def test_it_serves_pools_that_are_made_without_a_guard(db: FakePostgres) -> None:
    recorder = RecordingListener()
    with GuardedPool(db.conninfo, min_size=2, max_size=2, listener=recorder) as pool:
        assert pool.wait_warm(10)
        with pool.connection() as conn:
            assert conn.execute(NAME, (7,)).fetchone() == ("Ann",)
        db.kill()
        recorder.wait(Closed, n=2)
        recorder.wait(Connected, n=4)
        pool.check()
    assert recorder.created == ["warmup"] * 2 + ["replace"] * 2
    assert recorder.closes[:2] == ["lost"] * 2
    assert (db.commits, db.rollbacks) == (1, 0)


# -- a guard -----------------------------------------------------------------------------------


def test_the_default_guard_needs_no_settings_at_all() -> None:
    with fake(results={NAME: [("Ann",)]}) as db:
        with poolguard.connection() as conn:
            assert conn.execute(NAME, (7,)).fetchone() == ("Ann",)
        status = poolguard.guard().status()
        assert (status["ready"], status["floor"], status["max_size"]) == (True, 4, 4)
        assert status["budget"]["budget"] == 4
    assert not rundir.default_path().exists()
    assert db.guard is poolguard.guard()
    assert not db.guard.opened
    with pytest.raises(psycopg_pool.PoolClosed), poolguard.connection():
        pass


def test_a_guard_is_afterwards_what_it_was_before(dsn: str) -> None:
    """Though it was open: it goes on with the same pool, on the same server."""
    with Guard(dsn, name="shop", budget=6, floor=1, kwargs={"autocommit": True}) as guard:
        before = repr(guard), guard.arguments, guard.pool
        with fake("shop", {"SELECT current_database()": [("none",)]}, max_size=2, floor=1) as db:
            with guard.connection() as conn:
                assert conn.execute("SELECT current_database()").fetchone() == ("none",)
                assert conn.autocommit
            assert guard.pool is not before[2]
            assert (guard.pool.min_size, guard.pool.max_size) == (1, 2)
        assert (repr(guard), guard.arguments, guard.pool) == before
        with guard.connection() as conn:
            row = conn.execute("SELECT current_database()").fetchone()
            assert row is not None
            assert row != ("none",)
        until(lambda: [each["name"] for each in published()] == ["shop"])
    assert db.guard is guard
    assert db.events.outcomes == ["acquired"]


class Own(psycopg.Connection[Any]):
    """An application's own."""


@pytest.mark.parametrize("called", [False, True])
def test_what_the_application_gives_its_pool_goes_on_but_for_the_place(*, called: bool) -> None:
    seen: list[str] = []
    given = {
        "host": "db.example",
        "dbname": "shop",
        "password": "secret",
        "application_name": "web",
        "row_factory": dict_row,
    }
    guard = Guard(
        "postgresql://me@other.example/",
        kwargs=(lambda: {**given}) if called else given,
        connection_class=Own,
        configure=lambda conn: seen.append(conn.info.parameter_status("application_name")),
    )
    if called:  # which may name no other place than the dsn does, within the block as before
        given = {"application_name": "web", "row_factory": dict_row}
    with fake(guard, {NAME: [{"name": "Ann"}]}, max_size=1), guard.connection() as conn:
        assert type(conn) is Own
        assert conn.execute(NAME, (7,)).fetchone() == {"name": "Ann"}
    assert seen == ["web"]


def test_a_pool_that_does_not_become_warm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolguard.testing.guarded.OPENS_WITHIN", 0.2)
    guard = Guard("host=other", configure=lambda conn: conn.execute("SELECT 2"))
    before = guard.settings
    with pytest.raises(PoolguardError, match=r"is not warm after 0.2 s.*nothing is scripted"):
        fake(guard).__enter__()
    assert guard.settings is before
    assert not guard.opened


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"dsn": "host=other"}, "keyword dsn: within fake"),
        ({"workers": 2, "budget": 7}, "keyword budget, workers: within fake"),
        ({"max_size": 0}, "keyword max_size=0: it takes"),
        ({"floor": 3, "max_size": 2}, "floor=3 must be at most"),
        ({"pool_size": 3}, "did you mean floor"),
    ],
)
def test_what_cannot_be_set_is_said_as_the_block_is_entered(
    settings: dict[str, Any], why: str
) -> None:
    faked = fake(**settings)
    with pytest.raises(SettingsError, match=why):
        faked.__enter__()
    assert faked.conninfo == ""


def test_a_guard_that_nobody_has_made_is_an_error() -> None:
    with pytest.raises(SettingsError, match="there is no guard named 'shop'"):
        fake("shop").__enter__()


# -- outcomes ----------------------------------------------------------------------------------


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    with poolguard.connection() as conn:
        conn.execute(NAME, (7,))
    start_response("200 OK", [])
    return [b""]


app = wsgi.PoolGuardMiddleware(hello)


def get() -> str:
    """The status of a request to the application, within a server span."""
    said: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    with tracer.start_as_current_span("GET", kind=SpanKind.SERVER):
        for _ in app(environ, lambda status, *_: said.append(status) or print):  # type: ignore[func-returns-value]
            pass
    return said[-1]


def acquired(db: FakedGuard) -> str:
    return get()


def waited(db: FakedGuard) -> str:
    with ThreadPoolExecutor(1) as threads:
        with db.exhausted():
            status = threads.submit(get)
            until(lambda: db.guard.status()["waiting"])
        return status.result(10)


def created(db: FakedGuard) -> str:
    with poolguard.connection():
        return get()


def timed_out(db: FakedGuard) -> str:
    with db.exhausted():
        return get()


def rejected(db: FakedGuard) -> str:
    with db.exhausted(waiting=1):
        return get()


@pytest.mark.parametrize(
    ("request_", "settings", "outcome", "status"),
    [
        (acquired, {}, "acquired", "200 OK"),
        (waited, {"acquire_timeout": 10}, "waited", "200 OK"),
        (created, {"floor": 1}, "created", "200 OK"),
        (timed_out, {"acquire_timeout": 0.05}, "timeout", "503 Service Unavailable"),
        (rejected, {"max_waiting": 1}, "rejected", "503 Service Unavailable"),
    ],
)
def test_each_outcome_can_be_had(
    request_: Callable[[FakedGuard], str],
    settings: dict[str, Any],
    outcome: Outcome,
    status: str,
    spans: Spans,
) -> None:
    with fake(results={NAME: [("Ann",)]}, **settings) as db:
        assert request_(db) == status
        assert db.events.outcomes[-1] == outcome
        acquires = db.guard.status()["acquires"]
        assert acquires.pop(outcome) >= 1
        assert acquires.keys() <= {"acquired"}
        assert get() == "200 OK"
    requests = [span for span in spans() if span.name == "GET"]
    tagged = [span.attributes["poolguard.request.outcome"] for span in requests]
    assert tagged == [outcome, "acquired"]


def test_what_was_exhausted_is_as_before() -> None:
    with fake(max_size=3, floor=2) as db:
        with db.exhausted(), pytest.raises(psycopg_pool.PoolTimeout):
            db.guard.connection(0.3).__enter__()  # though there is room for a third
        db.events.clear()
        before = db.guard.status()
        with db.exhausted(waiting=2):
            status = db.guard.status()
            assert (status["idle"], status["used"], status["waiting"]) == (0, 2, 2)
        after = db.guard.status()
        keys = ("idle", "used", "waiting", "max_size", "created", "closed")
        assert [after[key] for key in keys] == [before[key] for key in keys]
        assert db.events.outcomes == []
    with pytest.raises(psycopg_pool.PoolClosed), db.exhausted():
        pass


def test_a_block_within_a_block_goes_back_to_the_outer_one() -> None:
    with fake(results={NAME: [("Ann",)]}) as outer:
        with fake(results={NAME: [("Bo",)]}) as inner, poolguard.connection() as conn:
            assert conn.execute(NAME, (7,)).fetchone() == ("Bo",)
        with poolguard.connection() as conn:
            assert conn.execute(NAME, (7,)).fetchone() == ("Ann",)
        assert [len(outer.queries), len(inner.queries)] == [1, 1]


# -- async -------------------------------------------------------------------------------------


def test_an_async_guard_is_open_in_an_async_block() -> None:
    async def use() -> None:
        async with fake(results={NAME: [("Ann",)]}, acquire_timeout=0.05) as db:
            async with poolguard.aconnection() as conn:
                assert await (await conn.execute(NAME, (7,))).fetchone() == ("Ann",)
            with db.exhausted(), pytest.raises(psycopg_pool.PoolTimeout):
                await poolguard.aconnection().__aenter__()
            async with poolguard.aconnection():
                pass
            assert db.events.outcomes == ["acquired", "timeout", "acquired"]
            pool = db.guard.pool
        assert pool.closed
        assert not db.guard.opened

    asyncio.run(use())


def test_an_async_block_says_at_its_end_what_was_unexpected() -> None:
    async def use() -> None:
        async with fake(), poolguard.aconnection() as conn:
            with pytest.raises(errors.InternalError_):
                await conn.execute("SELECT 2")

    with pytest.raises(UnexpectedQuery, match="SELECT 2"):
        asyncio.run(use())


class Client:
    """Runs an ASGI application on a loop of its own in a thread, as a framework's test client."""

    def __init__(self, app: asgi.App) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Client:
        self._thread.start()
        self._started, self._ends = self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ends.set)
        self._do(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, job: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(10)

    async def _start(self) -> Any:
        started, ends = asyncio.Event(), asyncio.Event()
        told = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> asgi.Message:
            if started.is_set():
                await ends.wait()
            return {"type": next(told)}

        async def send(message: asgi.Message) -> None:
            assert not message["type"].endswith("failed")
            started.set()

        self._lifespan = asyncio.ensure_future(self._app({"type": "lifespan"}, receive, send))
        await started.wait()
        return started, ends

    async def _ended(self) -> None:
        await self._lifespan

    def get(self, path: str = "/") -> int:
        """The status of a request."""
        return int(self._do(self._get(path)))

    async def _get(self, path: str) -> int:
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        said: list[asgi.Message] = []

        async def receive() -> asgi.Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: asgi.Message) -> None:
            said.append(message)

        await self._app(scope, receive, send)
        return int(said[0]["status"])


async def page(request: Request) -> PlainTextResponse:
    async with poolguard.aconnection() as conn:
        [row] = await (await conn.execute(NAME, (7,))).fetchall()
    return PlainTextResponse(row[0])


def test_an_application_that_opens_its_guard_in_its_lifespan_on_a_loop_of_its_own() -> None:
    """Though it was closed by its name, and is opened by that alone outside the block."""
    poolguard.guard().close()
    served = asgi.PoolGuardMiddleware(Starlette(routes=[Route("/", page)]))
    settings: dict[str, Any] = {"acquire_timeout": 0.05, "ready_path": "/ready"}
    with fake(results={NAME: [("Ann",)]}, opens=False, **settings) as db:
        assert not db.guard.opened
        with Client(served) as client:
            assert client.get() == 200
            with db.exhausted():
                assert client.get() == 503
            assert client.get() == 200
            assert client.get("/ready") == 200
        assert not db.guard.opened
    assert db.guard.retired
    assert db.events.outcomes == ["acquired", "timeout", "acquired"]


def test_a_pool_is_touched_on_its_own_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(Starlette()) as client, fake(opens=False) as db:
        assert client._do(db.guard.aopen(10))
        core = db.guard.pool._core
        threads: list[threading.Thread] = []

        def take(now: float, take: Any = core.take) -> Any:
            threads.append(threading.current_thread())
            return take(now)

        monkeypatch.setattr(core, "take", take)
        with db.exhausted():
            pass
        assert {*threads} == {client._thread}


def test_what_the_application_has_left_open_is_closed_on_its_loop() -> None:
    with Client(Starlette()) as client:
        with fake(opens=False) as db:
            assert client._do(db.guard.aopen(10))
            pool = db.guard.pool
        assert pool.closed
        assert not db.guard.opened


# -- the clock ---------------------------------------------------------------------------------


OLD = 3250.0
"""Seconds after which a connection is to be replaced that may get 3600 s old, and may be lent."""


def test_the_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(1000.0)
    core = Core(0, 1, check_after_idle=30.0)
    entry, conn = Entry(None, clock()), FakeConnection()
    core.begin(entry)
    entry.take(conn)
    core.arrive(entry, clock())
    assert clock.advance(30.0) == clock() == 1030.0
    assert core.take(clock()) is conn
    core.give_back(entry, clock())
    clock.advance(30.5)
    assert core.take(clock()) is None
    running = ManualClock(1000.0, ticks=True)
    assert 1000.0 <= running() < 1010.0
    running.advance(100.0)
    assert 1100.0 < running() < 1110.0
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="never goes back"):
            clock.advance(seconds)
    assert clock() == 1060.5


def test_a_pool_that_runs_ages_by_it(db: FakePostgres) -> None:
    before, recorder = real.now, RecordingListener()
    with ManualClock(ticks=True).installed() as clock:
        assert real.now is clock
        arguments: dict[str, Any] = {"max_lifetime": 3600.0, "timeout": 20.0}
        with GuardedPool(db.conninfo, min_size=1, max_size=2, listener=recorder, **arguments) as p:
            assert p.wait_warm(10)
            clock.advance(OLD)
            [closed] = recorder.wait(Closed)
            assert closed.reason == "lifetime"
            assert closed.age - OLD == pytest.approx(0, abs=30)
            assert recorder.created == ["warmup", "lifetime"]
    assert real.now is before
    assert sys.modules["poolguard.pool.sync"].__dict__["clock"] is before


def test_an_acquire_times_out_by_it(db: FakePostgres) -> None:
    one: dict[str, Any] = {"min_size": 1, "timeout": 20.0}
    with (
        ManualClock().installed() as clock,
        GuardedPool(db.conninfo, **one) as pool,
        ThreadPoolExecutor(1) as threads,
        pool.connection(),
    ):
        acquire = threads.submit(pool.getconn)
        until(lambda: pool.counts().waiting)
        clock.advance(21.0)
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 21\.00 sec"):
            acquire.result(10)


def test_an_async_pool_ages_by_it(db: FakePostgres) -> None:
    async def use() -> None:
        with ManualClock(ticks=True).installed() as clock:
            pool = AsyncGuardedPool(
                db.conninfo,
                min_size=1,
                max_size=2,
                open=False,
                max_lifetime=3600.0,
                listener=recorder,
            )
            await pool.open()
            assert await pool.wait_warm(10)
            clock.advance(OLD)
            await asyncio.to_thread(recorder.wait, Closed)
            await pool.close()

    recorder = RecordingListener()
    asyncio.run(use())
    assert recorder.closes[0] == "lifetime"
    assert recorder.created == ["warmup", "lifetime"]


# -- the listener ------------------------------------------------------------------------------

CONNECTED = Connected("shop", "growth", 1.0, 2.0, Place("db", 5432, "shop"))


def test_it_remembers_by_kind() -> None:
    recorder = RecordingListener()
    failed = ConnectFailed("shop", "growth", 1.0, 2.0, "OperationalError: no")
    recorder.connected(CONNECTED)
    recorder.connect_failed(failed)
    recorder.closed(Closed("shop", "idle", 60.0))
    recorder.acquire_ended(AcquireEnded("shop", "created", 1.5, 2.5, CONNECTED))
    recorder.returned(Returned("shop", 2.5, 3.0))
    assert (recorder.created, recorder.closes) == (["growth"], ["idle"])
    assert (recorder.outcomes, recorder.failures) == (["created"], [failed])
    assert len(recorder.events) == 4
    recorder.clear()
    assert recorder.events == recorder.outcomes == []
    assert repr(recorder) == "<RecordingListener of 0 events>"


def test_it_remembers_returns_where_it_is_told_to(db: FakePostgres) -> None:
    recorder = RecordingListener(returns=True)
    with GuardedPool(db.conninfo, min_size=1, listener=recorder) as pool, pool.connection():
        assert recorder.of(Returned) == []
    assert len(recorder.of(Returned)) == 1


def test_it_waits_for_what_comes_and_not_for_longer() -> None:
    recorder = RecordingListener()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(recorder.wait, Connected, 60.0, n=2)
        recorder.connected(CONNECTED)
        assert not waiting.done()
        recorder.connected(CONNECTED)
        assert waiting.result(5) == [CONNECTED] * 2
    with pytest.raises(TimeoutError, match=r"not within 0 s; what has happened:\n  Connected"):
        recorder.wait(Closed, 0)
    with pytest.raises(TimeoutError, match="what has happened: nothing"):
        RecordingListener().wait_for(lambda: False, 0)


# -- stand-ins for connections -----------------------------------------------------------------


def test_a_stand_in_for_a_connection_is_as_libpq_has_it() -> None:
    conn = FakeConnection()
    assert (conn.closed, conn.broken) == (False, False)
    conn.lose()
    assert (conn.closed, conn.broken) == (True, True)
    conn.pgconn.finish()
    assert (conn.closed, conn.broken) == (True, False)
    conn.wait()
    with pytest.raises(errors.AdminShutdown):
        FakeConnection(errors.AdminShutdown()).wait()
    with pytest.raises(errors.AdminShutdown):
        asyncio.run(AsyncFakeConnection(errors.AdminShutdown()).wait())
    assert repr(conn) == "<FakeConnection UNKNOWN>"


# -- the rest ----------------------------------------------------------------------------------


def test_importing_it_imports_no_driver() -> None:
    """A test of gevent's may import it before it patches."""
    script = "import poolguard.testing, sys; print(*({'psycopg', 'psycopg_pool'} & {*sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_it_serves_greenlets() -> None:
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, poolguard\n"
        "from poolguard.testing import fake\n"
        "def use():\n"
        "    with poolguard.connection() as conn:\n"
        "        return conn.execute('SELECT 1').fetchone()\n"
        "with fake(results={'SELECT 1': [(1,)]}, max_size=2) as db:\n"
        "    jobs = [gevent.spawn(use) for _ in range(9)]\n"
        "    gevent.joinall(jobs, raise_error=True)\n"
        "    print(len(db.queries), db.commits, db.sessions)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("9 9 2\n", "")


def test_the_example_passes() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "-W", "error", "-q", "."],
        cwd=EXAMPLE,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout
