"""Guards whose way to the server leads through a real PgBouncer."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic
from typing import Any

import psycopg
import pytest

from poolguard import Guard
from poolguard.errors import PlanError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.runtime.status import not_warm
from poolguard.util import rundir

from ..support import StartPgBouncer
from .test_async import eventually

TIMES = 8
"""More than psycopg executes a query before it prepares it (5)."""
PREPARED = "SELECT name FROM pg_prepared_statements"

VICTIM = """
import os, signal, sys
from poolguard import Guard
guard = Guard(sys.argv[1], budget=2, floor=2)
guard.open(wait=20)
assert guard.ready, guard.status()
held = [guard.pool.getconn() for _ in range(2)]  # or it would give one of them up
print("ready", flush=True)
signal.pause()
"""


def threshold(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> int | None:
    return conn.prepare_threshold


# -- a budget in numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_threads_that_repeat_a_query(start_pgbouncer: StartPgBouncer, pool_mode: str) -> None:
    """It is not prepared: what executes it next may be another server process."""
    bouncer = start_pgbouncer(
        pool_mode, default_pool_size="3" if pool_mode == "transaction" else "20"
    )
    together = threading.Barrier(6)

    def repeat(n: int) -> list[Any]:
        together.wait(10)
        answers = []
        for i in range(TIMES * 2):
            with guard.connection() as conn:
                assert threshold(conn) is None
                answers.append(conn.execute("SELECT %s::int + %s::int", [n, i]).fetchone())
        return answers

    with Guard(bouncer.conninfo(), budget=6, floor=3) as guard, ThreadPoolExecutor(6) as pool:
        assert guard.ready, guard.status()
        answers = list(pool.map(repeat, range(6)))
        assert guard.status()["closed"] == {}
    assert answers == [[(n + i,) for i in range(TIMES * 2)] for n in range(6)]


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_tasks_that_repeat_a_query(start_pgbouncer: StartPgBouncer, pool_mode: str) -> None:
    bouncer = start_pgbouncer(
        pool_mode, default_pool_size="3" if pool_mode == "transaction" else "20"
    )

    async def repeat(guard: Guard, n: int) -> None:
        for i in range(TIMES * 2):
            async with guard.aconnection() as conn:
                assert threshold(conn) is None
                cursor = await conn.execute("SELECT %s::int + %s::int", [n, i])
                assert await cursor.fetchone() == (n + i,)

    async def run() -> None:
        async with Guard(bouncer.conninfo(), budget=6, floor=3) as guard:
            assert guard.ready, guard.status()
            await asyncio.gather(*(repeat(guard, n) for n in range(6)))
            assert guard.status()["closed"] == {}

    asyncio.run(run())


@pytest.mark.parametrize("pooler", ["auto", "transaction"])
def test_nothing_is_set_through_it(
    start_pgbouncer: StartPgBouncer, postgres: PrivatePostgres, pooler: str
) -> None:
    """A setting would stay with the one server connection, for whoever comes next."""
    query = (
        "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_keepalives%' "
        "OR name = 'client_connection_check_interval' ORDER BY name"
    )
    bouncer = start_pgbouncer("transaction", default_pool_size="1")
    with (
        postgres.connect() as straight,
        bouncer.connect(prepare_threshold=None) as other,
        Guard(bouncer.conninfo(), budget=4, floor=3, pooler=pooler) as guard,
    ):
        assert guard.ready, guard.status()
        assert other.execute(query).fetchall() == straight.execute(query).fetchall()


def test_the_slots_of_a_killed_owner_are_free_at_once(start_pgbouncer: StartPgBouncer) -> None:
    """The pooler notices by itself; to ask the server for its process id would be in vain."""
    bouncer = start_pgbouncer("transaction")
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, bouncer.conninfo()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(rundir.default_path())},
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    guard = Guard(bouncer.conninfo(), budget=2, floor=2)
    guard.open()
    assert not guard.wait_warm(0.3)
    victim.kill()
    victim.communicate()
    began = monotonic()
    assert guard.wait_warm(10)
    assert monotonic() - began < 1.5  # host.UNSEATED_GRACE and OVERDUE are longer


def test_the_budget_counts_its_clients(start_pgbouncer: StartPgBouncer) -> None:
    """Of which there are more than server connections."""
    bouncer = start_pgbouncer("transaction", default_pool_size="1")
    with Guard(bouncer.conninfo(), budget=5, floor=5) as guard, ExitStack() as stack:
        assert guard.plan is not None
        assert "clients of the pooler" in guard.plan.explain()
        for _ in range(5):
            stack.enter_context(guard.connection())
        assert guard.status()["budget"]["in_use"] == 5


# -- a budget that would follow the server -----------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_automatic_budget_is_one_clear_error(
    start_pgbouncer: StartPgBouncer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what to set, whenever it is tried again, and opens nothing in the meantime."""
    bouncer = start_pgbouncer("transaction")
    guard = Guard(bouncer.conninfo(), mode=kind)
    remedy = "Set budget to the number of clients that the pooler grants this service"

    def tries() -> int:
        return bouncer.read_log().count("login attempt")

    def counts(status: dict[str, Any]) -> tuple[int, ...]:
        return *(status[n] for n in ("idle", "used", "opening")), status["budget"]["in_use"]

    async def run() -> None:
        await (guard.aopen() if kind == "async" else asyncio.to_thread(guard.open))
        await eventually(lambda: tries() >= 3)
        await eventually(lambda: counts(guard.status()) == (0, 0, 0, 0))
        assert remedy in guard.status()["last_error"]
        assert not guard.ready
        assert guard.plan is None
        assert remedy in not_warm(guard.status(), 1)
        await guard.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    said = [record.getMessage() for record in caplog.records]
    assert 1 <= len(said) <= 3
    assert all(remedy in line and "\n" not in line for line in said)


