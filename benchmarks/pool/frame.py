"""What the parts share: the stage they play on, and how their figures are judged and shown."""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool

__all__ = [
    "AIO",
    "CONNECT_DELAY",
    "SYNC",
    "AsyncFar",
    "AsyncPool",
    "Far",
    "Progress",
    "Row",
    "Stage",
    "SyncPool",
    "Table",
    "awaited",
    "ratios",
]

T = TypeVar("T")
SyncPool = ConnectionPool[Connection[Any]]
AsyncPool = AsyncConnectionPool[AsyncConnection[Any]]

SYNC: Mapping[str, Callable[..., SyncPool]] = {
    "ConnectionPool": ConnectionPool,
    "GuardedPool": GuardedPool,
}
AIO: Mapping[str, Callable[..., AsyncPool]] = {
    "AsyncConnectionPool": AsyncConnectionPool,
    "AsyncGuardedPool": AsyncGuardedPool,
}
"""Who competes: psycopg_pool's class and ours, by the names under which they are shown."""

CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""
ALONE = 3
"""How often a connect is measured alone in each round: the median counts."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, the network before it, and how long all is played."""

    server: PrivatePostgres
    proxy: SlowProxy
    conninfo: str
    """The way to the server through the proxy."""
    near: str
    """The way to it over its own socket, for those who wait before they connect (:data:`FAR`)."""
    quick: bool
    say: Callable[[str], None]

    def play(self, rounds: int, acts: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """What each act returns, once a round; every other round they come in reversed order."""
        rounds = 1 if self.quick else rounds
        results: dict[str, list[T]] = {who: [] for who in acts}
        for nth in range(rounds):
            for who in list(acts)[:: -1 if nth % 2 else 1]:
                self.say(f"round {nth + 1} of {rounds}, {who}")
                results[who].append(acts[who]())
        return results

    @contextmanager
    def network(self, *, connect_delay: float, round_trip: float) -> Iterator[None]:
        """Another network for a while."""
        self.proxy.set(connect_delay=connect_delay, latency=round_trip / 2)
        try:
            yield
        finally:
            self.proxy.set(connect_delay=CONNECT_DELAY, latency=0.0)

    def one_connect(self) -> float:
        """Seconds that one connect takes while nothing else happens."""
        return _median_of(lambda: Connection.connect(self.conninfo))

    def one_far_connect(self) -> float:
        """The same of one who waits before he connects."""
        return _median_of(lambda: Far.connect(self.near))

    def one_far_connect_aio(self) -> float:
        """The same over asyncio."""

        async def connects() -> list[float]:
            return [await self._connect_aio() for _ in range(ALONE)]

        return statistics.median(asyncio.run(connects()))

    async def _connect_aio(self) -> float:
        began = perf_counter()
        conn = await AsyncFar.connect(self.near)
        took = perf_counter() - began
        await conn.close()
        return took


class Far(Connection[Any]):
    """A connection to a server that is as far away as CONNECT_DELAY.

    Where many connect at once, a proxy in between would need the processor that all of them share
    here, and so be measured as well.
    """

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        sleep(CONNECT_DELAY)
        return super().connect(*args, **kwargs)


class AsyncFar(AsyncConnection[Any]):
    """The same over asyncio."""

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(CONNECT_DELAY)
        return await super().connect(*args, **kwargs)


def _median_of(connect: Callable[[], Connection[Any]]) -> float:
    took: list[float] = []
    for _ in range(ALONE):
        began = perf_counter()
        conn = connect()
        took.append(perf_counter() - began)
        conn.close()
    return statistics.median(took)


def awaited(job: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Callable[[], T]:
    """The coroutine function *job* as an act."""
    return lambda: asyncio.run(job(*args))


def ratios(times: Sequence[float], units: Sequence[float]) -> list[float]:
    """Each round's time in the unit that was measured in the same round."""
    return [time / unit for time, unit in zip(times, units, strict=True)]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figures, each once a round, and what they ought to be at most."""

    who: str
    figures: Mapping[str, Sequence[float]]
    goals: Mapping[str, float] = field(default_factory=dict)

    def judged(self, name: str) -> float:
        """The figure that is compared with the goal: the median, or the worst where it is 0."""
        of = self.figures[name]
        return statistics.median(of) if self.goals[name] else max(of)

    @property
    def missed(self) -> list[str]:
        return [name for name, goal in self.goals.items() if not self.judged(name) <= goal]

    @property
    def verdict(self) -> str:
        if not self.goals:
            return ""
        missed = [f"{name} {_number(self.judged(name))}" for name in self.missed]
        return f"MISSED ({', '.join(missed)})" if missed else "met"

    @property
    def goal(self) -> str:
        """The goals in the order of the figures."""
        goals = [(name, self.goals[name]) for name in self.figures if name in self.goals]
        return ", ".join(f"{name} ≤ {goal:g}" if goal else f"{name} 0" for name, goal in goals)


@dataclass(frozen=True, slots=True)
class Table:
    """What one part has measured."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        lines = [["", *names, "goal", ""]]
        for row in self.rows:
            cells = [_cell(row.figures[name]) if name in row.figures else "" for name in names]
            lines.append([row.who, *cells, row.goal, row.verdict])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [self.title]
        for who, *cells, verdict in lines:
            padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True)]
            text.append("  ".join([f"  {who:<{widths[0]}}", *padded, verdict]).rstrip())
        return "\n".join([*text, *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict[str, object]:
        rows = [
            {
                "who": row.who,
                "figures": {
                    name: [value if math.isfinite(value) else None for value in values]
                    for name, values in row.figures.items()
                },
                "goals": dict(row.goals),
                "missed": row.missed,
            }
            for row in self.rows
        ]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}


def _cell(values: Sequence[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    if low == high:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)}–{_number(high)})"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    if float(value).is_integer() or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


class Progress:
    """A line on stderr that says what is being done, where stderr is a terminal."""

    def __init__(self) -> None:
        self.part = ""
        self._began = perf_counter()

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            line = f"{perf_counter() - self._began:4.0f} s  {self.part}: {text}"
            print(f"\r\x1b[K{line[:79]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
