"""What the parts share: the stage they play on, and how far away its server is."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool

__all__ = [
    "AIO",
    "CONNECT_DELAY",
    "SYNC",
    "AsyncFar",
    "AsyncPool",
    "Far",
    "Stage",
    "SyncPool",
    "awaited",
]

T = TypeVar("T")
SyncPool = ConnectionPool[Connection[Any]]
AsyncPool = AsyncConnectionPool[AsyncConnection[Any]]

SYNC: Mapping[str, Callable[..., SyncPool]] = {
    "ConnectionPool": ConnectionPool,
    "GuardedPool": GuardedPool,
}
AIO: Mapping[str, Callable[..., AsyncPool]] = {
    "AsyncConnectionPool": AsyncConnectionPool,
    "AsyncGuardedPool": AsyncGuardedPool,
}
"""Who competes: psycopg_pool's class and ours, by the names under which they are shown."""

CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""
ALONE = 3
"""How often a connect is measured alone in each round: the median counts."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, the network before it, and how long all is played."""

    server: PrivatePostgres
    proxy: SlowProxy
    conninfo: str
    """The way to the server through the proxy."""
    near: str
    """The way to it over its own socket, for those who wait before they connect (:class:`Far`)."""
    quick: bool
    say: Callable[[str], None]

    def play(self, rounds: int, acts: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """What each act returns, once a round; every other round they come in reversed order."""
        rounds = 1 if self.quick else rounds
        results: dict[str, list[T]] = {who: [] for who in acts}
        for nth in range(rounds):
            for who in list(acts)[:: -1 if nth % 2 else 1]:
                self.say(f"round {nth + 1} of {rounds}, {who}")
                results[who].append(acts[who]())
        return results

    @contextmanager
    def network(self, *, connect_delay: float, round_trip: float) -> Iterator[None]:
        """Another network for a while."""
        self.proxy.set(connect_delay=connect_delay, latency=round_trip / 2)
        try:
            yield
        finally:
            self.proxy.set(connect_delay=CONNECT_DELAY, latency=0.0)

    def one_connect(self) -> float:
        """Seconds that one connect takes while nothing else happens."""
        return _median_of(lambda: Connection.connect(self.conninfo))

    def one_far_connect(self) -> float:
        """The same of one who waits before he connects."""
        return _median_of(lambda: Far.connect(self.near))

    def one_far_connect_aio(self) -> float:
        """The same over asyncio."""

        async def connects() -> list[float]:
            return [await self._connect_aio() for _ in range(ALONE)]

        return statistics.median(asyncio.run(connects()))

    async def _connect_aio(self) -> float:
        began = perf_counter()
        conn = await AsyncFar.connect(self.near)
        took = perf_counter() - began
        await conn.close()
        return took


class Far(Connection[Any]):
    """A connection to a server that is as far away as CONNECT_DELAY.

    Where many connect at once, a proxy in between would need the processor that all of them share
    here, and so be measured as well.
    """

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        sleep(CONNECT_DELAY)
        return super().connect(*args, **kwargs)


class AsyncFar(AsyncConnection[Any]):
    """The same over asyncio."""

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(CONNECT_DELAY)
        return await super().connect(*args, **kwargs)


def _median_of(connect: Callable[[], Connection[Any]]) -> float:
    took: list[float] = []
    for _ in range(ALONE):
        began = perf_counter()
        conn = connect()
        took.append(perf_counter() - began)
        conn.close()
    return statistics.median(took)


def awaited(job: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Callable[[], T]:
    """The coroutine function *job* as an act."""
    return lambda: asyncio.run(job(*args))
