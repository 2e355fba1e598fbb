"""A pool that opens with a floor of twenty: how long until all are there, in connects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncFar, AsyncPool, Far, Stage, SyncPool, awaited

__all__ = ["run"]

FLOOR = 20
ROUNDS = 9
GOAL = {"GuardedPool": 2.0, "AsyncGuardedPool": 1.25}


def run(stage: Stage) -> Table:
    """Measure; psycopg_pool connects in its three workers."""
    acts: dict[str, Callable[[], float]] = {
        "connect": stage.one_far_connect,
        **{who: partial(_warm_up, stage, make) for who, make in SYNC.items()},
        "connect, async": stage.one_far_connect_aio,
        **{who: awaited(_warm_up_aio, stage, make) for who, make in AIO.items()},
    }
    results = stage.play(ROUNDS, acts)
    one, one_aio = results.pop("connect"), results.pop("connect, async")
    rows = []
    for who, took in results.items():
        goals = {"connects": GOAL[who]} if who in GOAL else {}
        unit = one_aio if who in AIO else one
        rows.append(Row(who, {"warm after, s": took, "connects": ratios(took, unit)}, goals))
    return Table(f"warming: a pool of {FLOOR} opens, until all are there", rows)


def _warm_up(stage: Stage, make: Callable[..., SyncPool]) -> float:
    began = perf_counter()
    with make(stage.near, connection_class=Far, min_size=FLOOR, open=False) as pool:
        pool.wait()
        return perf_counter() - began


async def _warm_up_aio(stage: Stage, make: Callable[..., AsyncPool]) -> float:
    began = perf_counter()
    async with make(stage.near, connection_class=AsyncFar, min_size=FLOOR, open=False) as pool:
        await pool.wait()
        return perf_counter() - began
