"""What outages do to a pool: a restart under idle connections, and one without traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore
from time import perf_counter, sleep
from typing import Any

from psycopg.conninfo import make_conninfo

from ..kinds import got
from ..table import Row, Table, ratios, say
from .frame import KINDS, Kind, Stage

CONNECTIONS = 8
REQUESTS = 50
RESTARTS = 4
RESTART_GOAL = 2.0
FAILURES = f"failed of {REQUESTS}"

FLOOR = 4
RECONNECT_TIMEOUT = 1.0
OUTAGE = 3.0
WATCHED = 6.0
"""Seconds after which a floor that is not there is taken never to come back."""
OUTAGES = 3
REFILL_GOAL = 2.0
LIVE = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE application_name = ANY(%s) GROUP BY 1
"""

Outcome = tuple[int, float]
"""How many requests failed, and seconds that the slowest took."""


def restart(stage: Stage) -> Table:
    """PostgreSQL is restarted; the requests begin when it accepts connections again."""
    acts: dict[str, Callable[[], Any]] = {}
    for kind in KINDS:
        (plain, ours), check = kind.names, kind.pools[0].check_connection
        acts |= {
            f"connect{kind.suffix}": kind.connects(kind.bare, stage.database.far),
            plain: kind.act(_restart, stage, plain),
            f"{plain}, check=": kind.act(_restart, stage, plain, check=check),
            ours: kind.act(_restart, stage, ours),
        }
    results = stage.play(RESTARTS, acts)
    rows = []
    for kind in KINDS:
        unit = results.pop(f"connect{kind.suffix}")
        for who in (kind.names[0], f"{kind.names[0]}, check=", kind.names[1]):
            slowest = [took for _, took in results[who]]
            figures = {
                FAILURES: [failed for failed, _ in results[who]],
                "slowest, s": slowest,
                "connects": ratios(slowest, unit),
            }
            goals = {FAILURES: 0.0, "connects": RESTART_GOAL} if "Guarded" in who else {}
            rows.append(Row(who, figures, goals))
    title = f"restart: of PostgreSQL, under {CONNECTIONS} idle connections"
    return Table(f"{title}; then {REQUESTS} requests, {CONNECTIONS} at a time", rows)


async def _restart(kind: Kind, stage: Stage, who: str, **more: Any) -> Outcome:
    async with kind.opened(who, stage.database.far, min_size=CONNECTIONS, **more) as pool:
        await got(pool.wait())
        await got(kind.aside(stage.database.server.restart))
        todo = iter(range(REQUESTS))

        async def requests() -> list[Outcome]:
            return [await _request(kind, pool) for _ in todo]

        done = await kind.together([requests() for _ in range(CONNECTIONS)])
    each = [outcome for several in done for outcome in several]
    return sum(failed for failed, _ in each), max(took for _, took in each)


async def _request(kind: Kind, pool: Any) -> Outcome:
    began = perf_counter()
    try:
        async with kind.block(pool) as conn:
            await got(conn.execute("SELECT 1"))
    except Exception:  # noqa: BLE001 - whatever it is, the request has failed
        return 1, perf_counter() - began
    return 0, perf_counter() - began


def refill(stage: Stage) -> Table:
    """An outage longer than reconnect_timeout: when the server sees the floor again.

    All contenders go through the same outages.
    """
    names = {who: kind for kind in KINDS for who in kind.names}
    outage, watched = (0.5, 0.5) if stage.quick else (OUTAGE, WATCHED)
    back: dict[str, list[float]] = {who: [] for who in names}
    rounds = 1 if stage.quick else OUTAGES
    for nth in range(rounds):
        say(f"round {nth + 1} of {rounds}")
        for who, seconds in _outage(stage, names, outage, watched).items():
            back[who].append(seconds)
    figure = "floor after, s"
    rows = [
        Row(who, {figure: back[who]}, {figure: REFILL_GOAL} if "Guarded" in who else {})
        for who in names
    ]
    title = f"refill: an outage of {outage:g} s, reconnect_timeout {RECONNECT_TIMEOUT:g} s"
    return Table(f"{title}, no traffic, watched for {watched:g} s", rows)


def _outage(
    stage: Stage, names: Mapping[str, Kind], outage: float, watched: float
) -> dict[str, float]:
    ready, over = Semaphore(0), Event()
    with ThreadPoolExecutor(len(names)) as threads:
        holding = [
            threads.submit(kind.run, _hold(kind, stage, who, ready, over))
            for who, kind in names.items()
        ]
        try:
            for _ in names:
                ready.acquire()
            stage.database.server.stop()
            sleep(outage)
            stage.database.server.start()
            return _watch(stage, names, watched)
        finally:
            over.set()
            for each in holding:
                each.result()


async def _hold(kind: Kind, stage: Stage, who: str, ready: Semaphore, over: Event) -> None:
    conninfo = make_conninfo(stage.database.far, application_name=who)
    settings = {"min_size": FLOOR, "reconnect_timeout": RECONNECT_TIMEOUT}
    async with kind.opened(who, conninfo, **settings) as pool:
        try:
            await got(pool.wait())
        finally:
            ready.release()
        await got(kind.aside(over.wait))


def _watch(stage: Stage, names: Collection[str], watched: float) -> dict[str, float]:
    began = perf_counter()
    back = dict.fromkeys(names, math.inf)
    with stage.database.server.connect() as conn:
        while math.inf in back.values() and perf_counter() < began + watched:
            for who, live in conn.execute(LIVE, [list(names)]).fetchall():
                if live >= FLOOR:
                    back[who] = min(back[who], perf_counter() - began)
            sleep(0.02)
    return back
