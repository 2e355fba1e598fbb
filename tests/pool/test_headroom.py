"""Connections that are opened before anybody waits for one: in both pools, and behind a worker."""

from __future__ import annotations

import math
from typing import Any

import pytest

from poolguard import Guard
from poolguard.budget.plan import Workplace
from poolguard.budget.static import StaticLedger
from poolguard.lab.proxy import SlowProxy
from poolguard.worker import registry
from poolguard.worker.context import WorkerContext
from tests.pool.support import Kind, eventually, in_loop, opened
from tests.support import until


@in_loop
async def test_a_load_that_grows_slowly_finds_each_time_a_connection_free(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=2, max_size=20, at_once=math.inf) as pool:
        lent: list[Any] = [await pool.get()]
        for n in range(2, 12):
            lent.append(await pool.get())
            spare = math.isqrt(n)
            await eventually(lambda: pool.status()["idle"] == spare)  # noqa: B023 - awaited here
        assert pool.recorder.outcomes == ["acquired"] * 11
        assert pool.status()["created"] == {"warmup": 2, "headroom": 12}
        assert pool.status()["waiting"] == pool.status()["opening"] == 0
        await pool.put(*lent)


@in_loop
async def test_no_more_are_opened_than_can_be_lent_at_once(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=2, max_size=20, at_once=5) as pool:
        lent: list[Any] = []
        for _ in range(4):
            lent.append(await pool.get())
            await eventually(lambda: pool.status()["idle"])
        lent.append(await pool.get())
        # One that is asked for at the same time comes after any that would be opened ahead.
        lent.append(await pool.get())
        assert pool.recorder.outcomes == ["acquired"] * 5 + ["created"]
        assert pool.status()["created"] == {"warmup": 2, "headroom": 3, "growth": 1}
        await pool.put(*lent)


@in_loop
async def test_on_its_own_a_pool_opens_none_ahead(kind: Kind, dsn: str) -> None:
    """psycopg_pool opens what is asked for."""
    async with opened(kind, dsn, min_size=2, max_size=20) as pool:
        lent = [await pool.get() for _ in range(4)]
        assert pool.recorder.outcomes == ["acquired"] * 2 + ["created"] * 2
        assert pool.status()["created"] == {"warmup": 2, "growth": 2}
        await pool.put(*lent)


@in_loop
async def test_a_request_that_waits_is_served_by_what_was_begun_ahead(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(kind, gate_dsn, min_size=2, max_size=20, at_once=math.inf) as pool:
        gate.blackhole()
        lent = [await pool.get(), await pool.get()]
        await eventually(lambda: pool.status()["opening"] == 1)
        gate.resume()
        lent.append(await pool.get())
        assert pool.status()["created"].get("growth", 0) == 0
        await pool.put(*lent)


@in_loop
async def test_where_the_budget_is_used_up_nobody_is_pressed_for_it(kind: Kind, dsn: str) -> None:
    ledger = StaticLedger(3)
    async with opened(kind, dsn, min_size=2, max_size=20, at_once=math.inf, ledger=ledger) as pool:
        lent = [await pool.get(), await pool.get()]
        await eventually(lambda: pool.status()["idle"] == 1)
        lent.append(await pool.get())
        await pool.put(lent.pop())
        assert pool.status()["created"] == {"warmup": 2, "headroom": 1}
        assert ledger.in_use == 3
        await pool.put(*lent)


@pytest.mark.parametrize(
    ("workplace", "at_once"),
    [
        (Workplace.of("gthread", threads=3), 3),
        (Workplace.of("sync"), 1),
        (Workplace.of("gevent"), math.inf),
        (Workplace.of("uvicorn_worker.UvicornWorker"), math.inf),
        (Workplace(), math.inf),
    ],
)
def test_a_guard_opens_ahead_what_its_worker_class_can_use(
    workplace: Workplace, at_once: float, dsn: str
) -> None:
    """Who handles no more than so many requests needs no more connections."""
    registry.become(WorkerContext(told=workplace))
    with Guard(dsn, mode="sync", budget=20, floor=2) as guard:
        pool: Any = guard.pool
        assert pool._keeper.at_once == at_once
        with guard.connection(), guard.connection():
            if at_once > 2:
                until(lambda: guard.status()["created"] == {"warmup": 2, "headroom": 1})
