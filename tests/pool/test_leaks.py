"""Connections that are held for too long, never returned, or piled up: who is told what."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from contextvars import copy_context
from threading import Barrier, Thread
from typing import Any, get_args

import psycopg_pool
import pytest

from poolguard.pool.acquirer import Acquirer
from poolguard.pool.core import Core
from poolguard.pool.entry import Entry
from poolguard.pool.events import Leak, LeakKind
from poolguard.pool.leaks import Leaks, log_leak
from poolguard.pool.sync import GuardedPool
from tests.pool.support import Face, Kind, eventually, in_loop, opened, serving


class Request(Acquirer):
    """A request called ``GET /orders``."""

    @property
    def label(self) -> str:
        return "GET /orders"


async def take(pool: Face, timeout: float | None = None) -> Any:
    """A connection that this very task acquires, or this very thread."""
    if isinstance(pool.pool, GuardedPool):
        return pool.pool.getconn(timeout)
    return await pool.pool.getconn(timeout)


# -- held for too long -------------------------------------------------------------------------


@in_loop
async def test_one_held_for_too_long_is_told_once_and_again_when_it_comes_back(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other, of which nothing is known but that it was returned in time, is not."""
    async with opened(kind, dsn, min_size=2, leak_after=0.3) as pool:
        recorder = pool.recorder
        short = await pool.get()
        long = await pool.get()
        await pool.put(short)
        await eventually(lambda: recorder.leaks)
        [overdue] = recorder.leaks
        assert (overdue.kind, overdue.acquirer, overdue.times) == ("overdue", None, 1)
        assert overdue.held >= 0.3
        assert not any("/poolguard/pool/" in place for place in overdue.stack)
        told_at = overdue.held
        short = await pool.get()
        await pool.put(short, long)
        [_, returned] = recorder.leaks
        assert returned.kind == "returned"
        assert returned.held >= told_at
        assert returned.stack == overdue.stack
        assert pool.status()["leaks"] == {"overdue": 1, "returned": 1}
    said = [r.getMessage() for r in caplog.records if r.name == "poolguard"]
    assert [pool.name in text for text in said] == [True, True]
    assert "has held a connection" in said[0]
    assert "has returned the connection" in said[1]
    assert all(place in said[0] for place in overdue.stack)


@in_loop
async def test_the_stack_begins_where_the_application_acquires(dsn: str) -> None:
    async with opened("async", dsn, min_size=1, leak_after=0.05) as pool:

        async def endpoint() -> None:
            async with pool.pool.connection():  # type: ignore[union-attr]
                await eventually(lambda: pool.recorder.leaks)

        await endpoint()
        innermost = pool.recorder.leaks[0].stack[0]
        assert innermost.startswith(__file__)
        assert innermost.endswith(" in endpoint")


