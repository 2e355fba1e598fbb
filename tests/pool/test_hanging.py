"""A connect that hangs, in whichever of its steps, while the server is there for others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from poolguard.budget.static import StaticLedger
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import PoolTimeout
from tests.pool.support import Kind, eventually, in_loop, opened

CONNECT_TIMEOUT = 2
"""Seconds: the shortest that psycopg knows."""


@pytest.fixture(autouse=True)
def _no_session_stays(gate: SlowProxy) -> Iterator[None]:
    """The server hears nothing of those that hang."""
    yield
    gate.reset_all()


@in_loop
async def test_beside_a_connect_that_gets_no_answer_after_the_login_another_begins(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """The network loses what comes after the first login: it is given up, and its slot is free."""
    logins = 0

    def lose_the_first() -> None:
        nonlocal logins
        logins += 1
        if logins == 1:
            gate.silence_all()

    def configure(conn: Any) -> None:
        lose_the_first()
        conn.execute("SELECT 1")
        conn.rollback()

    async def aconfigure(conn: Any) -> None:
        await asyncio.to_thread(lose_the_first)
        await conn.execute("SELECT 1")
        await conn.rollback()

    ledger = StaticLedger(4)
    async with opened(
        kind,
        gate_dsn,
        min_size=0,
        max_size=4,
        ledger=ledger,
        configure=configure if kind == "sync" else aconfigure,
        kwargs={"connect_timeout": CONNECT_TIMEOUT},
    ) as pool:
        await pool.put(await pool.get(timeout=5.0))
        assert pool.status()["opening"] == 1
        assert ledger.in_use == 2
        await eventually(lambda: pool.status()["opening"] == 0, within=2 * CONNECT_TIMEOUT)
        await eventually(lambda: ledger.in_use == 1)
        (failure,) = pool.recorder.failures
        assert "the login went well" in failure.error
        assert "connect_timeout" in failure.error
        await pool.put(await pool.get(timeout=1.0))
        assert pool.recorder.outcomes == ["created", "acquired"]
        assert pool.status()["last_error"] is None


@in_loop
async def test_beside_a_login_that_hangs_another_begins(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(kind, gate_dsn, min_size=0, max_size=4, timeout=5.0) as pool:
        gate.blackhole()
        waiting = asyncio.create_task(pool.get())
        accepted = gate.stats()["accepted"]
        await eventually(lambda: pool.status()["opening"] == 1)
        await eventually(lambda: gate.stats()["accepted"] > accepted)
        gate.silence_all()
        gate.resume()
        await pool.put(await waiting)
        assert pool.status()["opening"] == 1


@in_loop
async def test_where_all_connects_hang_few_hang_and_the_error_says_so(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(kind, gate_dsn, min_size=0, max_size=20, timeout=1.5) as pool:
        gate.blackhole()
        waiting = [asyncio.create_task(pool.get()) for _ in range(4)]
        for each in waiting:
            with pytest.raises(PoolTimeout, match="does not answer"):
                await each
        assert pool.status()["opening"] in (4, 5)
