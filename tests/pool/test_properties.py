"""Whatever happens to a pool, in any order: no connection has two holders, and nothing is lost.

Hypothesis makes up the story and shortens one that ends badly. The server is real, and so is every
connection that is killed, dropped, expired or returned.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolguard.budget.static import StaticLedger
from poolguard.util.clock import now as clock
from tests.pool.support import Face, Kind, at_rest, eventually, expire, in_loop

FLOOR, MOST, BUDGET = 1, 4, 5

ACTIONS = (
    "acquire",
    "release",
    "release broken",
    "close and release",
    "drop",
    "kill an idle one",
    "kill a lent one",
    "expire",
    "age",
    "doubt",
    "resize",
    "drain",
    "check",
    "cancel",
)
STORIES = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), max_size=30)
EXAMPLES = int(os.environ.get("POOLGUARD_TEST_EXAMPLES", "12"))


class Story:
    """A pool, whom it has lent connections to, and what happens next."""

    def __init__(self, pool: Face, ledger: StaticLedger, admin: psycopg.Connection) -> None:
        self.pool = pool
        self.ledger = ledger
        self.admin = admin
        self.lent: list[Any] = []
        self.asked = 0
        self.most = MOST

    async def happens(self, action: str, number: int) -> None:
        step: Callable[[int], Awaitable[None]] = getattr(self, action.replace(" ", "_"))
        await step(number)
        assert self.ledger.in_use <= BUDGET
        assert len({id(conn) for conn in self.lent}) == len(self.lent)

    def one_lent(self, number: int) -> Any:
        return self.lent.pop(number % len(self.lent)) if self.lent else None

    def idle(self, number: int) -> Any:
        conns = [entry.kept for entry in self.pool.pool._core.idle]
        return conns[number % len(conns)] if conns else None

    async def acquire(self, number: int) -> None:
        self.asked += 1
        try:
            conn = await self.pool.get(timeout=0.02 if len(self.lent) >= self.most else 10)
        except psycopg_pool.PoolTimeout:
            return
        assert all(conn is not other for other in self.lent), "two holders"
        self.lent.append(conn)

    async def cancel(self, number: int) -> None:
        """An acquire that is given up, before or after it has got one."""
        if self.pool.kind == "sync":
            await self.acquire(number)
            return
        self.asked += 1
        waiting = asyncio.create_task(self.pool.get(timeout=10))
        for _ in range(1 + number):  # the first has it begin
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled() and waiting.exception() is None:
            self.lent.append(waiting.result())

    async def release(self, number: int) -> None:
        if (conn := self.one_lent(number)) is not None:
            await self.pool.put(conn)

    async def release_broken(self, number: int) -> None:
        """In the middle of a transaction that has failed."""
        if (conn := self.one_lent(number)) is not None:
            try:
                await self.pool.execute(conn, "SELECT 1/0")
            except psycopg.Error:
                await self.pool.put(conn)

    async def close_and_release(self, number: int) -> None:
        if (conn := self.one_lent(number)) is not None:
            closed = conn.close()
            if closed is not None:
                await closed
            await self.pool.put(conn)

    async def drop(self, number: int) -> None:
        if (conn := self.one_lent(number)) is not None:
            del conn
            gc.collect()

    def kill(self, conn: Any) -> None:
        if conn is not None and not conn.closed:
            self.admin.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])

    async def kill_an_idle_one(self, number: int) -> None:
        self.kill(self.idle(number))

    async def kill_a_lent_one(self, number: int) -> None:
        if self.lent:
            self.kill(self.lent[number % len(self.lent)])

    async def expire(self, number: int) -> None:
        for conn in (self.idle(number), self.lent[0] if self.lent else None):
            if conn is not None:
                expire(conn._poolguard_entry, clock())
        self.pool.pool._ring()

    async def age(self, number: int) -> None:
        """Idle for so long that they must be verified."""
        for conn in [entry.kept for entry in self.pool.pool._core.idle][: number + 1]:
            conn._poolguard_entry.proved_at = clock() - 3600

    async def doubt(self, number: int) -> None:
        self.pool.pool._core.doubt(clock())

    async def resize(self, number: int) -> None:
        self.most = 1 + number % (MOST + 2)
        await self.pool.call("resize", min(number % 3, self.most), self.most)

    async def drain(self, number: int) -> None:
        await self.pool.call("drain")

    async def check(self, number: int) -> None:
        await self.pool.call("check")

    async def ends(self) -> None:
        """All is given back: then it is as if nothing had happened, and as much can be had."""
        await self.pool.put(*self.lent)
        self.lent.clear()
        await self.pool.call("resize", FLOOR, MOST)
        await self.pool.call("check")  # one may have been killed a moment ago
        self.pool.pool._ring()
        await eventually(lambda: at_rest(self.pool, self.ledger))
        conns = await self.pool.get_all(MOST)
        for conn in conns:
            await self.pool.execute(conn, "SELECT 1")
        await self.pool.put(*conns)
        self.asked += MOST
        assert sum(self.pool.status()["acquires"].values()) == self.asked


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=STORIES)
def test_no_story_loses_a_connection(
    kind: Kind,
    dsn: str,
    admin: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
    story: list[tuple[str, int]],
) -> None:
    # What psycopg_pool logs refers to the connection, which pytest would keep to the end.
    caplog.set_level(logging.CRITICAL, "psycopg.pool")
    admin.autocommit = True

    @in_loop
    async def tell() -> None:
        ledger = StaticLedger(BUDGET)
        pool = Face(kind, dsn, min_size=FLOOR, max_size=MOST, ledger=ledger, check_interval=0.05)
        await pool.open()
        try:
            happening = Story(pool, ledger, admin)
            for action, number in story:
                await happening.happens(action, number)
            await happening.ends()
        finally:
            await pool.close()
        await eventually(lambda: ledger.in_use == 0)

    tell()
