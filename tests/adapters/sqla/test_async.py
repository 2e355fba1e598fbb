"""What differs where an engine is async: what waits, what is cancelled, and what is collected."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.util import greenlet_spawn

import poolguard
from poolguard.sqlalchemy import GuardTimeout
from poolguard.worker import overload

from .conftest import Run, Wire

PID = text("SELECT pg_backend_pid()")
ONE = {"floor": 1, "max_size": 1}


def status(engine: AsyncEngine) -> dict[str, Any]:
    return poolguard.sqlalchemy.guard(engine).status()


async def nothing_is_used(engine: AsyncEngine, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while status(engine)["used"]:
        assert time.monotonic() < deadline, status(engine)
        await asyncio.sleep(0.01)


def test_sessions_share_what_there_is(run: Run) -> None:
    async def main(engine: AsyncEngine) -> None:
        told: list[str] = []
        event.listen(engine.sync_engine, "connect", lambda *_: told.append("connect"))

        async def work() -> None:
            async with AsyncSession(engine) as session:
                assert await session.scalar(text("SELECT 1")) == 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert len(told) <= 3
        await nothing_is_used(engine)

    run(main, settings={"floor": 2, "max_size": 3, "acquire_timeout": 10})


def test_what_is_free_is_lent_and_returned_without_waiting(run: Run) -> None:
    """No switch between greenlets, so that nothing can be cancelled in the midst."""

    async def main(engine: AsyncEngine) -> None:
        async with engine.connect():
            pass
        raw = engine.sync_engine.raw_connection()  # outside of a greenlet nothing can wait
        raw.close()

    run(main, settings=ONE)


def test_nothing_is_rolled_back_twice_or_where_nothing_was_begun(run: Run, tmp_path: Path) -> None:
    async def main(engine: AsyncEngine) -> None:
        raw = await engine.raw_connection()
        conn = raw.driver_connection
        await greenlet_spawn(raw.close)
        with Wire(conn, tmp_path) as said:
            async with engine.connect():
                pass
            assert said() == []
            async with engine.connect() as mine:
                await mine.execute(text("SELECT 1"))
            assert [line.split('"')[1] for line in said()] == ["BEGIN", "SELECT 1", "ROLLBACK"]

    run(main, settings=ONE)


def test_all_idle_connections_meet_the_listeners_before_the_worker_serves(run: Run) -> None:
    async def main(engine: AsyncEngine) -> None:
        told: list[str] = []
        event.listen(engine.sync_engine, "connect", lambda *_: told.append("connect"))
        await poolguard.sqlalchemy.guard(engine).when_warm[0]()
        assert len(told) == status(engine)["idle"] == 3
        assert engine.dialect.server_version_info

    run(main, settings={"floor": 3, "max_size": 3})


def test_a_task_that_is_cancelled_as_it_waits_takes_none(run: Run) -> None:
    """At each moment of its wait, of its query and of its return."""

    async def main(engine: AsyncEngine) -> None:
        async def use() -> None:
            async with engine.connect() as conn:
                await conn.execute(text("SELECT pg_sleep(0.002)"))

        for n in range(60):
            tasks = [asyncio.ensure_future(use()) for _ in range(3)]
            await asyncio.sleep(n * 0.0002)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await nothing_is_used(engine)
        async with engine.connect() as conn:
            assert await conn.scalar(text("SELECT 1")) == 1

    run(main, settings={**ONE, "acquire_timeout": 10})


def test_invalidated_and_detached_ones_give_their_slots_back(run: Run) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as conn:
            bad = await conn.scalar(PID)
            await conn.invalidate()
        async with engine.connect() as conn:
            assert await conn.scalar(PID) != bad
        raw = await engine.raw_connection()
        raw.detach()
        with pytest.raises(GuardTimeout):
            await engine.connect()
        await greenlet_spawn(raw.close)
        raw = await engine.raw_connection()
        raw.invalidate(soft=True)
        await greenlet_spawn(raw.close)
        async with engine.connect() as conn:
            assert await conn.scalar(text("SELECT 1")) == 1

    run(main, settings=ONE)


@pytest.mark.parametrize("circle", [False, True])
def test_one_that_is_collected_is_closed_and_its_slot_is_free(run: Run, circle: bool) -> None:
    """SQLAlchemy warns of it, and so does this."""

    async def main(engine: AsyncEngine) -> None:
        raw: Any = await engine.raw_connection()
        record = ref(raw._connection_record)
        if circle:
            raw.itself = raw
        said = "collected as garbage before it was returned"
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del raw
            gc.collect()
        assert any(said in str(each.message) for each in warned)
        assert record() is None
        async with engine.connect() as conn:
            assert await conn.scalar(text("SELECT 1")) == 1

    run(main, settings={**ONE, "acquire_timeout": 10})


def test_levels_and_autocommit_end_with_the_checkout(run: Run) -> None:
    async def main(engine: AsyncEngine) -> None:
        for level, said in (("AUTOCOMMIT", "read committed"), ("SERIALIZABLE", "serializable")):
            conn = await engine.connect()
            await conn.execution_options(isolation_level=level, postgresql_readonly=True)
            assert await conn.scalar(text("SHOW transaction_isolation")) == said
            await conn.close()
            async with engine.connect() as conn:
                assert await conn.scalar(text("SHOW transaction_isolation")) == "read committed"
                assert await conn.scalar(text("SHOW transaction_read_only")) == "off"
                raw = (await conn.get_raw_connection()).driver_connection
                assert not raw.autocommit  # type: ignore[union-attr]

    run(main, settings=ONE)


@pytest.mark.parametrize("how", ["rollback", None])
def test_what_is_left_open_is_not_lent_on(run: Run, how: str | None) -> None:
    """With ``pool_reset_on_return=None`` the guard itself rolls back."""

    async def main(engine: AsyncEngine) -> None:
        raw = await engine.raw_connection()
        await greenlet_spawn(lambda: raw.cursor().execute("SELECT set_config('my.own', '1', true)"))
        await greenlet_spawn(raw.close)
        async with engine.connect() as conn:
            assert await conn.scalar(text("SELECT current_setting('my.own', true)")) in (None, "")

    run(main, settings=ONE, pool_reset_on_return=how)


def test_an_exhausted_pool_raises_what_both_kinds_of_users_expect(run: Run) -> None:
    async def main(engine: AsyncEngine) -> None:
        async with engine.connect():
            for expected in (exc.TimeoutError, exc.OperationalError):
                with pytest.raises(expected) as raised:
                    await engine.connect()
                assert overload.caused(raised.value) is raised.value.__cause__

    run(main, settings={**ONE, "acquire_timeout": 0.05, "check_timeout": 0.05})


def test_it_is_not_disposed_of(run: Run) -> None:
    """Trap 4: templates do that at the end of the lifespan, when requests may still be served."""

    async def main(engine: AsyncEngine) -> None:
        async with engine.connect() as conn:
            pid = await conn.scalar(PID)
        await engine.dispose()
        assert engine.pool.size() == 1  # type: ignore[attr-defined]
        async with engine.connect() as conn:
            assert await conn.scalar(PID) == pid

    run(main, settings=ONE)
