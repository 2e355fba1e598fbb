"""What only the async pool can have: cancellation, contexts of tasks, a loop that ends."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest

from poolguard.budget.static import StaticLedger
from poolguard.errors import ForkError
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.events import AcquireEnded
from tests.pool.support import (
    Recorder,
    descriptors,
    eventually,
    in_child,
    in_loop,
    opened,
)
from tests.support import until

REQUEST: ContextVar[str] = ContextVar("request", default="none")


class Reading(Recorder):
    """Also remembers in which context each event was told."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: dict[str, set[str]] = {}

    def _remember(self, event: Any, /) -> None:
        super()._remember(event)
        self.contexts.setdefault(type(event).__name__, set()).add(REQUEST.get())

    acquire_ended = connected = connect_failed = closed = warmed = _remember


# -- contexts


@in_loop
async def test_what_the_pool_does_of_itself_is_in_no_requests_context(
    dsn: str, admin: psycopg.Connection
) -> None:
    """Though requests open it, set connects off, return connections and see them die."""
    recorder = Reading()
    seen: set[str] = set()

    async def configure(conn: Any) -> None:
        seen.add(REQUEST.get())

    REQUEST.set("opener")
    arguments: dict[str, Any] = {"configure": configure, "listener": recorder}
    async with opened("async", dsn, min_size=1, max_size=3, max_idle=0.1, **arguments) as pool:
        REQUEST.set("request")
        await pool.put(*await pool.get_all(3))
        pool.kill(admin)
        await eventually(lambda: "Closed" in recorder.contexts)
        await eventually(lambda: pool.status()["idle"] >= 1)
        await pool.put(await pool.get())
    assert seen == {"none"}
    acquired = recorder.contexts.pop("AcquireEnded")
    assert acquired == {"request"}
    assert recorder.contexts.pop("Closed") <= {"none", "request"}  # the close() above told the rest
    assert set(recorder.contexts) == {"Connected", "Warmed"}
    assert set.union(*recorder.contexts.values()) == {"none"}


@in_loop
async def test_a_slot_that_a_request_frees_puts_no_connect_into_its_context(dsn: str) -> None:
    """The ledger rings in the context of whoever has given the slot back."""
    seen: list[str] = []

    async def configure(conn: Any) -> None:
        seen.append(REQUEST.get())

    ledger = StaticLedger(1)
    taken = ledger.lease(1)
    arguments: dict[str, Any] = {"configure": configure, "ledger": ledger}
    async with opened("async", dsn, min_size=0, max_size=1, **arguments) as pool:
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        REQUEST.set("request")
        ledger.release(taken.pop())
        await pool.put(await waiting)
    assert seen == ["none"]


# -- cancellation


@in_loop
async def test_an_adapter_need_not_wait_where_there_is_nothing_to_wait_for(dsn: str) -> None:
    """What is free is taken at once; what comes back in a transaction is made fit meanwhile."""
    async with AsyncGuardedPool(dsn, min_size=1, max_size=1, open=False) as pool:
        await pool.wait_warm(10)
        conn = pool.getconn_nowait()
        assert conn is not None
        assert pool.getconn_nowait() is None
        await conn.execute("SELECT 1")
        pool.putconn_nowait(conn)
        again = await pool.getconn()
        assert again is conn
        pool.putconn_nowait(again)
        assert pool.getconn_nowait() is conn
        pool.putconn_nowait(conn)


@in_loop
async def test_a_cancelled_acquire_loses_no_connection(dsn: str) -> None:
    async with opened("async", dsn, min_size=1, max_size=1) as pool:
        for delay in (0, 1, 2, 3):  # turns of the loop between the return and the cancellation
            conn = await pool.get()
            waiting = asyncio.create_task(pool.get())
            await eventually(lambda: pool.status()["waiting"] == 1)
            returning = asyncio.create_task(pool.put(conn))
            for _ in range(delay):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            await returning
            if waiting.cancelled():
                assert pool.recorder.outcomes[-1] == "error"
            else:
                await pool.put(waiting.result())
            await eventually(lambda: pool.status()["idle"] == 1)
            assert pool.size == 1
        assert len(pool.recorder.of(AcquireEnded)) == 8


@in_loop
async def test_connects_under_way_are_given_up_when_the_pool_closes(
    gate: SlowProxy, gate_dsn: str
) -> None:
    """At once: not after the connect's own timeout."""
    gate.blackhole()
    ledger = StaticLedger()
    open_before = len(descriptors())
    pool = AsyncGuardedPool(gate_dsn, min_size=3, open=False, ledger=ledger)
    await pool.open()
    await eventually(lambda: pool.status()["opening"] == 3)
    await pool.close(timeout=60)
    assert ledger.in_use == pool.status()["opening"] == 0
    assert len(descriptors()) == open_before


# -- races


@in_loop
async def test_one_that_ends_while_it_is_being_returned_is_not_left_in_the_pool(
    dsn: str, admin: psycopg.Connection
) -> None:
    """The watch has told of its end, and the upkeep has not yet looked."""
    async with opened("async", dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        entry = conn._poolguard_entry
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        for ended in pool.pool._watch.wait(5.0):
            assert ended is entry
        await pool.put(conn)
        pool.pool._look([entry])
        await eventually(lambda: pool.recorder.closes == ["lost"])
        await eventually(lambda: pool.status()["idle"] == 1)
        other = await pool.get()
        assert other is not conn
        await pool.execute(other, "SELECT 1")
        await pool.put(other)


# -- forks, and loops that end


@in_loop
async def test_in_a_forked_child_the_pool_is_refused_and_the_parents_goes_on(dsn: str) -> None:
    async with opened("async", dsn, min_size=2) as pool:
        lent: Any = await pool.get()
        backend = lent.info.backend_pid
        aio: Any = pool.pool

        def child() -> str:
            said = 0
            for use in (aio.getconn, aio.wait, aio.open):
                try:
                    use().send(None)  # in a child there is no loop to run it
                except ForkError:
                    said += 1
            for use in (aio.check, aio.drain, aio.close, lambda: aio.putconn(lent)):
                with pytest.raises(StopIteration):
                    use().send(None)
            return f"{said} {aio.closed} {aio.status()['idle']}"

        assert in_child(child) == "3 True 0"
        await pool.execute(lent, "SELECT 1")
        assert lent.info.backend_pid == backend
        await pool.put(lent)
        await pool.put(*await pool.get_all(2))
        assert pool.status()["closed"] == {}


def test_a_pool_whose_loop_has_ended_can_be_abandoned(dsn: str, admin: psycopg.Connection) -> None:
    gc.collect()  # what other tests have dropped
    open_before = len(descriptors())
    ledger = StaticLedger()
    made: list[AsyncGuardedPool[Any]] = []

    async def run() -> None:
        pool = AsyncGuardedPool(
            dsn, min_size=2, open=False, ledger=ledger, kwargs={"application_name": "abandoned"}
        )
        made.append(pool)
        await pool.open()
        assert await pool.wait_warm(10)

    asyncio.run(run())
    assert ledger.in_use == 2
    ledger.release(ledger.lease(1)[0])  # rings a loop that is closed
    made[0].abandon()
    made[0].abandon()
    assert made[0].closed
    assert ledger.in_use == 0
    assert len(descriptors()) == open_before
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'abandoned'"
    until(lambda: admin.execute(query).fetchone() == (0,))


def test_outside_a_loop_it_does_not_open() -> None:
    pool = AsyncGuardedPool(open=False)
    with pytest.raises(RuntimeError, match="no running event loop"):
        pool.open().send(None)
