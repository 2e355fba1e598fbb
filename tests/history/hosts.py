"""A host without a guard: the file in which it records, and what it exchanges with the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import OperationalError

from poolguard.budget.queries import rows
from poolguard.history.exchange import Exchange
from poolguard.history.minutes import Demand
from poolguard.history.recorder import Recorder
from poolguard.history.ring import Ring
from poolguard.history.table import Table
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.jobs import at_once
from poolguard.runtime.memory import GuardMemory
from poolguard.util.rundir import RuntimeDir

from .filled import row_of

__all__ = ["LATE", "Host", "connected", "make_table"]

LATE = 1
"""Seconds after the full minute in which its turns begin."""


class Host:
    """Its clock stands at *now*, in seconds since 1970, until it is set."""

    def __init__(self, path: Path, table: Table, guard: str = "default") -> None:
        folder = RuntimeDir(path)
        self.now = time.time()
        self.ring = Ring(folder, "one.history", guard)
        folder.close()
        self.asked: list[str] = []
        """The questions that it has put to the server."""
        self.loses = False
        """The connection breaks once the server has done what it was asked."""
        exchange = Exchange(table, lambda _: 0)
        self.ring.told.write(self.ring.told.read()._replace(late=LATE))
        recorder = Recorder(self.ring, lambda: self.now)
        self.memory = GuardMemory(recorder, exchange, self._rows, wall=lambda: self.now)

    def _rows(self, conn: Any, query: str, *given: Any, **more: Any) -> Any:
        self.asked.append(query)
        answer = rows(conn, query, *given, **more)
        if self.loses:
            conn.pgconn.finish()
            raise OperationalError("the connection is lost")
        return answer

    def record(self, minute: int, demand: Demand) -> None:
        self.ring.tell(row_of(minute, demand))
        self.ring.settle(minute)

    def known(self, minute: int) -> Demand | None:
        [found] = self.ring.read(minute, minute + 1)
        return found

    def ask(self, conn: Any) -> None:
        """As a pool does with an idle connection."""
        at_once(self.memory.ask(conn))

    def learn(self, conn: Any) -> bool:
        """As a pool does with its first connection."""
        return at_once(self.memory.learn(conn))


@contextmanager
def connected(postgres: PrivatePostgres, table: Table) -> Iterator[psycopg.Connection]:
    """A connection to a database in which the table has just been made."""
    with postgres.connect() as conn:
        conn.autocommit = True
        make_table(conn, table)
        yield conn


def make_table(conn: Any, table: Table) -> None:
    conn.execute(f"DROP TABLE IF EXISTS {table.quoted}")
    for statement in table.creation():
        conn.execute(statement)
