"""``pool``: psycopg_pool's two pools against ours: growth, restarts, upkeep, and lending.

All on one private PostgreSQL, a connect to which takes about 100 ms: through the lab's proxy, or
after a pause. Every part plays its contenders in turn, several times over, and shows the median of
the rounds and in brackets the lowest and the highest. "Connects" is a time divided by that of one
connect, measured alone in the same round. A goal is compared with the median, and a goal of 0 with
the worst round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ..readme import Digest, Place
from ..server import database
from ..table import Table, show
from . import growth, outages, upkeep
from .frame import KINDS, Stage
from .getput import WAYS, getput

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
    # The pools' warnings of the outages that are made here are not printed.
    logging.getLogger().addHandler(logging.NullHandler())
    with database("bench") as there:
        return show("pool", PARTS, parts, Stage(there, quick, there.near))


PLAIN, OURS = zip(*(kind.names for kind in KINDS), strict=True)


def _cells(part: str, figure: str, plain: str = "", ours: str = "") -> list[list[Place]]:
    """Of psycopg_pool's two classes, then of ours; *plain* and *ours* end their rows' names."""
    ends = ((PLAIN, plain), (OURS, ours))
    return [[Place(part, who + end, figure) for who in whos] for whos, end in ends]


_LABELS = (
    f"{growth.SIZE} acquires at once on an empty pool: the slowest, in connects",
    "the same through PgBouncer, where a connect takes less of the processor",
    f"a floor of {growth.SIZE} is there after so many connects",
    f"PostgreSQL restarted under {outages.CONNECTIONS} idle connections: failed of 50 requests",
    "the slowest of them, in connects (psycopg_pool: with `check=`)",
    "the longest acquire while idle connections are verified over a network of 50 ms, ms "
    "(psycopg_pool: by `check()`)",
    f"`max_lifetime` of {upkeep.LIFETIME:g} s: requests of 200 that got an expired connection",
    "get and put of a free connection, µs",
    "`with pool.connection()` of a free connection, µs",
    "from a return until the one that waits for it runs, µs",
    "threads of an idle pool",
    "after an outage longer than `reconnect_timeout`, without traffic: the floor is back after, s",
)
_CELLS = (
    _cells("burst", "connects"),
    _cells("pooler", "connects"),
    _cells("warming", "connects"),
    _cells("restart", outages.FAILURES),
    _cells("restart", "connects", ", check="),
    _cells("refresh", "max, ms"),
    _cells("lifetime", "expired"),
    *(_cells("getput", "µs", f", {way}", f", {way}") for way in WAYS),
    _cells("idle", "threads"),
    _cells("refill", "floor after, s"),
)
HEADS = ("psycopg_pool, sync / async", "poolguard, sync / async")
DIGEST = Digest(HEADS, dict(zip(_LABELS, _CELLS, strict=True)))
