"""An outage longer than reconnect_timeout, without traffic: when the floor is there again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

from psycopg.conninfo import make_conninfo

from ..table import Row, Table
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool

__all__ = ["run"]

FLOOR = 4
RECONNECT_TIMEOUT = 1.0
OUTAGE = 3.0
WATCHED = 6.0
"""Seconds after which a floor that is not there is taken never to come back."""
ROUNDS = 3
CHECK_EVERY = 0.5
GOAL = 2.0
LIVE = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE application_name = ANY(%s) GROUP BY 1
"""
CHECKED = ", check()"


def run(stage: Stage) -> Table:
    """Measure by what the server sees; all contenders go through the same outages."""
    sync = {**SYNC, f"{next(iter(SYNC))}{CHECKED}": next(iter(SYNC.values()))}
    aio = {**AIO, f"{next(iter(AIO))}{CHECKED}": next(iter(AIO.values()))}
    names = [*sync, *aio]
    rounds = 1 if stage.quick else ROUNDS
    outage, watched = (0.5, 0.5) if stage.quick else (OUTAGE, WATCHED)
    back: dict[str, list[float]] = {who: [] for who in names}
    for nth in range(rounds):
        stage.say(f"round {nth + 1} of {rounds}")
        for who, seconds in _outage(stage, sync, aio, outage, watched).items():
            back[who].append(seconds)
    rows = [
        Row(
            who, {"floor after, s": back[who]}, {"floor after, s": GOAL} if "Guarded" in who else {}
        )
        for who in names
    ]
    title = f"refill: an outage of {outage:g} s, reconnect_timeout {RECONNECT_TIMEOUT:g} s"
    return Table(f"{title}, no traffic, watched for {watched:g} s", rows)


def _outage(
    stage: Stage,
    sync: Mapping[str, Callable[..., SyncPool]],
    aio: Mapping[str, Callable[..., AsyncPool]],
    outage: float,
    watched: float,
) -> dict[str, float]:
    over = Event()
    with ExitStack() as stack:
        for who, make in sync.items():
            pool = stack.enter_context(make(**_settings(stage, who)))
            pool.wait()
            if CHECKED in who:
                _in_thread(stack, over, _check, pool, over)
        ready = Event()
        _in_thread(stack, over, asyncio.run, _hold_aio(stage, aio, ready, over))
        ready.wait()
        stage.server.stop()
        sleep(outage)
        stage.server.start()
        return _watch(stage, [*sync, *aio], watched)


def _watch(stage: Stage, names: list[str], watched: float) -> dict[str, float]:
    began = perf_counter()
    back = dict.fromkeys(names, math.inf)
    with stage.server.connect() as conn:
        while math.inf in back.values() and perf_counter() < began + watched:
            for who, live in conn.execute(LIVE, [names]).fetchall():
                if live >= FLOOR:
                    back[who] = min(back[who], perf_counter() - began)
            sleep(0.02)
    return back


async def _hold_aio(
    stage: Stage, makers: Mapping[str, Callable[..., AsyncPool]], ready: Event, over: Event
) -> None:
    async with AsyncExitStack() as stack:
        checks = []
        for who, make in makers.items():
            pool = await stack.enter_async_context(make(**_settings(stage, who)))
            await pool.wait()
            if CHECKED in who:
                checks.append(asyncio.create_task(_check_aio(pool, over)))
        ready.set()
        await asyncio.to_thread(over.wait)
        await asyncio.gather(*checks)


def _check(pool: SyncPool, over: Event) -> None:
    while not over.wait(CHECK_EVERY):
        pool.check()


async def _check_aio(pool: AsyncPool, over: Event) -> None:
    while not over.is_set():  # a check() that is cancelled takes that for a broken connection
        await asyncio.sleep(CHECK_EVERY)
        await pool.check()


def _in_thread(stack: ExitStack, over: Event, job: Callable[..., object], *args: Any) -> None:
    """Run *job* until the stack unwinds, which tells it by *over*."""
    thread = Thread(target=job, args=args)
    thread.start()
    stack.callback(thread.join)
    stack.callback(over.set)


def _settings(stage: Stage, who: str) -> dict[str, Any]:
    return {
        "conninfo": make_conninfo(stage.conninfo, application_name=who),
        "min_size": FLOOR,
        "reconnect_timeout": RECONNECT_TIMEOUT,
        "open": False,
    }
