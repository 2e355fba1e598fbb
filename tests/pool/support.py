"""What the tests of the pools share: both kinds behind one face, and what stands for a
connection or a request."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import socket
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from time import monotonic, sleep
from typing import Any, Literal, ParamSpec, TypeAlias

import psycopg

from poolguard.budget.static import StaticLedger
from poolguard.pool.acquirer import CURRENT, Acquirer
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.entry import Entry
from poolguard.pool.sockets import Watch
from poolguard.pool.sync import GuardedPool
from poolguard.testing import RecordingListener

P = ParamSpec("P")
Kind: TypeAlias = Literal["sync", "async"]
Guarded: TypeAlias = "GuardedPool[Any] | AsyncGuardedPool[Any]"
Pair: TypeAlias = tuple[socket.socket, socket.socket]

Recorder = RecordingListener

_numbers = count(1)


def descriptors() -> list[str]:
    """The numbers of this process' open descriptors."""
    return sorted(os.listdir("/proc/self/fd"))


def in_child(job: Callable[[], object]) -> str:
    """What *job* returns, or how it fails, in a fork of this process."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12, where threads are running
        pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a lock that was held at the fork is held for ever
        try:
            os.write(writing, str(job()).encode())
        except BaseException:  # noqa: BLE001
            os.write(writing, traceback.format_exc().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


@contextmanager
def held_elsewhere(lock: Any) -> Iterator[None]:
    """Another thread holds the lock, so that a forked child never sees it free."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holds.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(10)
    try:
        yield
    finally:
        done.set()
        holder.join()


def at_rest(pool: Face, ledger: StaticLedger) -> bool:
    """Whether nothing is on its way any more, and all that the pool counts adds up.

    Verifications go on: while this test collects garbage the pool's upkeep waits, and begins one
    the moment it may.
    """
    gc.collect()
    status, counts = pool.status(), pool.pool.counts()
    made, gone = sum(status["created"].values()), sum(status["closed"].values())
    return (
        status["used"] == status["opening"] == status["waiting"] == 0
        and counts.size == counts.idle + counts.checking >= counts.min_size
        and made - gone == counts.size == ledger.in_use
    )


def expire(entry: Entry, at: float) -> None:
    """Have the entry's connection be too old from *at* on."""
    entry.retire_at = entry.expires_at = entry.plain_until = at


class Owner:
    """Stands for a connection: what an entry refers to."""

    closed = False


def seated(watch: Watch, fileno: int | None) -> tuple[Entry, Owner]:
    """An entry on the watch, and what it refers to."""
    entry, owner = Entry(None, 0.0), Owner()
    entry.take(owner)
    watch.add(entry, fileno)
    return entry, owner


@contextmanager
def serving(request: Acquirer) -> Iterator[None]:
    """*request* is what this context serves."""
    token = CURRENT.set(request)
    try:
        yield
    finally:
        CURRENT.reset(token)


class Face:
    """A pool of either kind; methods are awaited, those of a sync pool run in threads."""

    def __init__(self, kind: Kind, conninfo: Any, **arguments: Any) -> None:
        self.kind = kind
        self._recorder = Recorder()
        self.name = f"test-{os.getpid()}-{next(_numbers)}"
        cls = GuardedPool if kind == "sync" else AsyncGuardedPool
        kwargs = {"application_name": self.name}
        self.pool: Guarded = cls(
            conninfo,
            **{
                "name": self.name,
                "kwargs": kwargs,
                "listener": self._recorder,
                "open": False,
                "timeout": 10.0,
                **arguments,
            },
        )

    @property
    def recorder(self) -> Recorder:
        """All that has happened. A sync pool tells of it in threads of its own, which have a second
        to do so: some listeners here block."""
        until = monotonic() + 1.0
        keeper = self.pool._keeper
        while (
            self.kind == "sync" and (keeper.outbox or keeper.outbox.telling) and monotonic() < until
        ):
            sleep(0.001)
        return self._recorder

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(self.pool, name)
        if self.kind == "sync":
            return await asyncio.to_thread(method, *args, **kwargs)
        return await method(*args, **kwargs)

    async def open(self, *, warm: bool = True) -> None:
        await self.call("open")
        if warm:
            assert await self.call("wait_warm", 10)

    async def get(self, timeout: float | None = None) -> Any:
        return await self.call("getconn", timeout)

    async def get_all(self, n: int) -> list[Any]:
        """*n* connections, asked for at once."""
        return await asyncio.gather(*(self.get() for _ in range(n)))

    async def put(self, *conns: Any) -> None:
        for conn in conns:
            await self.call("putconn", conn)

    async def execute(self, conn: Any, query: str) -> Any:
        if self.kind == "sync":
            return await asyncio.to_thread(conn.execute, query)
        return await conn.execute(query)

    async def close(self) -> None:
        await self.call("close")

    def status(self) -> dict[str, Any]:
        return self.pool.status()

    @property
    def size(self) -> int:
        status = self.status()
        return int(status["idle"] + status["used"])

    def threads(self) -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith(f"{self.name}-")]

    def backends(self, admin: psycopg.Connection[Any]) -> set[int]:
        """Process ids of the server's sessions of this pool."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        return {pid for (pid,) in admin.execute(query, [self.name])}

    def kill(self, admin: psycopg.Connection[Any]) -> int:
        """Have the server end all of this pool's sessions; returns how many there were."""
        return admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [self.name],
        ).rowcount


@asynccontextmanager
async def opened(
    kind: Kind, conninfo: Any, *, warm: bool = True, **arguments: Any
) -> AsyncIterator[Face]:
    """An open pool, warm unless told otherwise; closed at the end."""
    face = Face(kind, conninfo, **arguments)
    await face.open(warm=warm)
    try:
        yield face
    finally:
        await face.close()


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a loop of its own, with enough threads for any sync pool's callers."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def with_threads() -> None:
            threads = ThreadPoolExecutor(40, thread_name_prefix="caller")
            asyncio.get_running_loop().set_default_executor(threads)
            await test(*args, **kwargs)

        asyncio.run(with_threads())

    return run


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """``tests.support.until`` that lets the loop run."""
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.005)