@in_loop
async def test_unless_asked_for_nothing_is_watched(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as pool:
        conn = await pool.get()
        assert conn._poolguard_entry.checkout is None
        await pool.put(conn)


class Conn:
    """Stands for a connection: what an entry refers to."""


def lent(at: float) -> tuple[Entry, Conn]:
    """One that was lent *at* that time. Who has the connection is to keep it."""
    core, entry, conn = Core(0, 1, check_after_idle=math.inf), Entry(None, at), Conn()
    core.begin(entry)
    entry.take(conn)
    core.arrive(entry, at)
    assert core.take(at) is conn
    return entry, conn


def test_it_looks_again_when_the_next_is_due() -> None:
    """And as long as nothing is lent, so often that none which is lent meanwhile is told late."""
    told: list[Leak] = []
    leaks = Leaks(10.0, told.append, lambda: None)
    assert leaks.overdue(100.0) == 110.0
    first, _conn = lent(102.0)
    leaks.lent(first, None)
    second, _other = lent(105.0)
    leaks.lent(second, None)
    assert leaks.overdue(110.0) == 112.0
    assert leaks.overdue(112.0) == 115.0
    assert [(leak.kind, leak.held) for leak in told] == [("overdue", 10.0)]
    leaks.returned(second)
    assert leaks.overdue(115.0) == 125.0
    assert len(told) == 1


# -- requests ----------------------------------------------------------------------------------


@in_loop
async def test_a_request_that_ends_without_returning_is_told_of(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, dsn, min_size=2) as pool:
        request = Request()
        with serving(request):
            conn = await take(pool)
            await pool.put(await take(pool))
        assert pool.recorder.leaks[0].kind == "nested"
        request.ended()
        request.ended()
        unreturned = pool.recorder.leaks[1:]
        assert [(leak.kind, leak.acquirer) for leak in unreturned] == [
            ("unreturned", "GET /orders")
        ]
        assert unreturned[0].stack == ()
        await pool.put(conn)
        assert not request.checkouts
        assert len(pool.recorder.leaks) == 2
    assert "GET /orders has ended without returning a connection" in caplog.text
    assert "Set leak_after to be told where it was taken" in caplog.text


@in_loop
async def test_a_request_that_returns_all_it_took_is_not(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as pool:
        request = Request()
        with serving(request):
            for _ in range(2):
                await pool.put(await pool.get())
        request.ended()
        assert pool.recorder.leaks == []


@in_loop
async def test_what_a_request_leaves_behind_is_not_the_requests(kind: Kind, dsn: str) -> None:
    """A task that goes on after its request has ended returns what it takes in its own time."""
    async with opened(kind, dsn, min_size=1) as pool:
        request = Request()
        request.ended()
        with serving(request):
            conn = await pool.get()
            assert not request.checkouts
        await pool.put(conn)
        assert pool.recorder.leaks == []


@in_loop
async def test_a_request_that_acquires_twice_is_told_of_before_it_waits(
    kind: Kind, dsn: str
) -> None:
    """It may wait for itself."""
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        request = Request()
        with serving(request):
            conn = await take(pool)
            with pytest.raises(psycopg_pool.PoolTimeout):
                await take(pool, 0.05)
        [nested] = pool.recorder.leaks
        assert (nested.kind, nested.acquirer) == ("nested", "GET /orders")
        assert nested.held < 0.05 + 5
        assert nested.stack
        await pool.put(conn)


@in_loop
async def test_one_nested_acquire_is_counted_once_though_its_connection_is_verified_first(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=2, max_size=2, check_interval=3600.0) as pool:
        with serving(Request()):
            conn = await take(pool)
            [idle] = pool.pool._core.idle
            idle.proved_at -= 3600.0
            long_ago = idle.proved_at
            other = await take(pool)
        assert idle.conn is other
        assert idle.proved_at > long_ago
        assert pool.status()["leaks"] == {"nested": 1}
        await pool.put(conn, other)


@in_loop
async def test_parallel_tasks_or_threads_of_a_request_do_not_wait_for_themselves(
    kind: Kind, dsn: str
) -> None:
    """Each takes one, uses it and returns it; that another has one meanwhile is no matter."""
    together = Barrier(3)
    async with opened(kind, dsn, min_size=3) as pool:
        held: list[object] = []

        def query() -> None:
            with pool.pool.connection():  # type: ignore[union-attr]
                together.wait(10)

        async def aquery() -> None:
            async with pool.pool.connection() as conn:  # type: ignore[union-attr]
                held.append(conn)
                await eventually(lambda: len(held) >= 3)

        with serving(Request()):
            for _ in range(2):  # a thread that has been used before is as good
                jobs = [asyncio.to_thread(query) if kind == "sync" else aquery() for _ in range(3)]
                await asyncio.gather(*jobs)
        assert pool.recorder.leaks == []


@in_loop
async def test_what_a_task_or_a_thread_has_left_to_its_request_is_the_requests(
    kind: Kind, dsn: str
) -> None:
    """As a dependency does that a framework enters in another thread than the endpoint's."""
    async with opened(kind, dsn, min_size=2) as pool:
        taken: list[Any] = []

        async def one() -> None:
            taken.append(await take(pool))

        with serving(Request()):
            for _ in range(2):
                if kind == "async":
                    await asyncio.create_task(one())
                else:
                    thread = Thread(target=copy_context().run, args=(asyncio.run, one()))
                    thread.start()
                    thread.join()
        assert [leak.kind for leak in pool.recorder.leaks] == ["nested"]
        await pool.put(*taken)


@in_loop
async def test_connections_of_two_pools_may_be_held_at_once(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as one, opened(kind, dsn, min_size=1) as other:
        with serving(Request()):
            conns = await one.get(), await other.get()
        assert one.recorder.leaks == other.recorder.leaks == []
        await one.put(conns[0])
        await other.put(conns[1])


@in_loop
async def test_what_may_happen_with_every_request_is_said_ever_more_rarely(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, dsn, min_size=2) as pool:
        with serving(Request()):
            conn = await take(pool)
            for _ in range(9):
                await pool.put(await take(pool))
        await pool.put(conn)
        assert pool.status()["leaks"] == {"nested": 9}
        assert [leak.times for leak in pool.recorder.leaks] == [*range(1, 10)]
    said = [text for text in caplog.messages if "while it holds one" in text]
    assert len(said) == 4
    assert "(the 2nd time)" in said[1]
    assert "(the 8th time)" in said[3]


# -- never returned ----------------------------------------------------------------------------


@in_loop
async def test_one_that_nobody_refers_to_any_more_frees_its_place(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For those who wait, and for the floor; and its end is counted once."""
    async with opened(kind, dsn, min_size=1, max_size=1, leak_after=60) as pool:
        conn = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        del conn
        gc.collect()
        other = await asyncio.wait_for(waiting, 5)
        await pool.put(other)
        await eventually(lambda: pool.status()["closed"] == {"discarded": 1})
        status = pool.status()
        assert status["leaks"] == {"collected": 1}
        assert sum(status["created"].values()) - 1 == pool.size == 1
        assert pool.recorder.leaks[0].stack
    assert "somebody has never returned a connection" in caplog.text


@in_loop
async def test_one_that_ends_and_is_then_dropped_frees_its_place_too(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        if kind == "sync":
            conn.close()
        else:
            await conn.close()
        await eventually(lambda: pool.status()["closed"])
        assert pool.status()["used"] == 1
        del conn
        gc.collect()
        await pool.put(await pool.get())
        assert pool.size == 1
        assert pool.status()["leaks"] == {"collected": 1}


def test_with_psycopg_pools_own_class_its_place_is_lost(dsn: str) -> None:
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1) as pool:
        conn = pool.getconn()
        del conn
        gc.collect()
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn(timeout=0.5)


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(LeakKind))
def test_every_kind_says_who_has_what(kind: LeakKind, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poolguard"):
        log_leak(Leak("main", kind, 1.25, "POST /pay", ("shop.py:7 in pay",), 1))
        log_leak(Leak("main", kind, 1.25, None, (), 2))
    known, unknown = caplog.messages
    assert "POST /pay" in known
    assert "'main'" in known
    assert known.endswith("\n  shop.py:7 in pay")
    assert "somebody" in unknown
