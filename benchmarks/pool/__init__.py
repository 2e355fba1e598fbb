"""psycopg_pool's two pools against ours: growth, warming, restarts, refreshing, ageing, cost.

All on one private PostgreSQL, a connect to which takes about 100 ms: through the lab's proxy, or
after a pause. Every part plays its contenders in turn, several times over, and shows the median of
the rounds and in brackets the lowest and the highest. "Connects" is a time divided by that of one
connect, measured alone in the same round. A goal is compared with the median, and a goal of 0 with
the worst round.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from psycopg.conninfo import make_conninfo

from poolguard.lab.binaries import find
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy

from ..server import trust
from ..table import Progress, Table
from . import burst, getput, idle, lifetime, refill, refresh, restart, warming
from .frame import CONNECT_DELAY, Stage

__all__ = ["PARTS", "run"]

PARTS: Mapping[str, Callable[[Stage], Table]] = {
    "burst": burst.run,
    "pooler": burst.through_pooler,
    "warming": warming.run,
    "restart": restart.run,
    "refresh": refresh.run,
    "lifetime": lifetime.run,
    "getput": getput.run,
    "idle": idle.run,
    "refill": refill.run,
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns them as plain data.

    *quick* shows that they work, with too few rounds for figures worth anything.
    """
    environment = _environment()
    print("pool:", environment, flush=True)
    progress = Progress()
    tables: dict[str, object] = {}
    missed: list[str] = []
    with _quiet(), _stage(progress, quick=quick) as stage:
        for part in parts or PARTS:
            progress.part = part
            table = PARTS[part](stage)
            progress.clear()
            print(f"\n{table}", flush=True)
            tables[part] = table.as_json()
            missed += [f"{part} ({row.who})" for row in table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"environment": environment, "parts": tables}


@contextmanager
def _stage(progress: Progress, *, quick: bool) -> Iterator[Stage]:
    with (
        PrivatePostgres() as server,
        SlowProxy(("127.0.0.1", server.port), connect_delay=CONNECT_DELAY) as proxy,
    ):
        role = server.create_role("bench")
        trust(server)
        far = make_conninfo(role, host=proxy.host, port=proxy.port)
        near = make_conninfo(role, host=str(server.folder))
        yield Stage(server, proxy, far, near, quick, progress)


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


def _environment() -> str:
    packages: Sequence[str] = ("psycopg", "psycopg-pool")
    versions = [f"{name.replace('-', '_')} {version(name)}" for name in packages]
    return ", ".join(
        [
            f"Python {platform.python_version()}",
            *versions,
            f"PostgreSQL {find().version}",
            f"{os.cpu_count()} cores",
        ]
    )
