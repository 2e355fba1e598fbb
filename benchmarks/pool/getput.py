"""What lending a connection costs: one that is free, and one that somebody waits for.

The pools count, log and watch as they do by default. Nothing is executed: each connection comes
back as it went.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter, sleep
from typing import Any

from ..kinds import got
from ..table import Row, Table, ratios
from .frame import AIO, SYNC, Kind, Stage

SIZE = 4
LOOPS = 2_000
HANDOVERS = 50
PAIRS = 40
SETTLED = 0.0005
"""Seconds after which somebody who acquires is queued, and sleeps."""

Way = Callable[[Any, int], Coroutine[Any, Any, float]]
"""Lends a pool's connections so many times; returns the µs of one time."""


def getput(stage: Stage) -> Table:
    """Measure both classes in turn, and compare each pair of neighbouring rounds."""
    return Table(
        f"getput: a connection is lent and comes back, {PAIRS} pairs of rounds",
        [*_rows(stage, SYNC, WAYS), *_rows(stage, AIO, WAYS_AIO)],
        ['"handed over": from putconn() until the one who waited for the connection has it'],
    )


def _rows(stage: Stage, kind: Kind, ways: Mapping[str, tuple[Way, int, float]]) -> Iterator[Row]:
    with kind.runner() as run:
        opening = [kind.opened(who, stage.database.far, min_size=SIZE) for who in kind.names]
        pools = [run(each.__aenter__()) for each in opening]
        try:
            for pool in pools:
                run(got(pool.wait()))
            for way, (act, often, goal) in ways.items():
                loops = often // 10 if stage.quick else often
                acts = {
                    f"{who}, {way}": partial(_timed, run, act, pool, loops)
                    for who, pool in zip(kind.names, pools, strict=True)
                }
                (plain, base), (ours, took) = stage.play(PAIRS, acts).items()
                yield Row(plain, {"µs": base})
                yield Row(ours, {"µs": took, "ratio": ratios(took, base)}, {"ratio": goal})
        finally:
            for each in opening:
                run(each.__aexit__(None, None, None))


def _timed(run: Callable[..., float], act: Way, pool: Any, loops: int) -> float:
    return run(act(pool, loops))


async def _get_put(pool: Any, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        put(get())
    return (perf_counter() - began) / loops * 1e6


async def _get_put_aio(pool: Any, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        await put(await get())
    return (perf_counter() - began) / loops * 1e6


async def _block(pool: Any, loops: int) -> float:
    connection = pool.connection
    began = perf_counter()
    for _ in range(loops):
        with connection():
            pass
    return (perf_counter() - began) / loops * 1e6


async def _block_aio(pool: Any, loops: int) -> float:
    connection = pool.connection
    began = perf_counter()
    for _ in range(loops):
        async with connection():
            pass
    return (perf_counter() - began) / loops * 1e6


async def _hand_over(pool: Any, loops: int) -> float:
    """On one processor: to which one the kernel wakes a thread would be what is measured."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        return _handed_over(pool, loops)
    finally:
        os.sched_setaffinity(0, allowed)


def _handed_over(pool: Any, loops: int) -> float:
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


async def _hand_over_aio(pool: Any, loops: int) -> float:
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


WAYS: Mapping[str, tuple[Way, int, float]] = {
    "getconn + putconn": (_get_put, LOOPS, 1.3),
    "with connection()": (_block, LOOPS, 0.55),
    "handed over": (_hand_over, HANDOVERS, 1.1),
}
"""The ways to lend one: what measures its µs, how often in a round, and the goal of the ratio."""
WAYS_AIO: Mapping[str, tuple[Way, int, float]] = {
    "getconn + putconn": (_get_put_aio, LOOPS, 1.3),
    "with connection()": (_block_aio, LOOPS, 0.45),
    "handed over": (_hand_over_aio, HANDOVERS, 1.2),
}
