"""What requests notice of a pool's upkeep: verification, ageing, and the threads that it keeps."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from threading import Event
from time import perf_counter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from poolguard.pool.events import AcquireEnded, Listener

from ..kinds import got
from ..processes import taken
from ..table import Row, Table, ratios
from .frame import KINDS, Kind, Stage

CONNECTIONS = 8
ROUND_TRIP = 0.05
ROUNDS = 5
SECONDS = 0.5
QUICK_SECONDS = 0.15
PAUSE = 0.001
"""Seconds between two acquires."""
CONSTANTLY, NEVER = PAUSE, 3600.0
"""Intervals of verification: a connection is due as soon as it has been verified or used; or never.
"""
REFRESH_GOALS = {"p99 ratio": 1.5, "max, ms": 1000 * ROUND_TRIP / 2}
"""Where no acquire waits for a verification, what is left is what threads do to each other."""

FLOOR, MOST = 4, 8
LIFETIME = 2.0
TRAFFIC = 10.0
"""Seconds."""
EVERY = 0.05
"""Seconds between the starts of two requests."""
HOLD = 0.01
LIFETIME_GOALS = {"expired": 0.0, "waited": 0.0, "created": 0.0}

IDLE_ROUNDS = 3
SETTLED = 1.0
"""Seconds after the last use, until those that only connect have ended."""
IDLE_GOALS = {"GuardedPool": {"threads": 1.0}, "AsyncGuardedPool": {"threads": 0.0}}


class _Window(NamedTuple):
    """What was seen in one window of time."""

    latencies: Sequence[float]
    """Of the acquires, in ms."""
    verified: float
    """Verifications in a second."""

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[-1]


def refresh(stage: Stage) -> Table:
    """How long an acquire takes while idle connections are being verified over a slow network.

    psycopg_pool verifies them with ``check()``, here in a loop.
    """
    acts: dict[str, Callable[[], _Window]] = {}
    for kind in KINDS:
        plain, ours = kind.names
        acts |= {
            plain: kind.act(_window, stage, plain),
            f"{plain}, check()": kind.act(_window, stage, plain, check=True),
            ours: kind.act(_window, stage, ours, check_interval=NEVER),
            f"{ours}, refreshing": kind.act(_window, stage, ours, check_interval=CONSTANTLY),
        }
    with stage.network(connect_delay=0.0, round_trip=ROUND_TRIP):
        results = stage.play(ROUNDS, acts)
    p99 = {who: [each.p99 for each in windows] for who, windows in results.items()}
    rows = []
    for who, windows in results.items():
        worst = [max(each.latencies) for each in windows]
        figures: dict[str, Sequence[float]] = {"p99, ms": p99[who], "max, ms": worst}
        without, _, refreshed = who.partition(",")
        if refreshed:
            figures["p99 ratio"] = ratios(p99[who], p99[without])
            figures["verified/s"] = [each.verified for each in windows]
        rows.append(Row(who, figures, REFRESH_GOALS if refreshed and "Guarded" in who else {}))
    title = f"refresh: acquires, one of {CONNECTIONS} connections at a time, while idle ones are"
    return Table(f"{title} verified over a round trip of {1000 * ROUND_TRIP:.0f} ms", rows)


async def _window(
    kind: Kind, stage: Stage, who: str, *, check: bool = False, **settings: Any
) -> _Window:
    seconds = QUICK_SECONDS if stage.quick else SECONDS
    latencies: list[float] = []
    over = Event()
    async with kind.opened(who, stage.database.far, min_size=CONNECTIONS, **settings) as pool:
        verified = _counted(pool)
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

        await kind.together([acquires(), checks()] if check else [acquires()])
    return _Window(latencies, sum(start <= at < until for at in verified) / seconds)


def _counted(pool: Any) -> list[float]:
    """When *pool* verifies a connection, from now on."""
    verified: list[float] = []
    check = pool.check_connection

    def counting(conn: Any) -> Any:
        verified.append(perf_counter())
        return check(conn)

    pool.check_connection = counting
    return verified


class _Tally(Listener):
    """What became of one pool's requests once it was warm."""

    def __init__(self) -> None:
        self.born: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self.counts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        """The outcomes that our pool tells its listener."""

    def configure(self, conn: Any) -> None:
        """The pool's callback for a new connection."""
        self.born[conn] = perf_counter()
        self.counts["connects"] += 1

    async def configure_aio(self, conn: Any) -> None:
        self.configure(conn)

    def taken(self, conn: Any, began: float) -> None:
        self.counts["requests"] += 1
        self.counts["expired"] += perf_counter() - self.born[conn] > LIFETIME
        self.counts["created"] += self.born[conn] > began

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        self.told[event.outcome] += 1

    def row(self, who: str, queued: int) -> Row:
        """*queued* requests found no free connection, by psycopg_pool's statistics: those whose
        connection was new had it created, the others waited for a return."""
        counts, ours = {**self.counts}, "Guarded" in who
        counts["waited"] = max(0, queued - counts["created"])
        if ours:
            counts |= {name: self.told[name] for name in ("waited", "created")}
        names = ("requests", "connects", "expired", "waited", "created")
        return Row(who, {name: [counts[name]] for name in names}, LIFETIME_GOALS if ours else {})


def lifetime(stage: Stage) -> Table:
    """Light traffic on connections that live two seconds: what requests notice of their age.

    All four pools are measured at the same time, each with traffic of its own.
    """
    seconds = 1.0 if stage.quick else TRAFFIC
    stage.say(f"{seconds:.0f} s of traffic")
    pools = [(kind, who) for kind in KINDS for who in kind.names]
    with ThreadPoolExecutor(len(pools)) as threads:
        rows = [*threads.map(lambda of: of[0].run(_aged(of[0], of[1], stage, seconds)), pools)]
    title = f"lifetime: {1 / EVERY:.0f} requests/s for {seconds:.0f} s on {FLOOR} connections"
    return Table(f"{title}, max_lifetime {LIFETIME:.0f} s", rows)


async def _aged(kind: Kind, who: str, stage: Stage, seconds: float) -> Row:
    tally = _Tally()
    settings: dict[str, Any] = {"min_size": FLOOR, "max_size": MOST, "max_lifetime": LIFETIME}
    settings["configure"] = tally.configure_aio if kind.suffix else tally.configure
    if "Guarded" in who:
        settings["listener"] = tally
    async with kind.opened(who, stage.database.far, **settings) as pool:
        await got(pool.wait())
        start = perf_counter()
        while (began := perf_counter()) < start + seconds:
            conn = await got(pool.getconn())
            tally.taken(conn, began)
            await got(conn.execute("SELECT 1"))
            await got(kind.sleep(HOLD))
            await got(conn.rollback())
            await got(pool.putconn(conn))
            await got(kind.sleep(max(0.0, began + EVERY - perf_counter())))
        return tally.row(who, pool.get_stats().get("requests_queued", 0))


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
