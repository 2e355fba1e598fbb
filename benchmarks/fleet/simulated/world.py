"""Simulated time, and the server of a fleet: leases, seats, marks, the board, notifications.

With each lease it asserts that the budget holds.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from poolguard.budget.fleet.board import Board
from poolguard.budget.fleet.keys import DOOR, Keys
from poolguard.budget.fleet.policy import Note

KEYS = Keys.of("simulated")
NOTIFIED = 0.003
"""Seconds from a notification to the wake of a host."""

# Seconds of the server's processor, measured on PostgreSQL 18.4, two cores.
MESSAGE, CLAIM = 60e-6, 100e-6
LOOK, OF_A_SESSION = 400e-6, 2e-6
"""Reading the board, and more for each session of the server."""
NOTIFY, WAKE = 40e-6, 11e-6
PEEK, OF_A_HOST = 30e-6, 0.35e-6


@dataclass
class Asked:
    """What the server was asked."""

    messages: Counter[str] = field(default_factory=Counter)
    by_host: Counter[int] = field(default_factory=Counter)
    selects: int = 0
    seconds: float = 0.0
    """Of the server's processor, by what such statements cost."""
    connects: int = 0
    """Of pooled connections."""


class Member(Protocol):
    """A host as the server knows it."""

    pid: int
    listens: bool

    def hear(self, note: Note, /) -> None:
        """It is notified."""


class World:
    """A server whose slots are 0 to *budget* - 1.

    :param seed: of all that is left to chance.
    """

    def __init__(self, budget: int, seed: int = 1) -> None:
        self.now = 0.0
        self.budget = budget
        self.random = Random(seed)
        self.asked = Asked()
        self.members: dict[int, Member] = {}
        """By the pids of their control sessions."""
        self.leased: dict[int, int] = {}
        """Slots, and to which host."""
        self.seated: set[int] = set()
        """Slots that a session occupies."""
        self.lines: dict[int, str] = {}
        self.began: dict[int, float] = {}
        """When the control sessions have begun."""
        self.urgent: set[int] = set()
        self._free = [*range(1, budget)]
        self._places = {slot: place for place, slot in enumerate(self._free)}
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._events = 0
        self._pids = 0

    # -- time ----------------------------------------------------------------------------------

    def after(self, seconds: float, act: Callable[..., object], *arguments: Any) -> None:
        """Have something done later."""
        self._events += 1
        heapq.heappush(self._due, (self.now + seconds, self._events, act, arguments))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, act, arguments = heapq.heappop(self._due)
            act(*arguments)
        self.now = until

    # -- slots ---------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Slots that are free, but for the door."""
        return len(self._free)

    def claim(self, n: int, end: int, pid: int, *, sure: int = 0, left: int = 0) -> list[int]:
        """Lease up to *n* free slots below *end* to a host, from anywhere on: *sure* ones, and
        more as long as so many are *left*."""
        free, got = self._free, list[int]()
        if left:
            n = min(n, max(sure, sum(slot < end for slot in free) - left))
        at = self.random.randrange(len(free)) if free else 0
        for place in range(len(free)):
            if len(got) == n:
                break
            slot = free[(at + place) % len(free)]
            if slot < end:
                got.append(slot)
        for slot in got:
            self._lease(slot, pid)
        return got

    def seat(self, end: int, pid: int) -> int | None:
        """Lease a slot for a control session, and occupy it; the door where there is no other."""
        got = self.claim(1, end, pid)
        if not got and DOOR not in self.leased and DOOR not in self.seated:
            self._lease(DOOR, pid)
            got = [DOOR]
        if not got:
            return None
        self.seated.add(got[0])
        return got[0]

    def give(self, slots: Iterable[int], pid: int) -> None:
        """End these leases of a host's."""
        for slot in slots:
            assert self.leased.pop(slot) == pid
            self._consider(slot)

    def stand_up(self, slot: int) -> None:
        """The session has ended that occupied the slot."""
        self.seated.remove(slot)
        self._consider(slot)

    def _lease(self, slot: int, pid: int) -> None:
        assert slot not in self.leased, f"slot {slot} is leased twice"
        assert slot not in self.seated, f"slot {slot} is occupied"
        self.leased[slot] = pid
        assert len(self.leased) <= self.budget
        if slot != DOOR:
            last, place = self._free.pop(), self._places.pop(slot)
            if last != slot:
                self._free[place], self._places[last] = last, place

    def _consider(self, slot: int) -> None:
        if slot != DOOR and slot not in self.leased and slot not in self.seated:
            self._places[slot] = len(self._free)
            self._free.append(slot)

    # -- what members tell and are told --------------------------------------------------------

    def pid(self) -> int:
        """Of the next control session."""
        self._pids += 1
        return self._pids

    def count(self, pid: int, kind: str, selects: int, seconds: float = 0.0) -> None:
        """A message has come from a host."""
        asked = self.asked
        asked.messages[kind] += 1
        asked.by_host[pid] += 1
        asked.selects += selects
        asked.seconds += MESSAGE + seconds

    def board(self) -> Board:
        """Read by one host."""
        self.asked.seconds += LOOK + len(self.seated) * OF_A_SESSION
        ages = {pid: self.now - self.began[pid] for pid in self.lines}
        return Board.read(KEYS, self.lines.items())._replace(ages=ages)

    def notify(self, note: Note) -> None:
        """Tell all members that listen."""
        self.asked.seconds += NOTIFY
        assert Note.parsed(note.text) == note
        for member in self.members.values():
            if member.listens:
                self.asked.seconds += WAKE
                self.after(NOTIFIED, member.hear, note)
