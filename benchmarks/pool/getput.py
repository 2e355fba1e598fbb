"""What lending a connection costs: one that is free, and one that somebody waits for.

The pools count, log and watch as they do by default. Nothing is executed: each connection comes
back as it went.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter, sleep
from typing import Any

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool

__all__ = ["run"]

SIZE = 4
LOOPS = 2_000
HANDOVERS = 50
PAIRS = 40
SETTLED = 0.0005
"""Seconds after which somebody who acquires is queued, and sleeps."""


def run(stage: Stage) -> Table:
    """Measure both classes in turn, and compare each pair of neighbouring rounds."""
    return Table(
        f"getput: a connection is lent and comes back, {PAIRS} pairs of rounds",
        [*_sync(stage), *asyncio.run(_aio(stage))],
        ['"handed over": from putconn() until the one who waited for the connection has it'],
    )


def _sync(stage: Stage) -> list[Row]:
    plain, ours = (make(stage.conninfo, min_size=SIZE, open=False) for make in SYNC.values())
    with plain, ours:
        plain.wait()
        ours.wait()
        rows = []
        for way, (act, often, goal) in WAYS.items():
            loops = often // 10 if stage.quick else often
            pair = zip(SYNC, (plain, ours), strict=True)
            acts = {f"{who}, {way}": partial(act, pool, loops) for who, pool in pair}
            rows += _rows(stage.play(PAIRS, acts), goal)
        return rows


async def _aio(stage: Stage) -> list[Row]:
    plain, ours = (make(stage.conninfo, min_size=SIZE, open=False) for make in AIO.values())
    async with plain, ours:
        await plain.wait()
        await ours.wait()
        rows = []
        for way, (act, often, goal) in WAYS_AIO.items():
            loops = often // 10 if stage.quick else often
            acts = {f"{who}, {way}": pool for who, pool in zip(AIO, (plain, ours), strict=True)}
            times: dict[str, list[float]] = {who: [] for who in acts}
            for nth in range(1 if stage.quick else PAIRS):
                stage.say(f"round {nth + 1} of {PAIRS}, async, {way}")
                for who in list(acts)[:: -1 if nth % 2 else 1]:
                    times[who].append(await act(acts[who], loops))
            rows += _rows(times, goal)
        return rows


def _rows(times: Mapping[str, Sequence[float]], goal: float) -> list[Row]:
    (plain, base), (ours, took) = times.items()
    figures = {"µs": took, "ratio": ratios(took, base)}
    return [Row(plain, {"µs": base}), Row(ours, figures, {"ratio": goal})]


def _get_put(pool: SyncPool, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        put(get())
    return (perf_counter() - began) / loops * 1e6


async def _get_put_aio(pool: AsyncPool, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        await put(await get())
    return (perf_counter() - began) / loops * 1e6


def _block(pool: SyncPool, loops: int) -> float:
    connection = pool.connection
    began = perf_counter()
    for _ in range(loops):
        with connection():
            pass
    return (perf_counter() - began) / loops * 1e6


async def _block_aio(pool: AsyncPool, loops: int) -> float:
    connection = pool.connection
    began = perf_counter()
    for _ in range(loops):
        async with connection():
            pass
    return (perf_counter() - began) / loops * 1e6


def _hand_over(pool: SyncPool, loops: int) -> float:
    """On one processor: to which one the kernel wakes a thread would be what is measured."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        return _handed_over(pool, loops)
    finally:
        os.sched_setaffinity(0, allowed)


def _handed_over(pool: SyncPool, loops: int) -> float:
    def wait_for_one() -> tuple[Any, float]:
        return pool.getconn(), perf_counter()

    conn, *others = [pool.getconn() for _ in range(SIZE)]
    took = []
    with ThreadPoolExecutor(1) as thread:
        for _ in range(loops):
            waiting = thread.submit(wait_for_one)
            until = perf_counter() + SETTLED
            while perf_counter() < until:
                sleep(0)  # a processor that sleeps would be what is measured
            began = perf_counter()
            pool.putconn(conn)
            conn, has_it = waiting.result()
            took.append((has_it - began) * 1e6)
    for each in (conn, *others):
        pool.putconn(each)
    return statistics.median(took)


async def _hand_over_aio(pool: AsyncPool, loops: int) -> float:
    async def wait_for_one() -> tuple[Any, float]:
        return await pool.getconn(), perf_counter()

    conn, *others = [await pool.getconn() for _ in range(SIZE)]
    took = []
    for _ in range(loops):
        waiting = asyncio.create_task(wait_for_one())
        until = perf_counter() + SETTLED
        while perf_counter() < until:
            await asyncio.sleep(0)
        began = perf_counter()
        await pool.putconn(conn)
        conn, has_it = await waiting
        took.append((has_it - began) * 1e6)
    for each in (conn, *others):
        await pool.putconn(each)
    return statistics.median(took)


WAYS: Mapping[str, tuple[Callable[[SyncPool, int], float], int, float]] = {
    "getconn + putconn": (_get_put, LOOPS, 1.3),
    "with connection()": (_block, LOOPS, 0.55),
    "handed over": (_hand_over, HANDOVERS, 1.1),
}
"""The ways to lend one: what measures its µs, how often in a round, and the goal of the ratio."""
WAYS_AIO: Mapping[str, tuple[Callable[[AsyncPool, int], Awaitable[float]], int, float]] = {
    "getconn + putconn": (_get_put_aio, LOOPS, 1.3),
    "async with connection()": (_block_aio, LOOPS, 0.45),
    "handed over": (_hand_over_aio, HANDOVERS, 1.2),
}
