"""A survey of a fleet from outside: who its hosts are, which slots are leased, which occupied.

It asks two views that every role may read, takes no lock, and changes nothing. Where the role may
not see another one's sessions, it does not learn where they come from, and since when they live.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from ..sharing import Member, rights
from ..terms import Terms
from .board import Board, Line, prefix
from .keys import DOOR, Keys
from .room import room_for_pools

__all__ = [
    "CONTROL_SESSIONS",
    "NEEDED",
    "PLACE",
    "Host",
    "Session",
    "Slots",
    "Survey",
    "is_a_line",
    "labels",
    "query",
]

NEEDED = (
    "pg_try_advisory_lock(int,int)",
    "pg_try_advisory_lock_shared(int,int)",
    "pg_advisory_lock_shared(int,int)",
    "pg_advisory_unlock(int,int)",
    "pg_advisory_unlock_shared(int,int)",
    "pg_notify(text,text)",
    "pg_stat_get_activity(int)",
)
"""The functions that a control session calls, and that a server's operator may have kept back."""

PLACE = """
SELECT pg_is_in_recovery() AS standby, session_user::text AS role,
       current_database()::text AS database,
       current_setting('max_locks_per_transaction')::int
         * (current_setting('max_connections')::int
            + current_setting('max_prepared_transactions')::int) AS locks
"""
"""Asks what database this is, and how many locks the lock table of its server is sure to hold."""

CONTROL_SESSIONS = """
SELECT usename::text AS role, current_database()::text AS database, application_name AS name
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'poolguard %:%'
"""
"""Asks for the control sessions of all fleets that share their budgets in this database."""


