"""The threads that a pool keeps while nobody wants anything of it."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from time import sleep

from ..processes import taken
from ..table import Row, Table
from .frame import AIO, SYNC, Stage

__all__ = ["run"]

FLOOR = 4
ROUNDS = 3
SETTLED = 1.0
"""Seconds after the last use, until those that only connect have ended."""
GOAL = {"GuardedPool": 1.0, "AsyncGuardedPool": 0.0}


def run(stage: Stage) -> Table:
    """Measure each in a fresh process: what all pools of a process share is counted, too."""
    acts = {who: partial(_in_fresh_process, who, stage.conninfo) for who in (*SYNC, *AIO)}
    kept = stage.play(ROUNDS, acts)
    rows = [
        Row(who, {"threads": threads}, {"threads": GOAL[who]} if who in GOAL else {})
        for who, threads in kept.items()
    ]
    return Table(f"idle: what a pool with {FLOOR} connections keeps while nobody acquires", rows)


def _in_fresh_process(who: str, conninfo: str) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_kept, who, conninfo).result()


def _kept(who: str, conninfo: str) -> float:
    before = taken(os.getpid()).threads
    if who in SYNC:
        with SYNC[who](conninfo, min_size=FLOOR, open=False) as pool:
            pool.wait()
            with pool.connection() as conn:
                conn.execute("SELECT 1")
            sleep(SETTLED)
            return taken(os.getpid()).threads - before
    return asyncio.run(_kept_aio(who, conninfo, before))


async def _kept_aio(who: str, conninfo: str, before: int) -> float:
    async with AIO[who](conninfo, min_size=FLOOR, open=False) as pool:
        await pool.wait()
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        await asyncio.sleep(SETTLED)
        return taken(os.getpid()).threads - before
