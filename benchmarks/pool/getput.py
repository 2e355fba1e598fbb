"""What lending and taking back a free connection costs: getconn + putconn in a loop."""

from __future__ import annotations

import asyncio
from time import perf_counter

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool

__all__ = ["run"]

LOOPS = 2_000
PAIRS = 40
GOAL = 1.3


def run(stage: Stage) -> Table:
    """Measure both classes in turn, and compare each pair of neighbouring rounds."""
    loops = LOOPS // 10 if stage.quick else LOOPS
    rows = [*_sync(stage, loops), *asyncio.run(_aio(stage, loops))]
    return Table(f"getput: getconn + putconn of a free connection, {PAIRS} pairs of rounds", rows)


def _sync(stage: Stage, loops: int) -> list[Row]:
    plain, ours = (make(stage.conninfo, min_size=4, open=False) for make in SYNC.values())
    with plain, ours:
        plain.wait()
        ours.wait()
        acts = {"plain": lambda: _loop(plain, loops), "ours": lambda: _loop(ours, loops)}
        return _rows(list(SYNC), stage.play(PAIRS, acts))


def _loop(pool: SyncPool, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        put(get())
    return (perf_counter() - began) / loops * 1e6


async def _aio(stage: Stage, loops: int) -> list[Row]:
    plain, ours = (make(stage.conninfo, min_size=4, open=False) for make in AIO.values())
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    async with plain, ours:
        await plain.wait()
        await ours.wait()
        for nth in range(1 if stage.quick else PAIRS):
            stage.say(f"round {nth + 1} of {PAIRS}, async")
            pair = [("plain", plain), ("ours", ours)]
            for who, pool in pair[:: -1 if nth % 2 else 1]:
                times[who].append(await _loop_aio(pool, loops))
    return _rows(list(AIO), times)


async def _loop_aio(pool: AsyncPool, loops: int) -> float:
    get, put = pool.getconn, pool.putconn
    began = perf_counter()
    for _ in range(loops):
        await put(await get())
    return (perf_counter() - began) / loops * 1e6


def _rows(names: list[str], times: dict[str, list[float]]) -> list[Row]:
    plain, ours = names
    ratio = ratios(times["ours"], times["plain"])
    return [
        Row(plain, {"µs": times["plain"]}),
        Row(ours, {"µs": times["ours"], "ratio": ratio}, {"ratio": GOAL}),
    ]
