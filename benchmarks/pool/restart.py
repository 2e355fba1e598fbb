"""PostgreSQL is restarted under idle connections, and then fifty requests come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from ..table import Row, Table, ratios
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool, awaited

__all__ = ["run"]

CONNECTIONS = 8
REQUESTS = 50
ROUNDS = 4
GOAL = 2.0

Outcome = tuple[int, float]
"""How many requests failed, and seconds that the slowest took."""


def run(stage: Stage) -> Table:
    """Measure: the requests begin when the server accepts connections again."""
    plain, ours = SYNC
    plain_aio, ours_aio = AIO
    check = {"check": ConnectionPool.check_connection}
    check_aio = {"check": AsyncConnectionPool.check_connection}
    acts: dict[str, Callable[[], Outcome]] = {
        "connect": lambda: (0, stage.one_connect()),
        plain: partial(_restart, stage, SYNC[plain]),
        f"{plain}, check=": partial(_restart, stage, SYNC[plain], **check),
        ours: partial(_restart, stage, SYNC[ours]),
        "connect, async": lambda: (0, stage.one_connect()),
        plain_aio: awaited(_restart_aio, stage, AIO[plain_aio]),
        f"{plain_aio}, check=": awaited(partial(_restart_aio, stage, AIO[plain_aio], **check_aio)),
        ours_aio: awaited(_restart_aio, stage, AIO[ours_aio]),
    }
    results = stage.play(ROUNDS, acts)
    one = [took for _, took in results.pop("connect")]
    one_aio = [took for _, took in results.pop("connect, async")]
    failures = f"failed of {REQUESTS}"
    rows = []
    for who, outcomes in results.items():
        unit = one_aio if who.startswith("Async") else one
        slowest = [took for _, took in outcomes]
        figures = {
            failures: [float(failed) for failed, _ in outcomes],
            "slowest, s": slowest,
            "connects": ratios(slowest, unit),
        }
        goals = {failures: 0.0, "connects": GOAL} if who in (ours, ours_aio) else {}
        rows.append(Row(who, figures, goals))
    title = f"restart: of PostgreSQL, under {CONNECTIONS} idle connections"
    return Table(f"{title}; then {REQUESTS} requests, {CONNECTIONS} at a time", rows)


def _restart(stage: Stage, make: Callable[..., SyncPool], **more: Any) -> Outcome:
    with make(stage.conninfo, min_size=CONNECTIONS, open=False, **more) as pool:
        pool.wait()
        stage.server.restart()
        return _requests(pool)


def _requests(pool: SyncPool) -> Outcome:
    def request(_: int) -> tuple[bool, float]:
        began = perf_counter()
        try:
            with pool.connection() as conn:
                conn.execute("SELECT 1")
        except Exception:  # noqa: BLE001 - whatever it is, the request has failed
            return True, perf_counter() - began
        return False, perf_counter() - began

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return _summed(list(threads.map(request, range(REQUESTS))))


async def _restart_aio(stage: Stage, make: Callable[..., AsyncPool], **more: Any) -> Outcome:
    async with make(stage.conninfo, min_size=CONNECTIONS, open=False, **more) as pool:
        await pool.wait()
        # In a thread: the loop runs on, as it would.
        await asyncio.to_thread(stage.server.restart)
        return await _requests_aio(pool)


async def _requests_aio(pool: AsyncPool) -> Outcome:
    todo = iter(range(REQUESTS))

    async def requests(todo: Iterator[int]) -> list[tuple[bool, float]]:
        return [await _request_aio(pool) for _ in todo]

    done = await asyncio.gather(*(requests(todo) for _ in range(CONNECTIONS)))
    return _summed([each for several in done for each in several])


async def _request_aio(pool: AsyncPool) -> tuple[bool, float]:
    began = perf_counter()
    try:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
    except Exception:  # noqa: BLE001 - whatever it is, the request has failed
        return True, perf_counter() - began
    return False, perf_counter() - began


def _summed(requests: list[tuple[bool, float]]) -> Outcome:
    return sum(failed for failed, _ in requests), max(took for _, took in requests)
