"""Guards that share their history with other hosts, of which each has a folder of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard import Guard
from poolguard.history.minutes import DAY, Demand
from poolguard.history.table import Table
from poolguard.lab.postgres import PrivatePostgres
from poolguard.runtime.runtime import Runtime
from tests.history.hosts import Host, connected
from tests.support import until

Open = Callable[..., Guard]
TABLE = Table("shared", "history")
LEARNED = 9
"""What another host has lent at once yesterday."""


@pytest.fixture
def conn(postgres: PrivatePostgres) -> Iterator[psycopg.Connection]:
    with connected(postgres, TABLE) as made:
        yield made


@pytest.fixture
def other(conn: psycopg.Connection, tmp_path: Path) -> Iterator[Host]:
    """Another host, which has told what it was asked for yesterday about this time."""
    made = Host(tmp_path / "other", TABLE)
    at = int(made.now // 60) - DAY
    for minute in range(at - 60, at + 60):
        made.record(minute, Demand(LEARNED, LEARNED, 0, 0, 0))
    made.ask(conn)
    yield made
    made.memory.close()


@pytest.fixture
def guard(dsn: str, tmp_path: Path) -> Iterator[Open]:
    """Makes guards in a new container."""
    with ExitStack() as stack:

        def one(**given: Any) -> Guard:
            usual = {"mode": "sync", "floor": 1, "budget": 30, "workers": 2}
            shared = {"history": f"database:{TABLE}", "runtime_dir": tmp_path / "new"}
            made = Guard(dsn, **{**usual, **shared, **given})
            stack.callback(made.close)
            return made

        yield one


def size(guard: Guard) -> int:
    status = guard.status()
    return int(status["idle"] + status["used"])


def is_due(guard: Guard) -> None:
    """Its host has its turn now, and the guard sees that."""
    runtime = guard._runtime
    assert isinstance(runtime, Runtime)
    memory, pool = runtime.memory, runtime.pool
    assert memory is not None
    assert memory._exchange is not None
    assert pool is not None
    with memory._recorder.using() as ring:
        assert ring is not None
        ring.told.write(ring.told.read()._replace(next=0))
        memory._exchange._look_at = 0.0
    pool.recalled()


def test_a_new_container_boots_with_what_another_host_has_learned(guard: Open, other: Host) -> None:
    one = guard()
    assert one.open(wait=10)
    assert LEARNED <= size(one) <= LEARNED + 6
    assert one.status()["expected"]["reason"] == "day"


def test_so_it_does_on_an_event_loop(guard: Open, other: Host) -> None:
    async def boot() -> int:
        one = guard(mode="async")
        assert await one.aopen(wait=10)
        found = size(one)
        await one.aclose()
        return found

    assert LEARNED <= asyncio.run(boot()) <= LEARNED + 6


def test_by_default_nothing_of_the_table_is_read(guard: Open, other: Host) -> None:
    one = guard(history="on")
    assert one.open(wait=10)
    assert size(one) == 1


def told(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT one, created FROM {TABLE.quoted}").fetchall()


def test_it_is_told_over_an_idle_connection(guard: Open, conn: psycopg.Connection) -> None:
    one = guard()
    assert one.open(wait=10)
    record_earlier(one)
    is_due(one)
    until(lambda: told(conn) == [(4, 2)])
    assert one.status()["acquires"] == {}


def test_it_is_told_on_an_event_loop(guard: Open, conn: psycopg.Connection) -> None:
    async def tell() -> None:
        one = guard(mode="async")
        assert await one.aopen(wait=10)
        record_earlier(one)
        is_due(one)
        while told(conn) != [(4, 2)]:  # until pytest ends it
            await asyncio.sleep(0.01)
        await one.aclose()

    asyncio.run(tell())


def record_earlier(guard: Guard) -> None:
    """A sibling has told of a minute that is over since a while."""
    runtime = guard._runtime
    assert isinstance(runtime, Runtime)
    assert runtime.memory is not None
    with runtime.memory._recorder.using() as ring:
        assert ring is not None
        minute = int(time.time() // 60) - 5
        ring.told.write(ring.told.read()._replace(counted=minute - 1, told=minute - 1))
        ring.merge({minute: Demand(4, 4, 0, 2, 0)})


def test_the_last_idle_connection_is_left_to_requests(
    guard: Open, conn: psycopg.Connection
) -> None:
    """It is told once one of the others has come back."""
    one = guard(floor=2, max_size=2)
    assert one.open(wait=10)
    until(lambda: one.status()["idle"] == 2)  # the one that came first may ask what is new
    record_earlier(one)
    with one.connection():
        is_due(one)
        assert one._runtime is not None
        assert one._runtime.pool is not None
        for _ in range(3):
            one._runtime.pool._ring()
            time.sleep(0.02)
        assert told(conn) == []
        assert size(one) == 2
    one._runtime.pool._ring()
    until(lambda: told(conn) == [(4, 2)])


def test_a_missing_table_is_one_line_and_nothing_else(
    guard: Open, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute(f"DROP TABLE {TABLE.quoted}")
    one = guard()
    assert one.open(wait=10)
    for _ in range(3):
        is_due(one)
        with one.connection() as lent:
            assert lent.execute("SELECT 1").fetchone() == (1,)
    [line] = [each for each in caplog.messages if "history" in each]
    assert line.endswith("there is no table shared.history. Run poolguard history --create")
    status = one.status()
    assert status["closed"] == {}
    assert status["last_error"] is None


def test_a_table_that_does_not_answer_delays_nobody(
    guard: Open, postgres: PrivatePostgres, conn: psycopg.Connection
) -> None:
    one = guard()
    with postgres.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {TABLE.quoted}")
        began = time.monotonic()
        assert one.open(wait=10)
        assert time.monotonic() - began < 3  # of 0.25 s
        before = backends(one)
        is_due(one)
        with one.connection() as lent:
            assert lent.execute("SELECT 1").fetchone() == (1,)
        assert before <= backends(one)


def backends(guard: Guard) -> set[int]:
    assert guard._runtime is not None
    assert guard._runtime.pool is not None
    entries = guard._runtime.pool._core.those("idle", "checking")
    return {entry.conn.info.backend_pid for entry in entries}
