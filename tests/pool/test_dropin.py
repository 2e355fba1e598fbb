"""A drop-in for psycopg_pool: its arguments, its methods, its statistics, its callbacks.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool
from tests.pool.support import Face, Kind, eventually, in_loop, opened

PAIRS = [(GuardedPool, ConnectionPool), (AsyncGuardedPool, AsyncConnectionPool)]
OURS = [
    "ledger",
    "listener",
    "max_connecting",
    "check_interval",
    "check_timeout",
    "check_after_idle",
    "leak_after",
    "at_once",
    "refresh_interval",  # the former name of check_interval
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_argument_of_psycopg_pool_is_taken_with_its_default(
    ours: type[Any], theirs: type[Any]
) -> None:
    """A new one in a new release shows here; annotations apart."""
    given = inspect.signature(theirs).parameters
    taken = inspect.signature(ours).parameters
    assert list(taken)[: len(given)] == list(given)
    for name, parameter in given.items():
        assert (taken[name].default, taken[name].kind) == (parameter.default, parameter.kind), name
    for name in list(taken)[len(given) :]:
        assert taken[name].kind == inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_public_method_keeps_its_parameters(ours: type[Any], theirs: type[Any]) -> None:
    for name, method in inspect.getmembers(theirs, callable):
        if not name.startswith("_"):
            mine = inspect.signature(getattr(ours, name)).parameters
            assert [(p.name, p.default) for p in mine.values()] == [
                (p.name, p.default) for p in inspect.signature(method).parameters.values()
            ], name


@in_loop
async def test_the_statistics_have_the_same_keys_and_counts(kind: Kind, dsn: str) -> None:
    """After the same story, told to both: requests, a queue, a rejection, a timeout, a loss."""

    async def story(pool: Face) -> dict[str, int]:
        await pool.open(warm=False)
        await pool.call("wait", 10)
        conn = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.pool.get_stats()["requests_waiting"] == 1)
        with pytest.raises(psycopg_pool.TooManyRequests):
            await pool.get()
        await pool.put(conn)
        conn = await waiting
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get(timeout=0.02)
        conn.pgconn.finish()
        await pool.put(conn)
        await eventually(lambda: pool.pool.get_stats()["pool_available"] == 1)
        stats = pool.pool.get_stats()
        assert pool.pool.pop_stats() == stats
        await pool.close()
        return {name: n for name, n in stats.items() if not name.endswith("_ms")}

    arguments: dict[str, Any] = {"min_size": 1, "max_size": 1, "max_waiting": 1}
    ours = await story(Face(kind, dsn, **arguments))
    theirs = Face(kind, dsn, **arguments)
    cls = ConnectionPool if kind == "sync" else AsyncConnectionPool
    theirs.pool = cls(dsn, open=False, **arguments)  # type: ignore[assignment]
    assert ours == await story(theirs)


@in_loop
async def test_the_log_records_are_the_same(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who filter or count them go on doing so. Told by the records' texts before formatting,
    of a story with growth, a return in a transaction, a broken one, an old one and unused ones."""
    caplog.set_level(logging.INFO, "psycopg.pool")

    async def story(pool: Face) -> set[str]:
        caplog.clear()
        await pool.open(warm=False)
        await pool.call("wait", 10)
        one, other = await pool.get(), await pool.get()
        await pool.execute(one, "SELECT 1")
        other.pgconn.finish()
        await pool.put(one)
        await pool.put(other)
        held = await pool.get()
        await eventually(lambda: "shrinking" in caplog.text or pool.pool.get_stats())
        await asyncio.sleep(1.1)  # older than its lifetime
        await pool.put(held)
        await eventually(lambda: "expired" in caplog.text)
        await eventually(lambda: "shrinking" in caplog.text)
        await pool.close()
        return {record.msg for record in caplog.records if record.levelno == logging.INFO}

    arguments: dict[str, Any] = {"min_size": 1, "max_size": 2, "max_lifetime": 1, "max_idle": 0.3}
    ours = await story(Face(kind, dsn, **arguments))
    theirs = Face(kind, dsn, **arguments)
    cls = ConnectionPool if kind == "sync" else AsyncConnectionPool
    theirs.pool = cls(dsn, open=False, **arguments)  # type: ignore[assignment]
    assert await story(theirs) <= ours


@in_loop
async def test_a_pool_without_time_serves_nobody(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, timeout=0.0) as pool:
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get()
        await pool.put(await pool.get(timeout=1))


@in_loop
async def test_conninfo_and_kwargs_may_be_callables(kind: Kind, dsn: str) -> None:
    """They are asked at each connect."""
    asked: list[str] = []

    def conninfo() -> str:
        asked.append("conninfo")
        return dsn

    def kwargs() -> dict[str, Any]:
        asked.append("kwargs")
        return {"autocommit": True}

    async with opened(kind, conninfo, kwargs=kwargs, min_size=2) as pool:
        conn = await pool.get()
        assert conn.autocommit
        assert sorted(asked) == ["conninfo"] * 2 + ["kwargs"] * 2
        await pool.put(conn)


@in_loop
async def test_configure_check_and_reset_are_called(kind: Kind, dsn: str) -> None:
    called: list[str] = []

    def callback(name: str) -> Any:
        def sync(conn: Any) -> None:
            called.append(name)

        async def aio(conn: Any) -> None:
            called.append(name)

        return sync if kind == "sync" else aio

    callbacks = {name: callback(name) for name in ("configure", "check", "reset")}
    async with opened(kind, dsn, min_size=1, **callbacks) as pool:
        await pool.put(await pool.get())
        await eventually(lambda: called == ["configure", "check", "reset"])
        await eventually(lambda: pool.status()["idle"] == 1)
        assert pool.recorder.outcomes == ["acquired"]


