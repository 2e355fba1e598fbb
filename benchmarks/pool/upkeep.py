"""What requests notice of a pool's upkeep: verification, ageing, and the threads that it keeps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from threading import Event
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

from ..kinds import got
from ..processes import taken
from ..table import Row, Table, say
from .frame import KINDS, Kind, Stage

CONNECTIONS = 8
ROUND_TRIP = 0.05
ROUNDS = 5
SECONDS = 0.5
QUICK_SECONDS = 0.15
PAUSE = 0.001
"""Seconds between two acquires, and the interval of our verification: a connection is due as soon
as it has been verified or used."""
REFRESH_GOALS = {"max, ms": 1000 * ROUND_TRIP / 2}
"""Where no acquire waits for a verification, what is left is what threads do to each other."""

FLOOR, MOST = 4, 8
LIFETIME = 2.0
TRAFFIC = 10.0
"""Seconds."""
EVERY = 0.05
"""Seconds between the starts of two requests."""
HOLD = 0.01
LIFETIME_GOALS = {"expired": 0.0, "queued": 0.0}

IDLE_ROUNDS = 3
SETTLED = 1.0
"""Seconds after the last use, until those that only connect have ended."""
IDLE_GOALS = {"GuardedPool": {"threads": 1.0}, "AsyncGuardedPool": {"threads": 0.0}}


def refresh(stage: Stage) -> Table:
    """How long an acquire takes while idle connections are being verified over a slow network.

    psycopg_pool verifies them with ``check()``, here in a loop.
    """
    acts: dict[str, Callable[[], tuple[float, float]]] = {}
    for kind in KINDS:
        plain, ours = kind.names
        acts |= {
            plain: kind.act(_verified, stage, plain),
            ours: kind.act(_verified, stage, ours, check_interval=PAUSE),
        }
    with stage.database.network(connect_delay=0.0, round_trip=ROUND_TRIP):
        results = stage.play(ROUNDS, acts)
    rows = []
    for who, rounds in results.items():
        slowest, verified = zip(*rounds, strict=True)
        figures: dict[str, Sequence[float]] = {"max, ms": slowest, "verified/s": verified}
        rows.append(Row(who, figures, REFRESH_GOALS if "Guarded" in who else {}))
    title = f"refresh: acquires, one of {CONNECTIONS} connections at a time, while idle ones are"
    return Table(f"{title} verified over a round trip of {1000 * ROUND_TRIP:.0f} ms", rows)


async def _verified(kind: Kind, stage: Stage, who: str, **settings: Any) -> tuple[float, float]:
    """The longest acquire in ms, and how many verifications there were in a second."""
    seconds = QUICK_SECONDS if stage.quick else SECONDS
    latencies: list[float] = []
    verified: list[float] = []
    over = Event()
    async with kind.opened(who, stage.database.far, min_size=CONNECTIONS, **settings) as pool:
        check = pool.check_connection

        def counting(conn: Any) -> Any:
            verified.append(perf_counter())
            return check(conn)

        pool.check_connection = counting
        await got(pool.wait())
        start = perf_counter()
        until = start + seconds

        async def acquires() -> None:
            while (began := perf_counter()) < until:
                conn = await got(pool.getconn())
                latencies.append(1000 * (perf_counter() - began))
                await got(pool.putconn(conn))
                await got(kind.sleep(PAUSE))
            over.set()

        async def checks() -> None:
            while not over.is_set():  # one that is cancelled takes that for a broken connection
                await got(pool.check())

        await kind.together([acquires()] if settings else [acquires(), checks()])
    return max(latencies), sum(start <= at < until for at in verified) / seconds


def lifetime(stage: Stage) -> Table:
    """Light traffic on connections that live two seconds: what requests notice of their age.

    All four pools are measured at the same time, each with traffic of its own.
    """
    seconds = 1.0 if stage.quick else TRAFFIC
    say(f"{seconds:.0f} s of traffic")
    pools = [(kind, who) for kind in KINDS for who in kind.names]
    with ThreadPoolExecutor(len(pools)) as threads:
        rows = [*threads.map(lambda of: of[0].run(_aged(of[0], of[1], stage, seconds)), pools)]
    title = f"lifetime: {1 / EVERY:.0f} requests/s for {seconds:.0f} s on {FLOOR} connections"
    return Table(f"{title}, max_lifetime {LIFETIME:.0f} s", rows)


async def _aged(kind: Kind, who: str, stage: Stage, seconds: float) -> Row:
    born: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    counts: Counter[str] = Counter()

    def configure(conn: Any) -> None:
        born[conn] = perf_counter()
        counts["connects"] += 1

    async def configure_aio(conn: Any) -> None:
        configure(conn)

    settings: dict[str, Any] = {"min_size": FLOOR, "max_size": MOST, "max_lifetime": LIFETIME}
    settings["configure"] = configure_aio if kind.suffix else configure
    async with kind.opened(who, stage.database.far, **settings) as pool:
        await got(pool.wait())
        start = perf_counter()
        while (began := perf_counter()) < start + seconds:
            conn = await got(pool.getconn())
            counts["requests"] += 1
            counts["expired"] += perf_counter() - born[conn] > LIFETIME
            await got(conn.execute("SELECT 1"))
            await got(kind.sleep(HOLD))
            await got(conn.rollback())
            await got(pool.putconn(conn))
            await got(kind.sleep(max(0.0, began + EVERY - perf_counter())))
        # Those that found no free connection.
        counts["queued"] = pool.get_stats().get("requests_queued", 0)
    figures = {name: [counts[name]] for name in ("requests", "connects", "expired", "queued")}
    return Row(who, figures, LIFETIME_GOALS if "Guarded" in who else {})


def idle(stage: Stage) -> Table:
    """The threads that a pool keeps while nobody wants anything of it.

    Each in a fresh process: what all pools of a process share is counted, too.
    """
    acts = {
        who: partial(_in_fresh_process, nth, who, stage.database.far)
        for nth, kind in enumerate(KINDS)
        for who in kind.names
    }
    rows = []
    for who, threads in stage.play(IDLE_ROUNDS, acts).items():
        rows.append(Row(who, {"threads": threads}, IDLE_GOALS.get(who, {})))
    return Table(f"idle: what a pool with {FLOOR} connections keeps while nobody acquires", rows)


def _in_fresh_process(kind: int, who: str, conninfo: str) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_kept, kind, who, conninfo).result()


def _kept(nth: int, who: str, conninfo: str) -> float:
    kind = KINDS[nth]
    before = taken(os.getpid()).threads

    async def kept() -> float:
        async with kind.opened(who, conninfo, min_size=FLOOR) as pool:
            await got(pool.wait())
            async with kind.block(pool) as conn:
                await got(conn.execute("SELECT 1"))
            await got(kind.sleep(SETTLED))
            return taken(os.getpid()).threads - before

    return float(kind.run(kept()))
