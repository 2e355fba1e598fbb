"""Who holds which slot of the budget: the protocol, and the ledger of one process alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol
from zlib import crc32

from ..util.logs import logger

__all__ = [
    "ANYWHERE",
    "POOLED",
    "Backend",
    "Granted",
    "Ledger",
    "Orphan",
    "Scope",
    "Slot",
    "StaticLedger",
    "Terms",
    "Wanted",
    "divided",
]


class Backend(NamedTuple):
    """What the server calls a session; a pid alone is given out again."""

    pid: int
    started: float
    """Its ``backend_start`` in seconds since the epoch, by the server's clock; 0 where unknown."""


POOLED = Backend(-1, 0.0)
"""Stands for a session with a pooler, which notices by itself that its client has died."""


class Slot:
    """The right to hold one physical connection.

    Its number is the ledger's business, which may exchange one slot for another while it is held.
    """

    __slots__ = ("backend", "number", "predecessor")

    def __init__(self, number: int) -> None:
        self.number = number
        self.backend: Backend | None = None
        """The session that it is held for; None until there is one."""
        self.predecessor: Backend | None = None
        """A dead owner's session that may still exist: the slot was taken over to ask about it."""

    def __repr__(self) -> str:
        return f"<Slot {self.number}>"


class Wanted(NamedTuple):
    """How many connections a pool is asked to give up for the good of its siblings."""

    idle: int
    """Close so many idle ones now."""
    returned: int
    """And so many more as they come back, before one's own queue is served."""


NOTHING_WANTED = Wanted(0, 0)


class Scope(NamedTuple):
    """Whose limits bind a connection beside the server's. Names are kept as numbers; 0: unknown."""

    database: int = 0
    role: int = 0

    @classmethod
    def of(cls, database: str, role: str) -> Scope:
        """That of *role*'s connections to *database*."""
        return cls(_key(database), _key(role))


ANYWHERE = Scope()


def _key(name: str) -> int:
    return crc32(name.encode(errors="surrogateescape"))


class Granted(NamedTuple):
    """What a process has learned from the server, in connections; None where it sets no limit."""

    server: int | None
    role: int | None = None
    database: int | None = None

    @property
    def least(self) -> int | None:
        """The least of the limits that are known."""
        return min((limit for limit in self if limit is not None), default=None)

    def within(self, room: int) -> Granted:
        """The same where others leave room for no more: that binds whom the least limit binds."""
        least = self.least
        if least is None:
            return self._replace(database=room)
        return Granted(*(min(n, room) if n == least else n for n in self))


class Terms(NamedTuple):
    """What one process of those who share a ledger goes by."""

    granted: Granted | None
    """What the server grants; None where this process has not asked it."""
    instance: int
    """This host's share of the budget: what this process and others like it may hold in all."""
    workers: int
    floor: int
    server: int | None = None
    """This host's share of what the server grants to all databases and roles; None where that is
    not known: the budget was given as a number, and each database has its own."""
    database: int | None = None
    """The share that binds all who use the same database."""
    role: int | None = None
    """The share that binds all who have the same role."""


