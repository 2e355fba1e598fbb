"""``adapters``: what lending a connection costs through a framework: its own pool against ours.

Processor time of a checkout and its return, in one process: Django's connection as each request
opens and closes it, SQLAlchemy's raw connection and its ``connect()``, sync and async. Nothing is
executed. Goal: at most what the framework's own pool takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any, TypeAlias

from psycopg.conninfo import conninfo_to_dict

from poolguard import Guard

from .readme import Digest, Place
from .server import Database, database
from .table import Row, Table, ratios, show, turns

PAIRS = 40
LOOPS = 2_000
ASYNC_LOOPS = 500
SIZE = 4
PLAN: Mapping[str, Any] = {"budget": 8, "floor": SIZE, "ledger": "static"}
"""A plan that asks no server: of the budget, nothing is measured here."""


Act: TypeAlias = Callable[[int], float]
"""Lends a connection so many times; returns the µs of one time."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where and how thoroughly is measured."""

    database: Database
    quick: bool

    def compare(self, title: str, kinds: Mapping[str, tuple[Act, Act]], loops: int) -> Table:
        """Each kind's two ways in turn: the framework's own pool, and ours."""
        loops, pairs = (loops // 10, 3) if self.quick else (loops, PAIRS)
        rows = []
        for kind, (theirs, ours) in kinds.items():
            acts = {
                f"{kind}, its own pool": partial(theirs, loops),
                f"{kind}, poolguard": partial(ours, loops),
            }
            (plain, base), (own, took) = turns(pairs, acts).items()
            rows.append(Row(plain, {"µs": base}))
            rows.append(Row(own, {"µs": took, "ratio": ratios(took, base)}, {"ratio": 1.0}))
        return Table(f"{title}, {pairs} pairs of rounds", rows)


def run(*parts: str, quick: bool = False) -> dict[str, Table]:
    """Measure *parts*, or all, and print a table of each."""
    with database("bench") as there:
        return show("adapters", PARTS, parts, Stage(there, quick))


def timed(lend: Callable[[], object], loops: int) -> float:
    """The µs of processor time of one call."""
    began = process_time()
    for _ in range(loops):
        lend()
    return (process_time() - began) / loops * 1e6


# -- Django ------------------------------------------------------------------------------------


def of_django(stage: Stage) -> Table:
    """A request's connection: opened by its first query, closed at its end."""
    import django
    from django.conf import settings
    from django.db import connections

    import poolguard.django

    known = conninfo_to_dict(stage.database.near)
    names = {"NAME": "dbname", "USER": "user", "HOST": "host", "PORT": "port"}
    place = {name: known[key] for name, key in names.items()}
    settings.configure(
        DATABASES={
            "default": {
                **place,
                "ENGINE": "django.db.backends.postgresql",
                "OPTIONS": {"pool": {"min_size": SIZE, "max_size": 8}},
            },
            "guarded": {**place, "ENGINE": "poolguard.django", "OPTIONS": {"poolguard": PLAN}},
        }
    )
    django.setup()
    theirs, ours = connections["default"], connections["guarded"]
    with poolguard.django.guard("guarded") as guard:
        assert guard.ready
        table = stage.compare(
            "django: ensure_connection() and close()",
            {"Django": (_requests(theirs), _requests(ours))},
            LOOPS,
        )
        assert acquired(guard) >= LOOPS // 10
    theirs.close_pool()
    return table


def _requests(connection: Any) -> Act:
    def lend() -> None:
        connection.ensure_connection()
        connection.close()

    return lambda loops: timed(lend, loops)


# -- SQLAlchemy --------------------------------------------------------------------------------


def engines(stage: Stage, make: Callable[..., Any]) -> tuple[Any, Any]:
    """Two engines for the same database: with its own pool, and with a guard's."""
    known = conninfo_to_dict(stage.database.near)
    url = f"postgresql+psycopg://{known['user']}@/{known['dbname']}"
    at = {"connect_args": {"host": known["host"], "port": known["port"]}}
    return make(url, pool_size=SIZE, **at), make(url, plugins=["poolguard"], poolguard=PLAN, **at)


def of_sqlalchemy(stage: Stage) -> Table:
    """A connection as a pool lends it, and as an engine does, with what a transaction takes."""
    from sqlalchemy import create_engine

    import poolguard.sqlalchemy

    def raw(engine: Any) -> Act:
        return lambda loops: timed(lambda: engine.raw_connection().close(), loops)

    def connect(engine: Any) -> Act:
        return lambda loops: timed(lambda: engine.connect().close(), loops)

    theirs, ours = engines(stage, create_engine)
    with poolguard.sqlalchemy.guard(ours) as guard:
        kinds = {
            "raw_connection()": (raw(theirs), raw(ours)),
            "connect()": (connect(theirs), connect(ours)),
        }
        table = stage.compare("sqlalchemy: lent and returned", kinds, LOOPS)
        assert acquired(guard) >= LOOPS // 10
    theirs.dispose()
    return table


def of_sqlalchemy_async(stage: Stage) -> Table:
    """The same of an async engine."""
    from sqlalchemy.ext.asyncio import create_async_engine

    import poolguard.sqlalchemy

    async def raw(engine: Any, loops: int) -> float:
        began = process_time()
        for _ in range(loops):
            conn = await engine.raw_connection()
            await _closed(conn)
        return (process_time() - began) / loops * 1e6

    async def connect(engine: Any, loops: int) -> float:
        began = process_time()
        for _ in range(loops):
            conn = await engine.connect()
            await conn.close()
        return (process_time() - began) / loops * 1e6

    with closing(asyncio.new_event_loop()) as loop:
        run = loop.run_until_complete
        theirs, ours = engines(stage, create_async_engine)
        guard = poolguard.sqlalchemy.guard(ours)
        run(guard.__aenter__())

        def both(way: Callable[[Any, int], Coroutine[Any, Any, float]]) -> tuple[Act, Act]:
            return (lambda loops: run(way(theirs, loops))), (lambda loops: run(way(ours, loops)))

        kinds = {"raw_connection()": both(raw), "connect()": both(connect)}
        table = stage.compare("sqlalchemy_async: lent and returned", kinds, ASYNC_LOOPS)
        assert acquired(guard) >= ASYNC_LOOPS // 10
        run(theirs.dispose())
        run(guard.aclose())
    return table


def _closed(conn: Any) -> Any:
    from sqlalchemy.util import greenlet_spawn

    return greenlet_spawn(conn.close)


def acquired(guard: Guard) -> int:
    """How often its pool has lent: the adapter has not stood aside."""
    return sum(guard.status()["acquires"].values())


PARTS: Mapping[str, Callable[[Stage], Table]] = {
    "django": of_django,
    "sqlalchemy": of_sqlalchemy,
    "sqlalchemy_async": of_sqlalchemy_async,
}
_WHOSE = ("its own pool", "poolguard")
_CELLS = {
    "Django: `ensure_connection()` and `close()`": ("django", "Django"),
    "SQLAlchemy: `raw_connection()` and `close()`": ("sqlalchemy", "raw_connection()"),
    "SQLAlchemy: `connect()` and `close()`": ("sqlalchemy", "connect()"),
    "the same of an async engine: `raw_connection()`": ("sqlalchemy_async", "raw_connection()"),
    "`connect()` of an async engine": ("sqlalchemy_async", "connect()"),
}
DIGEST = Digest(
    [f"{whose}, µs" for whose in _WHOSE],
    {
        label: [[Place(part, f"{kind}, {whose}", "µs")] for whose in _WHOSE]
        for label, (part, kind) in _CELLS.items()
    },
)
