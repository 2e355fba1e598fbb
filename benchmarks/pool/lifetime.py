"""Light traffic on connections that live two seconds: what requests notice of their age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any
from weakref import WeakKeyDictionary

from poolguard.pool.events import AcquireEnded, Listener

from ..table import Row, Table
from .frame import AIO, SYNC, AsyncPool, Stage, SyncPool

__all__ = ["run"]

FLOOR, MOST = 4, 8
LIFETIME = 2.0
SECONDS = 10.0
EVERY = 0.05
"""Seconds between the starts of two requests."""
HOLD = 0.01
GOALS = {"expired": 0.0, "waited": 0.0, "created": 0.0}


@dataclass
class _Tally(Listener):
    """What became of one pool's requests once it was warm."""

    born: WeakKeyDictionary[Any, float] = field(default_factory=WeakKeyDictionary)
    connects: int = 0
    requests: int = 0
    expired: int = 0
    created: int = 0
    told: dict[str, int] = field(default_factory=dict)
    """The outcomes that our pool tells its listener."""

    def configure(self, conn: Any) -> None:
        """The pool's callback for a new connection."""
        self.born[conn] = perf_counter()
        self.connects += 1

    async def configure_aio(self, conn: Any) -> None:
        self.configure(conn)

    def taken(self, conn: Any, began: float) -> None:
        self.requests += 1
        self.expired += perf_counter() - self.born[conn] > LIFETIME
        self.created += self.born[conn] > began

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        self.told[event.outcome] = self.told.get(event.outcome, 0) + 1

    def row(self, who: str, queued: int) -> Row:
        """*queued* requests found no free connection, by psycopg_pool's statistics: those whose
        connection was new had it created, the others waited for a return."""
        ours = "Guarded" in who
        waited = self.told.get("waited", 0) if ours else max(0, queued - self.created)
        created = self.told.get("created", 0) if ours else self.created
        counts = {
            "requests": self.requests,
            "connects": self.connects,
            "expired": self.expired,
            "waited": waited,
            "created": created,
        }
        figures = {name: [float(n)] for name, n in counts.items()}
        return Row(who, figures, GOALS if ours else {})


def run(stage: Stage) -> Table:
    """Measure all four pools at the same time, each with traffic of its own."""
    seconds = 1.0 if stage.quick else SECONDS
    stage.say(f"{seconds:.0f} s of traffic")
    with ThreadPoolExecutor(len(SYNC) + len(AIO)) as threads:
        rows = [
            *(threads.submit(_sync, stage, who, make, seconds) for who, make in SYNC.items()),
            *(
                threads.submit(asyncio.run, _aio(stage, who, make, seconds))
                for who, make in AIO.items()
            ),
        ]
        title = f"lifetime: {1 / EVERY:.0f} requests/s for {seconds:.0f} s on {FLOOR} connections"
        return Table(f"{title}, max_lifetime {LIFETIME:.0f} s", [row.result() for row in rows])


def _sync(stage: Stage, who: str, make: Callable[..., SyncPool], seconds: float) -> Row:
    tally = _Tally()
    settings = _settings(tally, who)
    with make(stage.conninfo, configure=tally.configure, **settings) as pool:
        pool.wait()
        start = perf_counter()
        while (began := perf_counter()) < start + seconds:
            conn = pool.getconn()
            tally.taken(conn, began)
            conn.execute("SELECT 1")
            sleep(HOLD)
            conn.rollback()
            pool.putconn(conn)
            sleep(max(0.0, began + EVERY - perf_counter()))
        return tally.row(who, pool.get_stats().get("requests_queued", 0))


async def _aio(stage: Stage, who: str, make: Callable[..., AsyncPool], seconds: float) -> Row:
    tally = _Tally()
    settings = _settings(tally, who)
    async with make(stage.conninfo, configure=tally.configure_aio, **settings) as pool:
        await pool.wait()
        start = perf_counter()
        while (began := perf_counter()) < start + seconds:
            conn = await pool.getconn()
            tally.taken(conn, began)
            await conn.execute("SELECT 1")
            await asyncio.sleep(HOLD)
            await conn.rollback()
            await pool.putconn(conn)
            await asyncio.sleep(max(0.0, began + EVERY - perf_counter()))
        return tally.row(who, pool.get_stats().get("requests_queued", 0))


def _settings(tally: _Tally, who: str) -> dict[str, Any]:
    settings = {"min_size": FLOOR, "max_size": MOST, "max_lifetime": LIFETIME, "open": False}
    return {**settings, "listener": tally} if "Guarded" in who else settings
