"""How a pool grows: twenty acquires at once on an empty one, and a floor of twenty that opens.

Twenty PostgreSQL sessions that begin at once want 3 ms of a processor each, in the same instant:
with few cores that is what is measured. Those of PgBouncer want a tenth of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from poolguard.errors import LabError
from poolguard.lab.pgbouncer import PgBouncer, find_pgbouncer

from ..kinds import Job, got
from ..table import Row, Table, ratios
from .frame import KINDS, Kind, Stage

SIZE = 20
ROUNDS = 9
BURST_GOAL = {"GuardedPool": 1.5, "AsyncGuardedPool": 1.25}
WARMING_GOAL = {"GuardedPool": 2.0, "AsyncGuardedPool": 1.25}


def burst(stage: Stage) -> Table:
    """Measure; "no pool" connects as many times at once, which no pool can do faster."""
    rows = _rows(stage, "slowest, s", BURST_GOAL, _burst, bare="no pool")
    title = f"burst: {SIZE} acquires at once on an empty pool, the slowest"
    note = '"no pool": as many connects at once, which on this machine no pool can do any faster'
    return Table(title, rows, [note])


def through_pooler(stage: Stage) -> Table:
    """The same with PgBouncer in front, which has its server connections already."""
    title = f"pooler: {SIZE} acquires at once through PgBouncer, the slowest"
    try:
        find_pgbouncer()
    except LabError as error:
        return Table(title, [], [f"not measured: {error}"])
    server = make_conninfo(stage.near, host="127.0.0.1", port=stage.database.server.port)
    settings = {"default_pool_size": str(SIZE)}
    with PgBouncer(server, auth_type="trust", settings=settings) as pooler:
        with ExitStack() as held:  # a transaction each, and so a server connection
            for _ in range(SIZE):
                held.enter_context(psycopg.connect(pooler.conninfo())).execute("SELECT 1")
        return replace(burst(replace(stage, near=pooler.conninfo())), title=title)


def warming(stage: Stage) -> Table:
    """Measure; psycopg_pool connects in its three workers."""
    rows = _rows(stage, "warm after, s", WARMING_GOAL, _warm_up)
    return Table(f"warming: a pool of {SIZE} opens, until all are there", rows)


def _rows(
    stage: Stage,
    seconds: str,
    goals: Mapping[str, float],
    job: Callable[..., Job],
    *,
    bare: str = "",
) -> list[Row]:
    """What *job* takes with each pool, in seconds and in connects."""
    acts: dict[str, Callable[[], float]] = {}
    units = {}
    for kind in KINDS:
        unit = f"connect{kind.suffix}"
        acts[unit] = kind.connects(kind.far, stage.near)
        for who in (f"{bare}{kind.suffix}", *kind.names) if bare else kind.names:
            acts[who] = kind.act(job, stage.near, who)
            units[who] = unit
    results = stage.play(ROUNDS, acts)
    rows = []
    for who, unit in units.items():
        figures = {seconds: results[who], "connects": ratios(results[who], results[unit])}
        rows.append(Row(who, figures, {"connects": goals[who]} if who in goals else {}))
    return rows


async def _burst(kind: Kind, near: str, who: str) -> float:
    if who not in kind.names:
        return await _slowest(kind, partial(kind.far.connect, near), kind.far.close)
    settings = {"connection_class": kind.far, "min_size": 0, "max_size": SIZE}
    async with kind.opened(who, near, **settings) as pool:
        return await _slowest(kind, pool.getconn, pool.putconn)


async def _slowest(kind: Kind, take: Callable[[], Any], give: Callable[[Any], Any]) -> float:
    """Each keeps its connection until all have one: nobody is served by another's return."""
    meet = kind.meeting(SIZE)

    async def acquire() -> tuple[float, Any]:
        meet()
        began = perf_counter()
        conn = await got(take())
        return perf_counter() - began, conn

    taken = await kind.together([acquire() for _ in range(SIZE)])
    for _, conn in taken:
        await got(give(conn))
    return float(max(waited for waited, _ in taken))


async def _warm_up(kind: Kind, near: str, who: str) -> float:
    began = perf_counter()
    async with kind.opened(who, near, connection_class=kind.far, min_size=SIZE) as pool:
        await got(pool.wait())
        return perf_counter() - began