def test_what_the_setting_says_of_the_pooler_is_believed(start_pgbouncer: StartPgBouncer) -> None:
    """At once: there is no need to connect to find that the budget cannot follow the server."""
    guard = Guard(start_pgbouncer("transaction").conninfo(), pooler="transaction")
    with pytest.raises(PlanError, match="cannot be worked out behind a pooler"):
        guard.open(wait=10)


# -- what is said and not detected -------------------------------------------------------------


def test_a_pooler_of_sessions_keeps_prepared_statements(start_pgbouncer: StartPgBouncer) -> None:
    with Guard(start_pgbouncer("session").conninfo(), budget=2, floor=1, pooler="session") as guard:
        for _ in range(TIMES):
            with guard.connection() as conn:
                assert threshold(conn) == 5
                conn.execute("SELECT 1 + 1")
        with guard.connection() as conn:
            assert len(conn.execute(PREPARED).fetchall()) == 1


def test_a_pooler_of_sessions_on_a_loop(start_pgbouncer: StartPgBouncer) -> None:
    async def run() -> None:
        settings: dict[str, Any] = {"budget": 2, "floor": 1, "pooler": "session"}
        async with Guard(start_pgbouncer("session").conninfo(), **settings) as guard:
            for _ in range(TIMES):
                async with guard.aconnection() as conn:
                    await conn.execute("SELECT 1 + 1")
            async with guard.aconnection() as conn:
                assert len(await (await conn.execute(PREPARED)).fetchall()) == 1

    asyncio.run(run())


def test_where_none_is_said_to_be_nothing_is_detected(start_pgbouncer: StartPgBouncer) -> None:
    """The server is asked for its capacity, and statements are prepared."""
    with Guard(start_pgbouncer("session").conninfo(), floor=2, pooler="none") as guard:
        assert guard.plan is not None
        assert guard.plan.capacity == 100
        with guard.connection() as conn:
            assert threshold(conn) == 5


def test_a_pooler_that_tells_the_servers_pid(dsn: str) -> None:
    """There are such: what the setting says holds all the same. (Here it is the server itself.)"""
    settings: dict[str, Any] = {"budget": 2, "floor": 1, "pooler": "transaction"}
    with Guard(dsn, **settings) as guard, guard.connection() as conn:
        assert threshold(conn) is None
        row = conn.execute("SHOW client_connection_check_interval").fetchone()
        assert row == ("0",)


def test_without_a_pooler_statements_are_prepared(dsn: str) -> None:
    with Guard(dsn, budget=2, floor=1) as guard, guard.connection() as conn:
        assert threshold(conn) == 5
