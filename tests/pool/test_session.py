"""What a connection tells as it comes back, and what its errors tell of the server."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import dict_row, tuple_row

from poolguard.lab.proxy import SlowProxy
from poolguard.pool.entry import Entry, Verdict
from poolguard.pool.session import condition_of, note_errors, says_no_writes
from poolguard.pool.transitions import Condition
from tests.pool.support import Kind, eventually, in_loop, opened

ONE: dict[str, Any] = {"min_size": 1, "max_size": 1}


async def settled(what: Any) -> Any:
    """What it is, or comes to."""
    return await what if asyncio.iscoroutine(what) else what


@asynccontextmanager
async def connected(
    kind: Kind, dsn: str, cls: type[Any] | None = None
) -> AsyncIterator[tuple[Any, Entry]]:
    """A connection of no pool's, with an entry on which its errors are noted."""
    base: Any = psycopg.Connection if kind == "sync" else psycopg.AsyncConnection
    conn = await settled((cls or base).connect(dsn))
    entry = Entry(None, 0.0)
    entry.take(conn)
    note_errors(conn, entry)
    yield conn, entry
    conn.pgconn.finish()


async def ended(conn: Any, admin: psycopg.Connection) -> None:
    """The server ends it, which shows as it is used."""
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
    with pytest.raises(errors.AdminShutdown):
        await settled(conn.execute("SELECT 1"))


# -- how it comes back -------------------------------------------------------------------------


async def as_it_is(conn: Any) -> None:
    pass


async def in_transaction(conn: Any) -> None:
    await settled(conn.execute("SELECT 1"))


async def in_error(conn: Any) -> None:
    with pytest.raises(errors.SyntaxError):
        await settled(conn.execute("NO SQL AT ALL"))


async def rolled_back(conn: Any) -> None:
    await in_error(conn)
    await settled(conn.rollback())


async def active(conn: Any) -> None:
    conn.pgconn.exec_(b"COPY (SELECT 1) TO STDOUT")


async def in_pipeline_mode(conn: Any) -> None:
    conn.pgconn.enter_pipeline_mode()


async def aborted_in_pipeline_mode(conn: Any) -> None:
    conn.pgconn.enter_pipeline_mode()
    conn.pgconn.send_query_params(b"NO SQL AT ALL", None)
    conn.pgconn.pipeline_sync()


async def out_of_pipeline_mode(conn: Any) -> None:
    conn.pgconn.enter_pipeline_mode()
    conn.pgconn.exit_pipeline_mode()


async def closed(conn: Any) -> None:
    await settled(conn.close())


async def finished(conn: Any) -> None:
    await in_transaction(conn)
    conn.pgconn.finish()


CONDITIONS: dict[Condition, list[Callable[[Any], Any]]] = {
    "clean": [as_it_is, rolled_back, out_of_pipeline_mode],
    "open": [in_transaction, in_error],
    "unfit": [active, in_pipeline_mode, aborted_in_pipeline_mode],
    "closed": [closed, finished],
}


@pytest.mark.parametrize(
    ("condition", "what"), [(name, what) for name, ways in CONDITIONS.items() for what in ways]
)
@in_loop
async def test_what_was_done_to_it_shows(
    kind: Kind, dsn: str, condition: Condition, what: Callable[[Any], Any]
) -> None:
    async with connected(kind, dsn) as (conn, entry):
        await what(conn)
        assert condition_of(conn, entry) == condition
        assert entry.verdict is None


