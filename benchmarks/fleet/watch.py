"""What is seen of a fleet at its server: who has sessions, and which slots these have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from math import inf
from time import monotonic, sleep
from typing import Any, NamedTuple

import psycopg

from poolguard.budget.fleet.survey import Session as Holder
from poolguard.budget.fleet.survey import is_a_line
from poolguard.budget.session import RESET_MARK
from poolguard.errors import LabError
from poolguard.lab.sessions import SessionSampler

from .clients import Clients
from .hosts import ROLE, Field, Host
from .record import locks

__all__ = ["Above", "Scene", "Sight", "Watch"]

EVERY = 0.003
"""Seconds between two looks."""
WELL_WITHIN = 60.0
"""Seconds after a fault within which all is well again."""
_SESSIONS = "SELECT pid, application_name, state FROM pg_stat_activity WHERE usename = %s"


class Sight(NamedTuple):
    """What the server has at a moment."""

    at: float
    """By the monotonic clock."""
    names: Mapping[int, str]
    """The ``application_name`` of each session, by its pid."""
    active: frozenset[int]
    """The sessions that run something."""
    holders: Mapping[int, Holder]
    """Those that have locks of the fleet."""

    @property
    def controls(self) -> frozenset[int]:
        """All control sessions."""
        return frozenset(pid for pid, name in self.names.items() if is_a_line(name))

    @property
    def leased(self) -> frozenset[int]:
        """All slots that are leased."""
        return frozenset().union(*(each.leased for each in self.holders.values()))

    def pooled(self, host: str) -> frozenset[int]:
        """The sessions of a host's pools, whether they sit in slots or not."""
        # One that was reset, or has not been greeted yet, has a mark in its name.
        own = {host, host + RESET_MARK}
        return frozenset(pid for pid, name in self.names.items() if name in own)

    def seats(self, host: str) -> frozenset[int]:
        """The slots in which they sit."""
        holders = (self.holders[pid] for pid in self.pooled(host) & self.holders.keys())
        return frozenset().union(*(each.occupied for each in holders))

    def keeping(self, host: str) -> frozenset[int]:
        """The control sessions that have leased all of these: two, while one succeeds another."""
        seats = self.seats(host)
        return frozenset(
            pid
            for pid, each in self.holders.items()
            if is_a_line(each.name) and each.occupied and seats and seats <= each.leased
        )

    def is_well(self, host: str, floors: int) -> bool:
        """Whether a host has one control session, and its floors stand, each in a slot of its."""
        pooled = self.pooled(host)
        seated = len(self.seats(host)) == len(pooled)
        return seated and len(pooled) >= floors and len(self.keeping(host)) == 1


class Above(NamedTuple):
    """How far, and for how long, there were more sessions than some budget has."""

    seconds: float
    most: int

    @classmethod
    def of(
        cls, series: Iterable[tuple[float, int]], budget: int, began: float, ended: float = inf
    ) -> Above:
        """By those samples that are from *began* to *ended*. Each counts until the next one."""
        between = [each for each in series if began <= each[0] <= ended]
        above = [(after - at, n) for (at, n), (after, _) in pairwise(between) if n > budget]
        most = max((n for _, n in above), default=budget)
        return cls(sum(seconds for seconds, _ in above), most - budget)


class Watch:
    """Looks at the server of *there*, whichever it is, again and again."""

    def __init__(self, there: Field) -> None:
        self._there = there
        self._conn: psycopg.Connection[Any] | None = None

    def look(self) -> Sight | None:
        """What it has now; None while it is away."""
        try:
            if self._conn is None:
                self._conn = self._there.server.connect(connect_timeout=2)
            rows = self._conn.execute(_SESSIONS, [ROLE]).fetchall()
            holders = locks(self._conn, ROLE)
        except psycopg.Error:
            self.close()
            return None
        names = {pid: name for pid, name, _ in rows}
        active = frozenset(pid for pid, _, state in rows if state == "active")
        return Sight(monotonic(), names, active, holders)

    def until(self, true: Callable[[Sight], object], within: float = WELL_WITHIN) -> float:
        """Wait until something is so, and tell when it was seen; infinite where that is never."""
        end = monotonic() + within
        while monotonic() < end:
            sight = self.look()
            if sight is not None and true(sight):
                return sight.at
            sleep(EVERY)
        return inf

    def close(self) -> None:
        """End its session."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


class Scene:
    """Hosts with a light load, and what is seen of them.

    :param floors: of one host.
    :param settings: of each.
    """

    def __init__(
        self,
        there: Field,
        clients: Clients,
        sampler: SessionSampler,
        floors: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.there = there
        self.clients = clients
        self.sampler = sampler
        self.watch = Watch(there)
        self.floors = floors
        self.settings = settings

    def join(self, n: int, clients: int) -> list[Host]:
        """So many hosts more, each with so many clients."""
        hosts = self.there.started(n, **self.settings)
        for host in hosts:
            self.clients.send(host.name, host.address, clients)
        return hosts

    def load(self, host: Host, n: int) -> None:
        """So many clients from now on. Those that it had are waited for."""
        self.clients.withdraw(host.name)
        self.clients.send(host.name, host.address, n)

    def settle(self, hosts: Iterable[Host] | None = None) -> Sight:
        """Wait until all is well with these *hosts*, or with all. Raises LabError where it is not
        within a minute."""
        names = [host.name for host in (self.there.hosts.values() if hosts is None else hosts)]
        last: list[Sight] = []

        def is_well(sight: Sight) -> bool:
            last[:] = [sight]
            counted = hosts is not None or len(sight.controls) == len(names)
            return counted and all(sight.is_well(name, self.floors) for name in names)

        if self.watch.until(is_well) == inf:
            raise LabError(f"not well within {WELL_WITHIN:g} s: {last}")
        return last[0]
