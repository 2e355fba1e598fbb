"""Twenty acquires at once on an empty pool: how long the slowest waits, in connects.

Twenty PostgreSQL sessions that begin at once want 3 ms of a processor each, in the same instant:
with few cores that is what is measured. Those of PgBouncer want a tenth of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from poolguard.errors import LabError
from poolguard.lab.pgbouncer import PgBouncer, find_pgbouncer

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncFar, AsyncPool, Far, Stage, SyncPool, awaited

__all__ = ["run", "through_pooler"]

ACQUIRES = 20
ROUNDS = 9
GOAL = {"GuardedPool": 1.5, "AsyncGuardedPool": 1.25}
BARE, BARE_AIO = "no pool", "no pool, async"


def run(stage: Stage) -> Table:
    """Measure; "no pool" connects as many times at once, which no pool can do faster."""
    acts: dict[str, Callable[[], float]] = {
        "connect": stage.one_far_connect,
        BARE: partial(_bare, stage),
        **{who: partial(_burst, stage, make) for who, make in SYNC.items()},
        "connect, async": stage.one_far_connect_aio,
        BARE_AIO: awaited(_bare_aio, stage),
        **{who: awaited(_burst_aio, stage, make) for who, make in AIO.items()},
    }
    results = stage.play(ROUNDS, acts)
    one, one_aio = results.pop("connect"), results.pop("connect, async")
    rows = []
    for who, slowest in results.items():
        of_asyncio = who in AIO or who == BARE_AIO
        figures = {
            "slowest, s": slowest,
            "connects": ratios(slowest, one_aio if of_asyncio else one),
            "of no pool": ratios(slowest, results[BARE_AIO if of_asyncio else BARE]),
        }
        rows.append(Row(who, figures, {"connects": GOAL[who]} if who in GOAL else {}))
    title = f"burst: {ACQUIRES} acquires at once on an empty pool, the slowest"
    note = '"no pool": as many connects at once, which on this machine no pool can do any faster'
    return Table(title, rows, [note])


def through_pooler(stage: Stage) -> Table:
    """The same with PgBouncer in front, which has its server connections already."""
    title = f"pooler: {ACQUIRES} acquires at once through PgBouncer, the slowest"
    try:
        find_pgbouncer()
    except LabError as error:
        return Table(title, [], [f"not measured: {error}"])
    server = make_conninfo(stage.near, host="127.0.0.1", port=stage.server.port)
    settings = {"default_pool_size": str(ACQUIRES)}
    with PgBouncer(server, auth_type="trust", settings=settings) as pooler:
        with ExitStack() as held:  # a transaction each, and so a server connection
            for _ in range(ACQUIRES):
                held.enter_context(psycopg.connect(pooler.conninfo())).execute("SELECT 1")
        return replace(run(replace(stage, near=pooler.conninfo())), title=title)


def _burst(stage: Stage, make: Callable[..., SyncPool]) -> float:
    with make(stage.near, connection_class=Far, min_size=0, max_size=ACQUIRES, open=False) as pool:
        return _slowest(pool.getconn, pool.putconn)


def _bare(stage: Stage) -> float:
    return _slowest(partial(Far.connect, stage.near), psycopg.Connection.close)


def _slowest(take: Callable[[], psycopg.Connection], give: Callable[..., None]) -> float:
    """Each keeps its connection until all have one: nobody is served by another's return."""
    together = threading.Barrier(ACQUIRES)

    def acquire(_: int) -> float:
        together.wait()
        began = perf_counter()
        conn = take()
        waited = perf_counter() - began
        together.wait()
        give(conn)
        return waited

    with ThreadPoolExecutor(ACQUIRES) as threads:
        return max(threads.map(acquire, range(ACQUIRES)))


async def _burst_aio(stage: Stage, make: Callable[..., AsyncPool]) -> float:
    async with make(
        stage.near, connection_class=AsyncFar, min_size=0, max_size=ACQUIRES, open=False
    ) as pool:
        return await _slowest_aio(pool.getconn, pool.putconn)


async def _bare_aio(stage: Stage) -> float:
    connect = partial(AsyncFar.connect, stage.near)
    return await _slowest_aio(connect, AsyncConnection.close)


async def _slowest_aio(
    take: Callable[[], Awaitable[AsyncConnection]], give: Callable[..., Awaitable[None]]
) -> float:
    began = perf_counter()

    async def acquire() -> tuple[float, AsyncConnection]:
        conn = await take()
        return perf_counter() - began, conn

    taken = await asyncio.gather(*(acquire() for _ in range(ACQUIRES)))
    for _, conn in taken:
        await give(conn)
    return max(waited for waited, _ in taken)