@in_loop
async def test_what_the_server_has_ended_is_lost(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """Once it shows; also if it is closed here then, as a pool of a framework's may."""
    async with connected(kind, dsn) as (conn, entry):
        await ended(conn, admin)
        assert condition_of(conn, entry) == "lost"
        conn.pgconn.finish()
        assert (condition_of(conn, entry), entry.verdict) == ("lost", "lost")


@in_loop
async def test_what_was_cut_on_its_way_is_lost(kind: Kind, gate: SlowProxy, gate_dsn: str) -> None:
    """Also if it is closed here then."""
    async with connected(kind, gate_dsn) as (conn, entry):
        gate.reset_all()
        with pytest.raises(psycopg.OperationalError):
            await settled(conn.execute("SELECT 1"))
        assert condition_of(conn, entry) == "lost"
        conn.pgconn.finish()
        assert (condition_of(conn, entry), entry.verdict) == ("lost", "lost")


@pytest.mark.parametrize("mode", [in_pipeline_mode, aborted_in_pipeline_mode])
@pytest.mark.parametrize("how", ["returned", "left"])
@in_loop
async def test_one_that_comes_back_in_pipeline_mode_is_closed_and_not_lent(
    kind: Kind, dsn: str, how: str, mode: Callable[[Any], Any]
) -> None:
    """Whatever its transaction's status is: its answers are those of other questions."""
    async with opened(kind, dsn, **ONE) as pool:
        if how == "returned":
            conn = await pool.get()
            await mode(conn)
            await pool.put(conn)
        elif kind == "sync":
            with suppress(psycopg.Error), pool.pool.connection() as conn:  # type: ignore[union-attr]
                await mode(conn)
        else:
            with suppress(psycopg.Error):
                async with pool.pool.connection() as conn:  # type: ignore[union-attr]
                    await mode(conn)
        other = await pool.get()
        assert other is not conn
        assert conn.closed
        assert other.pgconn.pipeline_status == PipelineStatus.OFF
        await pool.execute(other, "SELECT 1")
        await pool.put(other)
        await eventually(lambda: pool.recorder.closes == ["discarded"])
        assert pool.pool.get_stats()["returns_bad"] == 1
        assert pool.pool._core.doubted_at == 0.0


@in_loop
async def test_a_pipeline_that_was_left_well_is_no_reason_to_close_it(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        conn = await pool.get()
        if kind == "sync":
            with conn.pipeline():
                conn.execute("SELECT 1")
        else:
            async with conn.pipeline():
                await conn.execute("SELECT 1")
        await pool.put(conn)
        assert await pool.get() is conn
        await pool.put(conn)


# -- whether the server takes writes -----------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "says"),
    [("", False), ("-c default_transaction_read_only=on", None)],
    ids=["nothing wished", "read-only wished"],
)
@in_loop
async def test_a_server_that_takes_writes_says_so(
    kind: Kind, dsn: str, wish: str, says: bool | None
) -> None:
    """Where the client wishes none, what the server says decides nothing."""
    async with connected(kind, make_conninfo(dsn, options=wish)) as (conn, _):
        assert says_no_writes(conn) is says


@in_loop
async def test_what_a_session_wishes_later_decides_nothing_either(kind: Kind, dsn: str) -> None:
    async with connected(kind, dsn) as (conn, _):
        await settled(conn.execute("SET default_transaction_read_only = on"))
        assert says_no_writes(conn) is None
        await settled(conn.rollback())
        assert says_no_writes(conn) is False


@pytest.mark.parametrize(
    ("standby", "by_default", "says"),
    [
        (b"on", b"off", True),
        (b"on", b"on", True),
        (b"off", b"on", None),
        (b"off", b"off", False),
        (None, None, None),  # before PostgreSQL 14, and behind some poolers
        (b"off", None, None),
    ],
)
def test_what_a_server_says_of_itself(
    standby: bytes | None, by_default: bytes | None, says: bool | None
) -> None:
    """For servers that are not at hand here."""
    told = {b"in_hot_standby": standby, b"default_transaction_read_only": by_default}
    assert (
        says_no_writes(SimpleNamespace(pgconn=SimpleNamespace(parameter_status=told.get))) is says
    )


# -- what errors tell --------------------------------------------------------------------------


def saying(sqlstate: str) -> str:
    """A query that the server answers with that error, as a pooler before it would."""
    return f"DO $$ BEGIN RAISE 'as from a pooler' USING ERRCODE = '{sqlstate}'; END $$"


READS_ONLY = "SET TRANSACTION READ ONLY; CREATE TABLE unmade (n int)"
VERDICTS: list[tuple[tuple[str, ...], Verdict | None]] = [
    (("SELECT 1", "SELECT 2"), None),
    (("NO SQL AT ALL",), None),
    ((saying("57014"),), None),  # a query that was cancelled
    ((saying("23505"),), None),
    ((saying("57P01"),), "ending"),
    ((saying("57P02"),), "ending"),
    ((saying("57P03"),), "ending"),
    ((READS_ONLY,), "read-only"),
    ((READS_ONLY, "NO SQL AT ALL"), "read-only"),
    ((READS_ONLY, saying("57P01")), "ending"),
    ((saying("57P01"), READS_ONLY), "ending"),
    ((saying("57P01"), "SELECT 1"), "ending"),
]


@pytest.mark.parametrize(("queries", "verdict"), VERDICTS)
@in_loop
async def test_the_worst_error_is_noted(
    kind: Kind, dsn: str, queries: tuple[str, ...], verdict: Verdict | None
) -> None:
    async with connected(kind, dsn) as (conn, entry):
        for query in queries:
            with suppress(psycopg.Error):
                await settled(conn.execute(query))
            await settled(conn.rollback())
        assert entry.verdict == verdict


async def by_many(conn: Any) -> None:
    await settled(conn.cursor().executemany(saying("57P01"), [()]))


async def by_a_stream(conn: Any) -> None:
    rows = conn.cursor().stream("SELECT pg_terminate_backend(pg_backend_pid())")
    if hasattr(rows, "__aiter__"):
        async for _ in rows:
            pass
    else:
        for _ in rows:
            pass


async def by_a_transaction(conn: Any) -> None:
    if isinstance(conn, psycopg.Connection):
        with conn.transaction():
            conn.execute(saying("57P01"))
    else:
        async with conn.transaction():
            await conn.execute(saying("57P01"))


async def by_a_pipeline(conn: Any) -> None:
    if isinstance(conn, psycopg.Connection):
        with conn.pipeline():
            conn.execute(saying("57P01"))
    else:
        async with conn.pipeline():
            await conn.execute(saying("57P01"))


@pytest.mark.parametrize("way", [by_many, by_a_stream, by_a_transaction, by_a_pipeline])
@in_loop
async def test_it_is_noted_whichever_way_it_comes(
    kind: Kind, dsn: str, way: Callable[[Any], Any]
) -> None:
    async with connected(kind, dsn) as (conn, entry):
        with pytest.raises(psycopg.OperationalError):
            await way(conn)
        # What the server itself ends a session with says more than what a pooler passes on.
        assert entry.verdict == ("lost" if way is by_a_stream else "ending")


@in_loop
async def test_to_use_what_was_closed_here_tells_nothing(kind: Kind, dsn: str) -> None:
    async with connected(kind, dsn) as (conn, entry):
        await settled(conn.close())
        with pytest.raises(psycopg.OperationalError):
            await settled(conn.execute("SELECT 1"))
        assert entry.verdict is None
    async with connected(kind, dsn) as (conn, entry):
        conn.pgconn.finish()
        with pytest.raises(psycopg.OperationalError):
            await settled(conn.execute("SELECT 1"))
        with suppress(psycopg.Error):
            await settled(conn.wait(conn._commit_gen()))
        assert entry.verdict is None


class Waits(psycopg.Connection[Any]):
    """Has a ``wait()`` of its own, as instrumentation gives it."""

    waits = 0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.waits += 1
        return super().wait(*args, **kwargs)


class AsyncWaits(psycopg.AsyncConnection[Any]):
    waits = 0

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.waits += 1
        return await super().wait(*args, **kwargs)


@in_loop
async def test_a_wait_that_a_class_overrides_is_called_still(kind: Kind, dsn: str) -> None:
    cls: Any = Waits if kind == "sync" else AsyncWaits
    async with opened(kind, dsn, connection_class=cls, **ONE) as pool:
        conn = await pool.get()
        before = conn.waits
        await pool.execute(conn, "SELECT 1")
        assert conn.waits > before
        with suppress(psycopg.Error):
            await pool.execute(conn, saying("57P01"))
        assert conn._poolguard_entry.verdict == "ending"
        await pool.put(conn)


@pytest.mark.parametrize("query", ["SELECT 1", "NO SQL AT ALL"])
@in_loop
async def test_nothing_in_it_refers_to_itself(
    kind: Kind, dsn: str, query: str, uncollected: None
) -> None:
    async with connected(kind, dsn) as (conn, entry):
        with suppress(psycopg.Error):
            await settled(conn.execute(query))
        gone = weakref.ref(conn)
        its = weakref.ref(conn.wait)
        conn.pgconn.finish()
    del conn
    assert (gone(), its(), entry.conn) == (None, None, None)


FATES = {
    "drained": "SELECT 1",
    "evicted": saying("57P01"),
    "ended": "SELECT pg_terminate_backend(pg_backend_pid())",
}


@pytest.mark.parametrize("query", FATES.values(), ids=FATES)
@in_loop
async def test_what_the_pool_has_closed_is_freed(
    kind: Kind, dsn: str, query: str, uncollected: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the collector's help."""
    caplog.set_level(logging.CRITICAL, "psycopg.pool")  # its records refer to connections
    async with opened(kind, dsn, **ONE) as pool:
        conn = await pool.get()
        with suppress(psycopg.Error):
            await pool.execute(conn, query)
        gone = weakref.ref(conn)
        await pool.put(conn)
        del conn
        await pool.call("drain")
        await eventually(lambda: gone() is None, within=3)
        await eventually(lambda: pool.status()["idle"] == 1)


# -- whose end it was --------------------------------------------------------------------------


@in_loop
async def test_a_query_that_is_cancelled_for_good_casts_no_doubt_on_the_others(
    gate: SlowProxy, gate_dsn: str, admin: psycopg.Connection
) -> None:
    """psycopg closes the connection where it is cancelled again as it has the query cancelled,
    which anyio does in each turn of the loop."""
    running = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"

    async with opened("async", gate_dsn, min_size=3, max_size=3) as pool:
        taken: list[Any] = []
        pids: list[int] = []

        async def request() -> None:
            async with pool.pool.connection() as conn:  # type: ignore[union-attr]
                taken.append(conn)
                pids.append(conn.info.backend_pid)
                await conn.execute("SELECT pg_sleep(30)")

        def runs() -> bool:
            admin.rollback()
            return bool(pids) and admin.execute(running, pids).fetchone() is not None

        task = asyncio.create_task(request())
        await eventually(runs)
        gate.set(latency=0.05)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert taken[0].closed
        assert pool.pool._core.doubted_at == 0.0
        assert pool.status()["idle"] == 2
        await pool.put(await pool.get())
        gate.set(latency=0)
        assert pool.recorder.closes == []  # the server knows nothing of it, and goes on
        admin.execute("SELECT pg_terminate_backend(%s)", pids)
        await eventually(lambda: pool.recorder.closes == ["discarded"])
        assert pool.status()["acquires"] == {"acquired": 2}
        assert pool.pool._core.doubted_at == 0.0


@pytest.mark.parametrize("how", ["close", "finish"])
@in_loop
async def test_what_the_borrower_closes_casts_no_doubt_on_the_others(
    kind: Kind, dsn: str, how: str
) -> None:
    async with opened(kind, dsn, min_size=2, max_size=2) as pool:
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")
        if how == "finish":
            conn.pgconn.finish()
        else:
            await settled(conn.close())
        with pytest.raises(psycopg.OperationalError):
            await pool.execute(conn, "SELECT 1")
        await pool.put(conn)
        await pool.put(await pool.get())
        await eventually(lambda: pool.recorder.closes == ["discarded"])
        assert pool.pool._core.doubted_at == 0.0
        assert pool.status()["acquires"] == {"acquired": 2}


# -- what a borrower leaves behind -------------------------------------------------------------

SETTINGS: dict[str, tuple[Any, Any]] = {
    "autocommit": (True, False),
    "isolation_level": (psycopg.IsolationLevel.SERIALIZABLE, None),
    "read_only": (True, None),
    "deferrable": (True, None),
    "row_factory": (dict_row, tuple_row),
    "prepare_threshold": (7, 5),
}


@asynccontextmanager
async def theirs(kind: Kind, dsn: str) -> AsyncIterator[Any]:
    """psycopg_pool's own pool of one, open."""
    cls: Any = psycopg_pool.ConnectionPool if kind == "sync" else psycopg_pool.AsyncConnectionPool
    pool = cls(dsn, open=False, **ONE)
    await settled(pool.open())
    await settled(pool.wait())
    yield pool
    await settled(pool.close())


async def left_behind(pool: Any, name: str, value: Any) -> Any:
    """What the second borrower finds where the first one has set the attribute *name*."""
    conn = await settled(pool.getconn())
    setter = getattr(conn, f"set_{name}", None)
    if isinstance(conn, psycopg.AsyncConnection) and setter is not None:
        await setter(value)
    else:
        setattr(conn, name, value)
    await settled(conn.execute("SELECT 1"))
    await settled(pool.putconn(conn))
    again = await settled(pool.getconn())
    assert again is conn
    assert again.info.transaction_status == TransactionStatus.IDLE
    found = getattr(again, name)
    await settled(pool.putconn(again))
    return found


@pytest.mark.parametrize("name", SETTINGS)
@in_loop
async def test_what_a_borrower_has_set_stays_as_with_psycopg_pool(
    kind: Kind, dsn: str, name: str
) -> None:
    async with theirs(kind, dsn) as reference, opened(kind, dsn, **ONE) as pool:
        for value in SETTINGS[name]:
            as_theirs = await left_behind(reference, name, value)
            assert await left_behind(pool.pool, name, value) == as_theirs
