"""What the parts share: the stage, how far away its server is, and both kinds of pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import sleep
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool

from ..kinds import Job, drive, got
from ..server import CONNECT_DELAY, Database, one_connect
from ..table import turns

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, the network before it, and how long all is played."""

    database: Database
    quick: bool
    near: str
    """The way over the server's own socket, for those who wait before they connect (Far)."""

    def play(self, rounds: int, acts: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """What each act returns, once a round."""
        return turns(1 if self.quick else rounds, acts)


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


class Kind:
    """Sync pools, psycopg_pool's and ours, and how their users run and wait: in threads.

    What a method returns that is no coroutine is to be waited for by :func:`~benchmarks.kinds.got`.
    """

    suffix = ""
    """What the names of others end with that are shown beside the pools."""
    bare: Any = Connection
    far: Any = Far
    pools: Sequence[Any] = (ConnectionPool, GuardedPool)

    @property
    def names(self) -> tuple[str, str]:
        """Under which the pools are shown: psycopg_pool's, and ours."""
        plain, ours = (pool.__name__ for pool in self.pools)
        return plain, ours

    @contextmanager
    def runner(self) -> Iterator[Callable[[Job], Any]]:
        """Runs one coroutine after the other."""
        yield drive

    async def together(self, jobs: Sequence[Job]) -> list[Any]:
        """What they return, all of which run at the same time."""
        with ThreadPoolExecutor(len(jobs)) as threads:
            return list(threads.map(drive, jobs))

    def sleep(self, seconds: float) -> Any:
        return sleep(seconds)

    def aside(self, call: Callable[[], object]) -> Any:
        """A call that takes long, while an event loop runs on."""
        return call()

    def meeting(self, of: int) -> Callable[[], object]:
        """To be called by so many that run together: each goes on when all are there."""
        return threading.Barrier(of).wait

    def block(self, pool: Any) -> Any:
        """A connection of the pool, in an async context manager."""
        return _entered(pool.connection())

    def run(self, job: Job) -> Any:
        with self.runner() as run:
            return run(job)

    def act(self, job: Callable[..., Job], *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """The coroutine function *job* as an act, which is told of this kind."""
        return lambda: self.run(job(self, *args, **kwargs))

    def connects(self, connection: Any, conninfo: str) -> Callable[[], float]:
        """The act that measures one connect."""
        return lambda: self.run(one_connect(connection, conninfo))

    @asynccontextmanager
    async def opened(self, who: str, conninfo: str, **settings: Any) -> AsyncIterator[Any]:
        """The pool of that name, open."""
        pool = self.pools[self.names.index(who)](conninfo, open=False, **settings)
        await got(pool.open())
        try:
            yield pool
        finally:
            await got(pool.close())


class AsyncKind(Kind):
    """The async ones, in tasks of an event loop."""

    suffix = ", async"
    bare = AsyncConnection
    far = AsyncFar
    pools = (AsyncConnectionPool, AsyncGuardedPool)

    @contextmanager
    def runner(self) -> Iterator[Callable[[Job], Any]]:
        loop = asyncio.new_event_loop()
        try:
            yield loop.run_until_complete
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def together(self, jobs: Sequence[Job]) -> list[Any]:
        return list(await asyncio.gather(*jobs))

    def sleep(self, seconds: float) -> Any:
        return asyncio.sleep(seconds)

    def aside(self, call: Callable[[], object]) -> Any:
        return asyncio.to_thread(call)

    def meeting(self, of: int) -> Callable[[], object]:  # noqa: ARG002 - tasks begin together
        return lambda: None

    def block(self, pool: Any) -> Any:
        return pool.connection()


@asynccontextmanager
async def _entered(block: Any) -> AsyncIterator[Any]:
    with block as conn:
        yield conn


SYNC, AIO = Kind(), AsyncKind()
KINDS: Sequence[Kind] = (SYNC, AIO)