@in_loop
async def test_a_connection_left_in_a_transaction_comes_back_clean(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")
        await pool.put(conn)
        assert await pool.get() is conn
        assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await pool.put(conn)


@in_loop
async def test_with_close_returns_closing_returns(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1, close_returns=True) as pool:
        conn = await pool.get()
        await asyncio.to_thread(conn.close) if kind == "sync" else await conn.close()
        assert await pool.get() is conn
        assert pool.recorder.outcomes == ["acquired", "acquired"]
        await pool.put(conn)
    assert conn.closed


@in_loop
async def test_connections_are_of_the_class_asked_for(kind: Kind, dsn: str) -> None:
    class Mine(psycopg.Connection[Any]):
        pass

    class AsyncMine(psycopg.AsyncConnection[Any]):
        pass

    cls = Mine if kind == "sync" else AsyncMine
    async with opened(kind, dsn, min_size=1, connection_class=cls) as pool:
        conn = await pool.get()
        assert type(conn) is cls
        await pool.put(conn)


@in_loop
async def test_opening_with_wait_and_opening_twice(kind: Kind, dsn: str) -> None:
    pool = Face(kind, dsn, min_size=2)
    await pool.call("open", wait=True, timeout=10)
    assert pool.status()["idle"] == 2
    await pool.call("open")
    await pool.call("wait", 10)
    assert len(pool.recorder.created) == 2
    await pool.close()


@in_loop
async def test_as_a_context_manager_it_opens_and_closes(kind: Kind, dsn: str) -> None:
    face = Face(kind, dsn, min_size=1)
    pool: Any = face.pool
    if kind == "sync":
        with pool, pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    else:
        async with pool, pool.connection() as conn:
            assert await (await conn.execute("SELECT 1")).fetchone() == (1,)
    assert pool.closed


@in_loop
async def test_resizing(kind: Kind, dsn: str) -> None:
    """Upwards it grows at once; downwards those that nobody needs go after max_idle."""
    async with opened(kind, dsn, min_size=1, max_size=1, max_idle=0.2) as pool:
        await pool.call("resize", 4, 6)
        await eventually(lambda: pool.status()["idle"] == 4)
        assert (pool.pool.min_size, pool.pool.max_size) == (4, 6)
        await pool.call("resize", 1, 6)
        await eventually(lambda: pool.status()["idle"] == 1)
        assert pool.size == 1


@in_loop
async def test_resizing_before_opening(kind: Kind, dsn: str) -> None:
    if kind == "async":
        pytest.skip("psycopg_pool makes the async pool's lock when it opens")
    pool = Face(kind, dsn, min_size=1)
    await pool.call("resize", 3, 3)
    await pool.open()
    assert pool.status()["idle"] == pool.size == 3
    await pool.close()


@in_loop
async def test_draining_renews_all(kind: Kind, dsn: str, admin: psycopg.Connection) -> None:
    async with opened(kind, dsn, min_size=3, max_size=3) as pool:
        before = pool.backends(admin)
        lent = await pool.get()
        await pool.call("drain")
        await pool.put(lent)
        await eventually(lambda: pool.status()["idle"] == 3)
        await eventually(lambda: pool.recorder.closes == ["discarded"] * 3)
        assert not before & pool.backends(admin)


@in_loop
async def test_checking_finds_the_dead_and_keeps_the_living(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=3) as pool:
        conns = await pool.get_all(3)
        alive = {conn.info.backend_pid for conn in conns[1:]}
        conns[0].pgconn.finish()
        await pool.put(*conns[1:])
        await pool.call("check")
        await pool.put(conns[0])
        await eventually(lambda: pool.status()["idle"] == 3)
        assert alive < pool.backends(admin)
        assert pool.size == 3


@in_loop
async def test_a_connection_of_another_pool_is_not_taken_back(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as pool, opened(kind, dsn, min_size=1) as other:
        conn = await other.get()
        with pytest.raises(ValueError, match=f"it comes from pool '{other.name}'"):
            await pool.put(conn)
        await other.put(conn)


@in_loop
async def test_the_names_of_what_it_runs_begin_with_its_own(
    kind: Kind, gate_dsn: str, gate: Any
) -> None:
    gate.blackhole()
    async with opened(kind, gate_dsn, warm=False, min_size=1) as pool:
        await eventually(lambda: pool.status()["opening"] == 1)
        names = pool.threads() + [task.get_name() for task in asyncio.all_tasks()]
        assert f"{pool.name}-connect" in names
        gate.resume()


def test_the_default_listener_and_ledger_need_no_argument(dsn: str) -> None:
    with GuardedPool(dsn, min_size=1) as pool, pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_opened_implicitly_it_warns_as_psycopg_pool_does(dsn: str) -> None:
    pool = GuardedPool(dsn, min_size=1)
    with pytest.warns(DeprecationWarning, match="GuardedPool"):
        pool.putconn(pool.getconn())
    pool.close()


def test_our_own_arguments_are_these() -> None:
    for ours, theirs in PAIRS:
        assert (
            list(inspect.signature(ours).parameters)[len(inspect.signature(theirs).parameters) :]
            == OURS
        )
