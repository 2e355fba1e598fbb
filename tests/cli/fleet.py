"""Hosts of a fleet for the command line to look at: their sessions, made as the hosts make them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import psycopg

from poolguard.budget.fleet.board import Line
from poolguard.budget.fleet.keys import Keys

__all__ = ["Sessions", "line"]


def line(host: str, **changed: Any) -> Line:
    """What a host tells of itself, but for what is *changed*."""
    return Line(host, 20, 2, 4, 6, 5, 0)._replace(**changed)


class Sessions:
    """Sessions in a fleet's database, which end with the block.

    :param label: the fleet's.
    """

    def __init__(self, dsn: str, label: str) -> None:
        self.dsn = dsn
        self.keys = Keys.of(label)
        self._stack = ExitStack()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def open(self, name: str, dsn: str | None = None) -> psycopg.Connection[Any]:
        """A session that is called *name*."""
        conn = psycopg.connect(dsn or self.dsn, autocommit=True, application_name=name)
        return self._stack.enter_context(conn)

    def host(
        self, told: Line, *, slot: int, leases: Iterable[int] = (), urgent: bool = False
    ) -> psycopg.Connection[Any]:
        """The control session of a host, which sits in *slot* and has leased others."""
        conn = self.open(told.text(self.keys))
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (self.keys.seat, slot))
        for each in (slot, *leases):
            conn.execute("SELECT pg_advisory_lock_shared(%s, %s)", (self.keys.lease, each))
        if urgent:
            conn.execute("SELECT pg_advisory_lock_shared(%s, 0)", (self.keys.urgent,))
        return conn

    def pooled(self, slots: Iterable[int], name: str = "shop-web") -> None:
        """Sessions of pools, each in one of *slots*."""
        for slot in slots:
            self.open(name).execute("SELECT pg_advisory_lock(%s, %s)", (self.keys.seat, slot))