def divided(terms: Terms, parts: int) -> Terms:
    """The terms of one of so many parts, between which the share is divided."""
    if parts == 1:
        return terms
    instance = max(1, terms.instance // parts)
    floor = max(1, min(terms.floor, instance // (2 * terms.workers)))

    def part(share: int | None) -> int | None:
        return None if share is None else max(1, share // parts)

    return terms._replace(
        instance=instance,
        floor=floor,
        server=part(terms.server),
        database=part(terms.database),
        role=part(terms.role),
    )


class Orphan(NamedTuple):
    """A slot whose owner died. It stays taken until its backend is known to be gone."""

    number: int
    backend: Backend
    overdue: bool = False
    """The backend has had the time to notice that its client is gone, and may be told so."""
    scope: Scope = Scope()


class Ledger(Protocol):
    """What a pool asks before it connects. No method blocks."""

    @property
    def published(self) -> Granted | None:
        """What living siblings have learned from the server, as far as it binds this process too;
        None where none has."""

    def agree(self, terms: Terms) -> Terms:
        """Go by *terms* from now on. Returns them with the share that rules: while living processes
        disagree, it is the smallest."""

    def usual(self) -> int:
        """How many connections this process will likely use, by what its siblings hold, and as far
        as it is its fair share; 0 where there are none."""

    def lease(self, n: int) -> list[Slot]:
        """Take up to *n* free slots; fewer, or none, is an answer and not an error."""

    def seated(self, slot: Slot, backend: Backend) -> None:
        """Say which session *slot* is held for, in case this process dies."""

    def release(self, slot: Slot) -> None:
        """Give back a slot whose connection the server has ended."""

    def abandon(self, slot: Slot) -> None:
        """Leave a slot of which it is not known whether the server has ended the connection."""

    def starving(self, n: int) -> None:
        """Say that *n* more slots are needed and none was free; 0 takes that back."""

    def failing(self, fails: bool) -> None:
        """Say whether connecting fails: who has no use for a floor is not kept one."""

    def sure_of(self, floor: int) -> int:
        """How many of a floor's connections this process is sure of, as the living share now. None
        where there is less than one for each: then whoever is asked for one gets it."""

    @property
    def standing(self) -> int:
        """How many connections those have together whom the least limit binds that binds this
        process; those being opened are none yet."""

    @property
    def sharers(self) -> int:
        """How many processes live whom that limit binds, with this one."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, when a slot may have become free.

        Returns a function that ends the subscription.
        """

    def fileno(self) -> int:
        """A descriptor that is readable when siblings have news; -1 where there are none."""

    def heard(self) -> None:
        """Take note of the siblings' news."""

    def wanted(self) -> Wanted:
        """What the siblings want of this process now."""

    def orphans(self) -> list[Orphan]:
        """The slots of dead owners, each to be settled by the caller; nobody else is told of them
        meanwhile."""

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        """Free those whose backends are gone, and let the others be asked about again."""

    def tend(self, say: Callable[[int, str], None]) -> bool:
        """Look after the ledger itself, now and then; *say* takes a level of logging and a text,
        where there is something to be said. True where slots are taken that nobody who
        lives holds: the server is to be asked about them."""

    def drain(self) -> None:
        """This process will end: what is guaranteed to it may go to others."""

    def close(self) -> None:
        """The last slot was released, or the process ends."""

    @property
    def lacked(self) -> bool:
        """Siblings starve, and what this process holds would help them."""

    def explain(self) -> str:
        """For errors: who holds the slots, and what would help."""

    @property
    def unsettled(self) -> bool:
        """One of our slots was a dead owner's, and its backend must be asked about."""

    @property
    def parted(self) -> bool:
        """Some of those who are to share it do not, and its limit is a part of what it would be."""

    @property
    def recheck(self) -> float | None:
        """Seconds after which a slot may have become free without a word; None: never."""

    @property
    def in_use(self) -> int:
        """Slots taken now by all who use the same database, or have the same role where that is
        what binds this process most."""

    @property
    def limit(self) -> int | None:
        """Slots in all that this process could have; None where nothing bounds them."""

    @property
    def part(self) -> int | None:
        """What those who use the same database have a right to while others want the rest; as much
        as ``limit`` where there are no others."""


class StaticLedger:
    """A fixed share of the budget, for this process alone: nothing is borrowed or lent.

    ``StaticLedger()`` has no bound and only counts.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._made = 0
        self._callbacks = Callbacks()

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"of {self._limit}"
        return f"<StaticLedger {self.in_use} {limit}>"

    @property
    def unsettled(self) -> bool:
        return False

    @property
    def parted(self) -> bool:
        return False

    @property
    def recheck(self) -> float | None:
        return None

    @property
    def in_use(self) -> int:
        return self._made - len(self._free)

    @property
    def limit(self) -> int | None:
        return self._limit

    @property
    def part(self) -> int | None:
        return self._limit

    @property
    def published(self) -> Granted | None:
        return None

    @property
    def lacked(self) -> bool:
        return False

    def explain(self) -> str:
        return "raise budget, or hold connections shorter"

    @property
    def standing(self) -> int:
        return self.in_use

    @property
    def sharers(self) -> int:
        return 1

    def sure_of(self, floor: int) -> int:
        return floor

    def agree(self, terms: Terms) -> Terms:
        """Take an equal part of the share; slots above a lowered one are not taken away, only not
        leased again."""
        with self._lock:
            self._limit = max(1, terms.instance // terms.workers)
        self._callbacks.call()
        return terms

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            if self._limit is not None:
                n = min(n, self._limit - self.in_use)
            leased: list[Slot] = []
            for _ in range(n):
                if self._free:
                    leased.append(self._free.pop())
                else:
                    leased.append(Slot(self._made))
                    self._made += 1
            return leased

    def seated(self, slot: Slot, backend: Backend) -> None:
        slot.backend = backend

    def release(self, slot: Slot) -> None:
        with self._lock:
            slot.backend = None
            self._free.append(slot)
        self._callbacks.call()

    def abandon(self, slot: Slot) -> None:
        self.release(slot)  # there is nobody who could be asked

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._callbacks.add(callback)

    # Nobody else can help or be helped.

    def starving(self, n: int) -> None: ...

    def failing(self, fails: bool) -> None: ...

    def fileno(self) -> int:
        return -1

    def heard(self) -> None: ...

    def wanted(self) -> Wanted:
        return NOTHING_WANTED

    def usual(self) -> int:
        return 0

    def orphans(self) -> list[Orphan]:
        return []

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None: ...

    def tend(self, say: Callable[[int, str], None]) -> bool:  # noqa: ARG002 - nothing happens to it
        return False

    def drain(self) -> None: ...

    def close(self) -> None: ...


class Callbacks:
    """Who is to be called when a slot may have become free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._all.append(callback)

        def remove() -> None:
            with self._lock:
                if callback in self._all:
                    self._all.remove(callback)

        return remove

    def call(self) -> None:
        with self._lock:
            callbacks = list(self._all)
        for callback in callbacks:
            try:
                callback()
            except Exception:  # whoever has released a slot has other seats to book
                logger.exception("telling of a free slot failed; the ledger goes on")
