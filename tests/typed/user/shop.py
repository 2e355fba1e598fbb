"""What a user of a guard and of the pools writes. Type checkers read it; nothing runs it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal

import psycopg
import psycopg_pool
from psycopg.rows import DictRow, TupleRow, dict_row
from typing_extensions import assert_type

import poolguard
import poolguard.status
from poolguard import AsyncGuardedPool, Guard, GuardedPool
from poolguard.budget.plan import Plan
from poolguard.pool.events import AcquireEnded, Listener
from poolguard.settings import Settings

Rows = psycopg.Connection[DictRow]
AsyncRows = psycopg.AsyncConnection[DictRow]


# -- the default guard -------------------------------------------------------------------------


def name_of(customer: int) -> str:
    with poolguard.connection() as conn:
        assert_type(conn, psycopg.Connection[Any])
        row = conn.execute("SELECT name FROM customers WHERE id = %s", [customer]).fetchone()
    if row is None:
        raise LookupError(customer)
    return str(row[0])


async def count() -> int:
    async with poolguard.aconnection(timeout=0.5) as conn:
        assert_type(conn, psycopg.AsyncConnection[Any])
        cursor = await conn.execute("SELECT count(*) FROM customers")
        [number] = await cursor.fetchone() or [0]
        return int(number)


def returns_within_a_block() -> int:
    """A block that swallowed exceptions would leave a way to the end of the function."""
    with poolguard.connection(1) as conn:
        return conn.execute("DELETE FROM carts").rowcount


def refused() -> str:
    try:
        return name_of(1)
    except psycopg_pool.PoolTimeout as error:
        return str(error)
    except (poolguard.ForkError, poolguard.ModeError, poolguard.PlanError) as error:
        return repr(error)
    except poolguard.PoolguardError as error:
        return repr(error)


assert_type(poolguard.__version__, str)
assert_type(poolguard.role(), Literal["master", "worker"] | None)
assert_type(poolguard.guard(), Guard)
assert_type(poolguard.status.published(), list[dict[str, Any]])


# -- a guard of one's own ----------------------------------------------------------------------


def prepare(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SET statement_timeout = '5s'")


async def prepare_async(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute("SET statement_timeout = '5s'")


def secret() -> str:
    return "postgresql://shop:secret@localhost/shop"


replica = Guard(
    "postgresql://replica/shop",
    name="replica",
    configure=prepare,
    kwargs={"row_factory": dict_row},
    floor=4,
    budget="80%",
    spans="all",
)
rotating = Guard(secret, name="rotating", mode="async", configure=prepare_async)


def of_a_guard(guard: Guard) -> None:
    assert_type(guard.name, str)
    assert_type(guard.settings, Settings)
    assert_type(guard.mode, Literal["sync", "async"] | None)
    assert_type(guard.open(wait=1), bool)
    assert_type(guard.ready, bool)
    assert_type(guard.opened, bool)
    assert_type(guard.plan, Plan | None)
    assert_type(guard.status(), dict[str, Any])
    block: AbstractContextManager[psycopg.Connection[Any]] = guard.connection()
    with guard as same, block as conn:
        assert_type(same, Guard)
        assert_type(conn, psycopg.Connection[Any])
    guard.close(timeout=1)
    poolguard.forget(guard)


async def of_an_async_guard(guard: Guard) -> None:
    assert_type(await guard.aopen(wait=1), bool)
    block: AbstractAsyncContextManager[psycopg.AsyncConnection[Any]] = guard.aconnection()
    async with guard as same, block as conn:
        assert_type(same, Guard)
        assert_type(conn, psycopg.AsyncConnection[Any])
    await guard.aclose(timeout=1)


def of_settings() -> None:
    try:
        settings = Settings.build(environ={"POOLGUARD_FLOOR": "4"}, ledger="static")
    except poolguard.SettingsError:
        return
    assert_type(settings.acquire_timeout, float)
    assert_type(settings.floor, int | Literal["auto"])
    assert_type(settings.replace(floor=None), Settings)
    assert_type(settings.source("floor"), str)


# -- the pools alone ---------------------------------------------------------------------------


class Slow(Listener):
    """Told of what happens in a pool."""

    def acquire_ended(self, event: AcquireEnded) -> None:
        if event.ended - event.began > 1:
            print(event.outcome)


def of_a_pool(dsn: str) -> None:
    with GuardedPool(dsn, min_size=2, max_connecting=4, listener=Slow()) as pool:
        assert_type(pool, GuardedPool[psycopg.Connection[TupleRow]])
        with pool.connection(timeout=1) as conn:
            assert_type(conn, psycopg.Connection[TupleRow])
        conn = pool.getconn()
        assert_type(conn, psycopg.Connection[TupleRow])
        pool.putconn(conn)
        pool.wait(timeout=1)
        pool.resize(1, 2)
        assert_type(pool.get_stats(), dict[str, int])
        assert_type(pool.status(), dict[str, Any])


def of_a_pool_of_dicts(dsn: str) -> None:
    pool = GuardedPool(
        dsn, connection_class=Rows, kwargs={"row_factory": dict_row}, open=False, check=prepare
    )
    pool.open(wait=True)
    with pool.connection() as conn:
        assert_type(conn, Rows)
        assert_type(conn.execute("SELECT 1 AS one").fetchone(), DictRow | None)
    stands_in(pool)

    @pool.connection()
    def decorated(number: int) -> str:
        return str(number)

    assert_type(decorated(1), str)


async def of_an_async_pool(dsn: str) -> None:
    async with AsyncGuardedPool(dsn, open=False, connection_class=AsyncRows) as pool:
        assert_type(pool, AsyncGuardedPool[AsyncRows])
        async with pool.connection() as conn:
            assert_type(conn, AsyncRows)
        conn = await pool.getconn()
        assert_type(conn, AsyncRows)
        await pool.putconn(conn)
    async with AsyncGuardedPool(dsn) as plain, plain.connection() as other:
        assert_type(other, psycopg.AsyncConnection[TupleRow])


def stands_in(pool: psycopg_pool.ConnectionPool[Rows]) -> None:
    """A drop-in goes where psycopg_pool's own class is asked for."""
    with pool.connection() as conn:
        assert_type(conn, Rows)