def labels(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels of the fleets of these :data:`CONTROL_SESSIONS`, where they are the default ones:
    what a session is called tells a label only to who knows it already."""
    found = {(f"{row['role']}@{row['database']}", row["name"]) for row in rows}
    return sorted({label for label, name in found if _is_of(Keys.of(label), name)})


def _is_of(keys: Keys, name: str) -> bool:
    return name.startswith(prefix(keys, name.split(" ")[1]))


def is_a_line(name: str) -> bool:
    """Whether a session of this name is on the board of any fleet."""
    return re.match(r"poolguard \d+ [0-9a-f]{6}:", name) is not None


def query(keys: Keys) -> str:
    """Ask for the fleet's control sessions, and for all sessions that have locks of its classes."""
    lease, seat, urgent = (
        f"'{each & 0xFFFFFFFF}'::oid" for each in (keys.lease, keys.seat, keys.urgent)
    )
    slots = "array_agg(least(objid::int8, 2147483647)::int4)"  # others' numbers may be any
    return f"""
WITH held AS MATERIALIZED (
  SELECT pid, {slots} FILTER (WHERE classid = {lease}) AS leased,
         {slots} FILTER (WHERE classid = {seat}) AS occupied,
         bool_or(classid = {urgent} AND objid = 0) AS urgent
    FROM pg_locks
   WHERE locktype = 'advisory' AND objsubid = 2 AND granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND classid IN ({lease}, {seat}, {urgent})
   GROUP BY pid)
SELECT a.pid, a.application_name AS name, a.usename::text AS role,
       host(a.client_addr) AS address,
       extract(epoch FROM clock_timestamp() - a.backend_start)::float8 AS age,
       coalesce(leased, '{{}}') AS leased, coalesce(occupied, '{{}}') AS occupied,
       coalesce(urgent, false) AS urgent
  FROM pg_stat_activity a LEFT JOIN held ON held.pid = a.pid
 WHERE held.pid IS NOT NULL
    OR (a.datname = current_database() AND a.application_name LIKE 'poolguard %{keys.short}:%')
"""


class Session(NamedTuple):
    """A session that is on the board, or that has locks of the fleet's classes."""

    pid: int
    name: str
    """Its ``application_name``."""
    role: str
    address: str | None = None
    """Of its client; None where that is a Unix socket's, or the asking role may not see it."""
    age: float | None = None
    """In seconds; None where the asking role may not see it."""
    leased: frozenset[int] = frozenset()
    occupied: frozenset[int] = frozenset()
    urgent: bool = False
    """It says that its host lacks what is its by right."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Session:
        """Make it of a row that :func:`query` answers."""
        return cls(
            row["pid"],
            row["name"] or "",
            row["role"] or "",
            row["address"],
            row["age"],
            frozenset(row["leased"]),
            frozenset(row["occupied"]),
            row["urgent"],
        )


class Host(NamedTuple):
    """One host: what it tells of itself, and what its control session has at the server."""

    line: Line
    session: Session
    guaranteed: int
    """Connections that it has a right to, whatever others need."""
    fair: int
    """Connections that it may have while others want the rest."""
    occupied: int
    """Slots of those that it leased in which a session sits, its control session's left out."""

    @property
    def leased(self) -> int:
        """Slots that it has leased for its pools, by its locks: what it tells of itself may be some
        seconds old."""
        return len(self.session.leased - self.session.occupied)

    @property
    def lacks(self) -> int:
        """How many slots more it needs: what it has found since it told so is none of these."""
        return max(0, self.line.need - max(0, self.leased - self.line.granted))

    @property
    def starves(self) -> bool:
        """It needs more, and lacks some of its fair share."""
        return self.lacks > 0 and self.leased < self.fair


class Slots(NamedTuple):
    """How many slots of the budget are used for what. With the door, all but the last add up to
    it."""

    controls: int
    """Control sessions sit in them."""
    pools: int
    """Hosts have leased them for their pools."""
    lost: int
    """Occupied, and leased by no host."""
    free: int
    """Any host may claim them."""
    beyond: int
    """Leased or occupied, and beyond the budget: it has shrunk."""


class Survey:
    """A fleet at one moment.

    :param rows: the answer to :func:`query` of these *keys*.
    """

    def __init__(self, keys: Keys, rows: Iterable[Mapping[str, Any]]) -> None:
        self.label = keys.label
        sessions = [Session.of(row) for row in rows]
        board = Board.read(keys, ((each.pid, each.name) for each in sessions))
        self.versions = board.strangers
        """Other versions of the protocol, by which some members of this label go."""
        self.budget = board.budget
        """The least of the budgets that the members know; 0 where none does."""
        controls = {each.pid: each for each in sessions if each.pid in board.lines}
        self.others = [each for each in sessions if each.pid not in board.lines]
        """Sessions that have locks of the fleet, or are called as its members are, but are none of
        its hosts'."""
        self._sessions = sessions
        right = rights(
            room_for_pools(self.budget, len(board.lines)),
            [_member(pid, line) for pid, line in board.lines.items()],
        )
        self.hosts = sorted(
            (
                Host(
                    line,
                    controls[pid],
                    right[pid].guaranteed,
                    right[pid].fair,
                    len(controls[pid].leased & self.occupied - controls[pid].occupied),
                )
                for pid, line in board.lines.items()
            ),
            key=lambda host: (host.line.host, host.session.pid),
        )

    def __repr__(self) -> str:
        return (
            f"<Survey of {self.label!r}: {len(self.hosts)} hosts, {len(self.leased)} leased and "
            f"{len(self.occupied)} occupied of {self.budget}>"
        )

    @cached_property
    def leased(self) -> frozenset[int]:
        """All slots that are leased, those of control sessions among them."""
        return frozenset().union(*(each.leased for each in self._sessions))

    @cached_property
    def occupied(self) -> frozenset[int]:
        """All slots in which a session sits, control sessions among them."""
        return frozenset().union(*(each.occupied for each in self._sessions))

    @property
    def pooled(self) -> list[Session]:
        """The sessions that sit in slots, control sessions left out."""
        return [each for each in self.others if each.occupied]

    def used(self, host: Host) -> int:
        """Connections that a *host* has: by the slots that they occupy, else as it has told."""
        return host.occupied if self.pooled else host.line.used

    @property
    def lost(self) -> list[Session]:
        """Sessions in slots that no host has leased: what leased them is gone."""
        return [each for each in self.pooled if each.occupied - self.leased]

    @property
    def foreign(self) -> list[Session]:
        """Sessions that have locks which only control sessions take, and are called otherwise:
        another application uses the same numbers."""
        return [
            each
            for each in self.others
            if (each.leased or each.urgent) and not is_a_line(each.name)
        ]

    @property
    def slots(self) -> Slots:
        """What the slots are used for."""
        inside = set(range(DOOR + 1, self.budget))
        controls = frozenset().union(*(host.session.occupied for host in self.hosts)) & inside
        pools = self.leased & inside - controls
        lost = self.occupied & inside - controls - pools
        free = inside - controls - pools - lost
        beyond = sum(slot >= self.budget for slot in self.leased | self.occupied)
        return Slots(len(controls), len(pools), len(lost), len(free), beyond)

    @property
    def in_door(self) -> Session | None:
        """The session that sits in the slot which is kept free for a host that joins."""
        return next((each for each in self._sessions if DOOR in each.occupied), None)

    @property
    def room(self) -> int:
        """What the budget leaves to pools."""
        return room_for_pools(self.budget, len(self.hosts))


def _member(pid: int, line: Line) -> Member:
    """A host as one of those that share the fleet's budget."""
    weight = max(1, line.workers)
    terms = Terms(None, 1, weight, line.floors)
    return Member(pid, terms, line.granted, line.need, line.draining, weight=weight)
