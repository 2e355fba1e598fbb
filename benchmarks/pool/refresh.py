"""How long an acquire takes while idle connections are being verified over a slow network."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from typing import Any

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool, awaited

__all__ = ["run"]

CONNECTIONS = 8
ROUND_TRIP = 0.05
ROUNDS = 5
SECONDS = 0.5
QUICK_SECONDS = 0.15
PAUSE = 0.001
"""Seconds between two acquires."""
CONSTANTLY = {"check_interval": PAUSE}
"""A connection is due again as soon as it has been verified, or used."""
NEVER = {"check_interval": 3600.0}
GOAL = {"p99 ratio": 1.5, "max, ms": 1000 * ROUND_TRIP / 2}
"""Where no acquire waits for a verification, what is left is what threads do to each other."""


@dataclass(frozen=True, slots=True)
class _Window:
    """What was seen in one window of time."""

    latencies: Sequence[float]
    """Of the acquires, in ms."""
    verified: float
    """Verifications in a second."""

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[-1]

    @property
    def worst(self) -> float:
        return max(self.latencies)


def run(stage: Stage) -> Table:
    """Measure, psycopg_pool with ``check()`` in a loop, which is how it refreshes."""
    plain, ours = SYNC
    plain_aio, ours_aio = AIO
    sync, aio = partial(partial, _sync, stage), partial(awaited, _aio, stage)
    acts: dict[str, Callable[[], _Window]] = {
        plain: sync(SYNC[plain], {}, check=False),
        f"{plain}, check()": sync(SYNC[plain], {}, check=True),
        ours: sync(SYNC[ours], NEVER, check=False),
        f"{ours}, refreshing": sync(SYNC[ours], CONSTANTLY, check=False),
        plain_aio: aio(AIO[plain_aio], {}, False),
        f"{plain_aio}, check()": aio(AIO[plain_aio], {}, True),
        ours_aio: aio(AIO[ours_aio], NEVER, False),
        f"{ours_aio}, refreshing": aio(AIO[ours_aio], CONSTANTLY, False),
    }
    with stage.network(connect_delay=0.0, round_trip=ROUND_TRIP):
        results = stage.play(ROUNDS, acts)
    p99 = {who: [each.p99 for each in windows] for who, windows in results.items()}
    rows = []
    for who, windows in results.items():
        figures = {"p99, ms": p99[who], "max, ms": [each.worst for each in windows]}
        without, _, refreshed = who.partition(",")
        if refreshed:
            figures["p99 ratio"] = ratios(p99[who], p99[without])
            figures["verified/s"] = [each.verified for each in windows]
        rows.append(Row(who, figures, GOAL if refreshed and "Guarded" in who else {}))
    title = f"refresh: acquires, one of {CONNECTIONS} connections at a time, while idle ones are"
    return Table(f"{title} verified over a round trip of {1000 * ROUND_TRIP:.0f} ms", rows)


def _counted(pool: Any) -> list[float]:
    """When *pool* verifies a connection, from now on."""
    verified: list[float] = []
    check = pool.check_connection

    def counting(conn: Any) -> Any:
        verified.append(perf_counter())
        return check(conn)

    pool.check_connection = counting
    return verified


def _sync(
    stage: Stage, make: Callable[..., SyncPool], settings: dict[str, Any], *, check: bool
) -> _Window:
    seconds = QUICK_SECONDS if stage.quick else SECONDS
    latencies: list[float] = []
    with make(stage.conninfo, min_size=CONNECTIONS, open=False, **settings) as pool:
        verified = _counted(pool)
        pool.wait()
        with _checking(pool) if check else contextlib.nullcontext():
            start = perf_counter()
            until = start + seconds
            while (began := perf_counter()) < until:
                conn = pool.getconn()
                latencies.append(1000 * (perf_counter() - began))
                pool.putconn(conn)
                sleep(PAUSE)
    return _Window(latencies, sum(start <= at < until for at in verified) / seconds)


@contextmanager
def _checking(pool: SyncPool) -> Iterator[None]:
    over = threading.Event()

    def check() -> None:
        while not over.is_set():
            pool.check()

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _aio(
    stage: Stage, make: Callable[..., AsyncPool], settings: dict[str, Any], check: bool
) -> _Window:
    seconds = QUICK_SECONDS if stage.quick else SECONDS
    latencies: list[float] = []
    async with make(stage.conninfo, min_size=CONNECTIONS, open=False, **settings) as pool:
        verified = _counted(pool)
        await pool.wait()
        over = asyncio.Event()
        checking = asyncio.create_task(_check_aio(pool, over)) if check else None
        start = perf_counter()
        until = start + seconds
        while (began := perf_counter()) < until:
            conn = await pool.getconn()
            latencies.append(1000 * (perf_counter() - began))
            await pool.putconn(conn)
            await asyncio.sleep(PAUSE)
        over.set()
        if checking is not None:
            await checking
    return _Window(latencies, sum(start <= at < until for at in verified) / seconds)


async def _check_aio(pool: AsyncPool, over: asyncio.Event) -> None:
    while not over.is_set():  # a check() that is cancelled takes that for a broken connection
        await pool.check()
