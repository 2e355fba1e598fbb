"""``pool``: psycopg_pool's two pools against ours: growth, restarts, upkeep, and lending.

All on one private PostgreSQL, a connect to which takes about 100 ms: through the lab's proxy, or
after a pause. Every part plays its contenders in turn, several times over, and shows the median of
the rounds and in brackets the lowest and the highest. "Connects" is a time divided by that of one
connect, measured alone in the same round. A goal is compared with the median, and a goal of 0 with
the worst round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ..readme import Digest, Place
from ..server import database
from ..table import Progress, Table, show
from . import growth, outages, upkeep
from .frame import KINDS, Stage
from .getput import getput

PARTS: Mapping[str, Callable[[Stage], Table]] = {
    "burst": growth.burst,
    "pooler": growth.through_pooler,
    "warming": growth.warming,
    "restart": outages.restart,
    "refresh": upkeep.refresh,
    "lifetime": upkeep.lifetime,
    "getput": getput,
    "idle": upkeep.idle,
    "refill": outages.refill,
}


def run(*parts: str, quick: bool = False) -> dict[str, Table]:
    """Measure *parts*, or all, and print a table of each."""
    with _quiet(), database("bench") as there:

        def stage(progress: Progress) -> Stage:
            return Stage(there, there.near, quick, progress)

        return show("pool", PARTS, parts, stage)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pools' warnings of the outages that are made here."""
    loggers = [logging.getLogger(name) for name in ("psycopg", "psycopg.pool", "poolguard")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cells(part: str, figure: str, plain: str = "", ours: str = "") -> list[list[Place]]:
    """Of psycopg_pool's two classes, then of ours; *plain* and *ours* end their rows' names."""
    whos = zip(*(kind.names for kind in KINDS), strict=True)
    ends = (plain, ours)
    return [
        [Place(part, who + end, figure) for who in pair]
        for pair, end in zip(whos, ends, strict=True)
    ]


def _lent(*ways: str) -> list[list[Place]]:
    """The same of the sync and of the async way to lend."""
    whos = zip(*(kind.names for kind in KINDS), strict=True)
    return [
        [Place("getput", f"{who}, {way}", "µs") for who, way in zip(pair, ways, strict=True)]
        for pair in whos
    ]


DIGEST = Digest(
    ["psycopg_pool, sync / async", "poolguard, sync / async"],
    {
        f"{growth.SIZE} acquires at once on an empty pool: the slowest, in connects": _cells(
            "burst", "connects"
        ),
        "the same through PgBouncer, where a connect takes less of the processor": _cells(
            "pooler", "connects"
        ),
        f"a floor of {growth.SIZE} is there after so many connects": _cells("warming", "connects"),
        f"PostgreSQL restarted under {outages.CONNECTIONS} idle connections: failed of "
        f"{outages.REQUESTS} requests": _cells("restart", outages.FAILURES),
        "the slowest of them, in connects (psycopg_pool: with `check=`)": _cells(
            "restart", "connects", ", check="
        ),
        f"the longest acquire while idle connections are verified over a network of "
        f"{upkeep.ROUND_TRIP * 1e3:.0f} ms, ms (psycopg_pool: by `check()`)": _cells(
            "refresh", "max, ms", ", check()", ", refreshing"
        ),
        f"`max_lifetime` of {upkeep.LIFETIME:g} s: requests of 200 that got an expired "
        "connection": _cells("lifetime", "expired"),
        "get and put of a free connection, µs": _lent("getconn + putconn", "getconn + putconn"),
        "`with pool.connection()` of a free connection, µs": _lent(
            "with connection()", "async with connection()"
        ),
        "from a return until the one that waits for it runs, µs": _lent(
            "handed over", "handed over"
        ),
        "threads of an idle pool": _cells("idle", "threads"),
        "after an outage longer than `reconnect_timeout`, without traffic: the floor is back "
        "after, s": _cells("refill", "floor after, s"),
    },
)
