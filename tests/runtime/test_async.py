"""The same guard on an event loop, or on several one after the other."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from time import monotonic

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import poolguard
from poolguard import Guard, ModeError, PoolguardError, SettingsError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import PoolClosed
from poolguard.runtime.status import not_warm

from ..support import until
from .test_guard import SMALL, backends, named


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """:func:`~tests.support.until`, with the loop running meanwhile."""
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.01)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/dev/fd"))


async def answer(guard: Guard) -> object:
    async with guard.aconnection() as conn:
        [row] = await (await conn.execute("SELECT 1")).fetchall()
        return row[0]


def test_aopen_warms_and_aclose_ends_every_connection(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "aclosing"), **SMALL)

    async def run() -> None:
        assert await guard.aopen(wait=10)
        assert guard.ready
        assert guard.mode == "async"
        assert backends(admin, "aclosing") == 2
        assert await answer(guard) == 1
        await guard.aclose()
        assert backends(admin, "aclosing") == 0
        with pytest.raises(PoolClosed):
            await answer(guard)
        await guard.aclose()

    asyncio.run(run())
    assert guard.status()["closed"] == {"shutdown": 2}


def test_the_first_connection_asks_for_the_capacity(postgres: PrivatePostgres) -> None:
    role = postgres.create_role("async_limited_to_20", connection_limit=20)

    async def run() -> None:
        async with Guard(role, workers=2, floor=3) as guard:
            status = guard.status()
            assert (status["floor"], status["max_size"], status["idle"]) == (3, 14, 3)
            assert status["budget"]["capacity"] == 20

    asyncio.run(run())


def test_two_tasks_that_open_open_once(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "atwice"), **SMALL)

    async def run() -> None:
        assert await asyncio.gather(*(guard.aopen(wait=10) for _ in range(8))) == [True] * 8
        assert guard.status()["created"] == {"warmup": 2}
        assert backends(admin, "atwice") == 2
        await guard.aclose()

    asyncio.run(run())


def test_whoever_opened_may_be_cancelled(slow_dsn: str) -> None:
    """The others that wait for the same opening, and the pool, do not notice."""
    guard = Guard(slow_dsn, **SMALL)

    async def run() -> None:
        first = asyncio.ensure_future(guard.aopen(wait=10))
        second = asyncio.ensure_future(guard.aopen(wait=10))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        with pytest.raises(asyncio.CancelledError):
            await first
        await guard.aclose()

    asyncio.run(run())


def test_one_loop_after_the_other(dsn: str, admin: psycopg.Connection) -> None:
    """Closed properly in between, as a test suite with a loop for each test does."""
    guard = Guard(named(dsn, "loops"), **SMALL)

    async def run() -> None:
        async with guard:
            assert await answer(guard) == 1

    for _ in range(2):
        asyncio.run(run())
        assert backends(admin, "loops") == 0


def test_a_pool_whose_loop_is_gone_is_given_up(dsn: str, admin: psycopg.Connection) -> None:
    """Not closed in between: the next opening has connections of its own, the old ones end."""
    guard = Guard(named(dsn, "abandoned"), **SMALL)
    assert asyncio.run(guard.aopen(wait=10))
    assert (guard.opened, guard.ready) == (False, False)
    with pytest.raises(PoolClosed, match=r"await guard\.aopen"):
        guard.aconnection()

    async def run() -> None:
        assert await guard.aopen(wait=10)
        assert await answer(guard) == 1
        assert guard.status()["created"] == {"warmup": 2}
        await eventually(lambda: backends(admin, "abandoned") == 2)
        await guard.aclose()

    asyncio.run(run())


def test_a_pool_whose_loop_is_gone_may_be_closed(dsn: str, admin: psycopg.Connection) -> None:
    """Without waiting for the old loop, and at once, though somebody may still know the pool."""
    guard = Guard(named(dsn, "aclose-late"), **SMALL)
    before = descriptors()

    async def run() -> object:
        await guard.aopen(wait=10)
        return guard.pool

    pool = asyncio.run(run())
    asyncio.run(guard.aclose())
    until(lambda: backends(admin, "aclose-late") == 0)
    until(lambda: descriptors() <= before)
    assert pool is not None
    assert repr(guard).startswith("<Guard 'default' closed ")


def test_a_loop_that_still_runs_keeps_its_pool(dsn: str) -> None:
    guard = Guard(dsn, **SMALL)
    opened, ended = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with guard:
            opened.set()
            await asyncio.to_thread(ended.wait, 10)
            assert await answer(guard) == 1

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    try:
        assert opened.wait(10)
        with pytest.raises(PoolguardError, match="open on another event loop"):
            asyncio.run(guard.aopen())
        with pytest.raises(PoolguardError, match="open on another event loop"):
            asyncio.run(answer(guard))
        with pytest.raises(PoolguardError, match="open on another event loop"):
            asyncio.run(guard.aclose())
        assert guard.opened
    finally:
        ended.set()
        thread.join(10)
    assert not guard.opened


def test_it_opens_without_its_database_and_serves_when_that_comes(
    postgres: PrivatePostgres,
) -> None:
    async def run(proxy: SlowProxy) -> None:
        async with Guard(postgres.conninfo(port=proxy.port), **SMALL, warmup_timeout=0.1) as guard:
            assert not guard.ready
            await eventually(lambda: guard.status()["last_error"])
            assert "Connection refused" in not_warm(guard.status(), 1)
            proxy.resume()
            await eventually(lambda: guard.ready)
            assert await answer(guard) == 1

    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0.0) as proxy:
        proxy.refuse()
        asyncio.run(run(proxy))


def test_settings_that_cannot_work_are_raised_and_may_be_tried_again() -> None:
    guard = Guard("postgresql://localhost:notaport/x", **SMALL)
    for _ in range(2):
        with pytest.raises(SettingsError, match="keyword dsn"):
            asyncio.run(guard.aopen())
        assert not guard.opened


def test_an_async_guard_refuses_sync_use(dsn: str) -> None:
    """Also one that only its first use has made async."""
    guard = Guard(dsn, **SMALL)

    async def run() -> None:
        async with guard:
            for use in (guard.open, guard.connection):
                with pytest.raises(ModeError, match="'default' is async here"):
                    use()
            guard.close()
            assert guard.ready

    asyncio.run(run())


def test_a_callable_may_be_a_coroutine_function(dsn: str) -> None:
    """psycopg's async pool takes one, for credentials that are fetched; its answers are judged."""
    answers = iter(["postgresql://u:p@ss@localhost/x"])

    async def fetched() -> str:
        await asyncio.sleep(0)
        return next(answers, dsn)

    async def run() -> None:
        guard = Guard(fetched, budget=1, floor=1)  # type: ignore[arg-type]
        failures = set()

        def ready() -> bool:
            failures.add(str(guard.status()["last_error"]))
            return guard.ready

        await guard.aopen()
        await eventually(ready)
        assert any("libpq cannot read it" in failure for failure in failures)
        await guard.aclose()

    asyncio.run(run())


def test_the_default_guard_comes_from_the_environment(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn))
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")

    async def run() -> None:
        async with poolguard.guard(), poolguard.aconnection() as conn:
            await conn.execute("SELECT 1")

    asyncio.run(run())
