"""Everything at once: many users of one pool, and a network and a server that fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any

import psycopg
import psycopg_pool
import pytest

from poolguard.budget.static import StaticLedger
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.util.clock import now as clock
from tests.pool.support import Face, Kind, at_rest, descriptors, eventually, expire, in_loop

SECONDS = float(os.environ.get("POOLGUARD_TEST_STRESS_SECONDS", "12"))
USERS, FLOOR, MOST, BUDGET = 16, 2, 10, 11


@pytest.fixture
def server() -> Iterator[PrivatePostgres]:
    """One that may be restarted."""
    with PrivatePostgres() as server:
        yield server


class Users:
    """Those who acquire, use and return, each in his own way, for as long as it lasts."""

    def __init__(self, pool: Face, until: float, rng: random.Random) -> None:
        self.pool = pool
        self.until = until
        self.rng = rng
        self.holders: dict[int, object] = {}
        self.seen: Counter[str] = Counter()

    async def one(self) -> None:
        while monotonic() < self.until:
            await self.request()
            await asyncio.sleep(self.rng.random() * 0.01)

    async def request(self) -> None:
        self.seen["asked"] += 1
        try:
            conn = await self.pool.get(timeout=self.rng.choice([0.05, 0.5, 5.0]))
        except psycopg_pool.PoolTimeout:
            self.seen["timed out"] += 1
            return
        me = object()
        assert self.holders.setdefault(id(conn), me) is me, "two holders"
        self.seen["got"] += 1
        try:
            await self.use(conn)
        except psycopg.Error:
            self.seen["failed"] += 1
        del self.holders[id(conn)]
        if self.rng.random() < 0.01:
            self.seen["dropped"] += 1
            del conn
            gc.collect()
            return
        await self.pool.put(conn)

    async def use(self, conn: Any) -> None:
        what = self.rng.random()
        if what < 0.05:
            closed = conn.close()
            if closed is not None:
                await closed
        elif what < 0.1:
            await self.pool.execute(conn, "SELECT 1/0")
        elif what < 0.5:
            await self.pool.execute(conn, "SELECT pg_sleep(0.01)")
        elif what < 0.8:
            await self.pool.execute(conn, "SELECT 1")

    async def cancelled(self) -> None:
        """One who often gives up: an acquire of the async pool can be cancelled at any moment."""
        while monotonic() < self.until:
            waiting = asyncio.create_task(self.request())
            await asyncio.sleep(self.rng.random() * 0.005)
            if self.pool.kind == "async" and not self.holders_of(waiting):
                waiting.cancel()
                self.seen["cancelled"] += 1
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.result()

    def holders_of(self, task: asyncio.Task[None]) -> bool:
        """Cancelled later, it would not return what it has: that is for `async with` to see to."""
        frame = task.get_stack()
        return any("conn" in each.f_locals for each in frame)


class Misfortune:
    """What happens to the pool meanwhile."""

    def __init__(
        self,
        pool: Face,
        server: PrivatePostgres,
        proxy: SlowProxy,
        rng: random.Random,
    ) -> None:
        self.pool = pool
        self.server = server
        self.proxy = proxy
        self.rng = rng
        self.seen: Counter[str] = Counter()

    async def strikes(self, until: float) -> None:
        often: list[Callable[[], Awaitable[None]]] = [
            self.kill,
            self.resize,
            self.drain,
            self.check,
            self.age,
            self.expire,
            self.doubt,
        ]
        seldom = [self.reset, self.silence, self.refuse, self.restart]
        while monotonic() < until:
            await asyncio.sleep(self.rng.random() * 0.2)
            step = self.rng.choice(seldom if self.rng.random() < 0.08 else often)
            self.seen[step.__name__] += 1
            await step()
        await self.pool.call("resize", FLOOR, MOST)

    async def kill(self) -> None:
        def some() -> None:
            with self.server.connect() as admin:
                self.pool.kill(admin)

        await asyncio.to_thread(some)

    async def resize(self) -> None:
        most = self.rng.randint(2, MOST)
        await self.pool.call("resize", self.rng.randint(0, 2), most)

    async def drain(self) -> None:
        await self.pool.call("drain")

    async def check(self) -> None:
        await self.pool.call("check")

    async def age(self) -> None:
        for conn in [entry.kept for entry in self.pool.pool._core.idle]:
            conn._poolguard_entry.proved_at = clock() - 3600

    async def expire(self) -> None:
        for conn in [entry.kept for entry in self.pool.pool._core.idle]:
            expire(conn._poolguard_entry, clock())
        self.pool.pool._ring()

    async def doubt(self) -> None:
        self.pool.pool._core.doubt(clock())

    async def reset(self) -> None:
        await asyncio.to_thread(self.proxy.reset_all)

    async def silence(self) -> None:
        await asyncio.to_thread(self.proxy.blackhole)
        await asyncio.sleep(self.rng.random())
        await asyncio.to_thread(self.proxy.resume)

    async def refuse(self) -> None:
        await asyncio.to_thread(self.proxy.refuse)
        await asyncio.sleep(self.rng.random())
        await asyncio.to_thread(self.proxy.resume)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.restart)


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@in_loop
async def test_through_all_of_it_nothing_is_lost_and_nothing_lent_twice(
    kind: Kind, server: PrivatePostgres, caplog: pytest.LogCaptureFixture
) -> None:
    # What psycopg_pool logs refers to the connection, which pytest would keep to the end.
    caplog.set_level(logging.CRITICAL, "psycopg.pool")
    rng = random.Random(SECONDS)
    before = len(descriptors())
    ledger = StaticLedger(BUDGET)
    with SlowProxy(target=("127.0.0.1", server.port), connect_delay=0.005) as proxy:
        pool = Face(
            kind,
            server.conninfo(host=proxy.host, port=proxy.port, connect_timeout=2),
            min_size=FLOOR,
            max_size=MOST,
            ledger=ledger,
            check_interval=0.2,
            check_timeout=0.3,
            check_after_idle=0.5,
            max_lifetime=5.0,
            max_idle=2.0,
            leak_after=30.0,
        )
        await pool.open()
        until = monotonic() + SECONDS
        users = Users(pool, until, rng)
        misfortune = Misfortune(pool, server, proxy, rng)

        async def watch_the_budget() -> None:
            while monotonic() < until:
                assert ledger.in_use <= BUDGET
                await asyncio.sleep(0.01)

        await asyncio.gather(
            *(users.one() for _ in range(USERS)),
            users.cancelled(),
            misfortune.strikes(until),
            watch_the_budget(),
        )
        await asyncio.to_thread(proxy.resume)
        print(kind, dict(users.seen), dict(misfortune.seen), pool.status())
        assert not users.holders

        pool.pool._ring()
        await eventually(lambda: at_rest(pool, ledger), within=20)
        acquires = pool.status()["acquires"]
        assert sum(acquires.values()) == users.seen["asked"]
        conns = await pool.get_all(MOST)
        for conn in conns:
            await pool.execute(conn, "SELECT 1")
        await pool.put(*conns)
        await pool.close()
    await eventually(lambda: ledger.in_use == 0)
    await eventually(lambda: not pool.threads())
    await eventually(lambda: len(descriptors()) <= before)
