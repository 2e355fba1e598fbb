"""What a pool's upkeep does now, and when it must look again. Pure: time is an argument.

Each decision is derived from the state as it stands and none is stored: a timer that an event sets
is lost with the event, a state is not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..budget.slots import Orphan
from .entry import Check, Entry
from .events import CreateReason
from .growth import Demand, connects_to_begin, next_look, patience, with_headroom

__all__ = [
    "Abandon",
    "Action",
    "CloseIdle",
    "Open",
    "Opening",
    "Pace",
    "Retire",
    "Round",
    "Snapshot",
    "Verify",
    "between_retirements",
    "decide",
    "lifetime",
]

GOLDEN = 0.6180339887498949
SPREAD = 0.20
"""Part of max_lifetime over which retirements are spread."""
HEADROOM = 0.10
"""Part of max_lifetime left between the last retirement and its end: a replacement needs time."""
LINGER = 1.0
"""Seconds without use after which a pool closes a connection once its process is to end: gunicorn's
own asgi worker goes on accepting for as long, and whoever it accepts is not to wait for a connect.
"""
LOOK_FOR_CONNECTS = 1.0
"""Seconds after which connects under way are looked at again. One that has got as far as a session
is given up a while later, of which nothing tells, and which is never shorter."""
EXPIRY = 0.95
"""Part of max_lifetime after which a connection that comes back is not lent again."""


class Pace(NamedTuple):
    """How often what is done. Seconds."""

    check_interval: float
    check_timeout: float
    idle_timeout: float
    check_after_idle: float = math.inf
    """An idle connection not proved for longer is checked before it is lent."""


class Snapshot(NamedTuple):
    """A pool at one moment."""

    demand: Demand
    idle: Sequence[Entry]
    checking: Mapping[Entry, Check]
    doubted_at: float
    """When a connection that was found dead may have been dead already: what has not been proved
    since may be so, too."""
    idle_low: int
    """The fewest idle connections since ``idle_low_since``: so many were not needed."""
    idle_low_since: float
    reason: CreateReason
    """Why a connect for the floor would be made now."""
    retire_from: float = 0.0
    """No connection is to be retired before: the last one was so just now."""
    owed: int = 0
    """Idle connections that the siblings want, as far as they are above the floor."""
    leaving: bool = False
    """The process will end: what its last requests do not use is closed."""
    connecting: Sequence[Entry] = ()
    """Those whose connects are under way."""


class Open(NamedTuple):
    """Begin *n* connects."""

    n: int
    reason: CreateReason


class Verify(NamedTuple):
    """Take an idle connection out of the pool, ask the server for a sign of life, put it back."""

    entry: Entry
    likely: bool = True
    for_waiter: bool = False


class Abandon(NamedTuple):
    """Give up the check, or the connect: the server does not answer in time."""

    entry: Entry


class Retire(NamedTuple):
    """Close an idle connection before its lifetime could end in a request."""

    entry: Entry


class CloseIdle(NamedTuple):
    """Close *n* idle connections: nobody needed them, and a new period of watching begins; or their
    slots are wanted elsewhere."""

    n: int
    reason: Literal["idle", "shutdown", "yielded"]


Action = Open | Verify | Abandon | Retire | CloseIdle


class Opening(NamedTuple):
    """A connect to begin: its entry holds the slot already."""

    entry: Entry
    reason: CreateReason


class Round:
    """The I/O that one look at a pool leads to."""

    __slots__ = ("checks", "dead", "openings", "surplus", "wake")

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self.dead: list[Any] = []
        """Connections that the server has ended, to be closed on this side."""
        self.surplus: list[Any] = []
        """Connections to be closed of the pool's own will."""
        self.checks: list[tuple[Entry, Any, Collection[Orphan]]] = []
        """Those to be checked, and the slots of the dead that are to be asked about meanwhile."""
        self.wake: float | None = None
        """When to look again, by the monotonic clock, if nothing happens before."""


def decide(now: float, s: Snapshot, pace: Pace) -> tuple[list[Action], float | None]:
    """What to do at *now*, and when to look again if nothing happens before."""
    wakes: list[float] = []
    d = s.demand

    actions: list[Action] = [*_checks_asked_for(s)]
    if actions and isinstance(actions[0], Verify) and actions[0].likely:
        # Whose check has not answered in time is checked another one, beside a connect.
        late = sum(v.likely for v in s.checking.values()) - d.promised
        d = d._replace(
            promised=d.promised + max(0, len(actions) - late),
            promised_until=min([now + patience(d.connect_time), *_some(d.promised_until)]),
        )

    n = connects_to_begin(now, d)
    if n:
        for_floor = max(0, min(n, d.floor - d.size))
        if for_floor:
            actions.append(Open(for_floor, s.reason))
        for_queue = min(n - for_floor, max(0, d.for_queue - for_floor))
        if for_queue:
            actions.append(Open(for_queue, "growth"))
        if n > for_floor + for_queue:
            actions.append(Open(n - for_floor - for_queue, "headroom"))
        d = d._replace(opening=d.opening + n, size=d.size + n, begun=d.begun + n)
    wakes += _some(next_look(now, d))

    given_up, looks = _given_up(now, s, pace)
    actions += given_up
    wakes += looks
    if any(isinstance(a, Verify) for a in actions):
        wakes.append(now + pace.check_timeout)
    elif s.idle and not s.checking:
        care, wake = _care(now, s, d, pace)
        actions += care
        wakes.append(wake)
    elif d.lent:
        # What is lent comes back without a word, and may then be left alone.
        wakes.append(now + pace.check_interval)

    fewer, later = _fewer(now, s, d, pace, actions)
    actions += fewer
    wakes += _some(later)
    return actions, min(wakes, default=None)


def _given_up(now: float, s: Snapshot, pace: Pace) -> tuple[list[Action], list[float]]:
    """The checks and connects whose answers are late, and when the others' will be."""
    actions: list[Action] = []
    wakes: list[float] = []
    for entry, check in s.checking.items():
        give_up_at = check.since + pace.check_timeout
        if give_up_at <= now:
            actions.append(Abandon(entry))
        else:
            wakes.append(give_up_at)
    for entry in s.connecting:
        if entry.give_up_at > now:
            wakes.append(min(entry.give_up_at, now + LOOK_FOR_CONNECTS))
        elif not entry.severed:
            actions.append(Abandon(entry))
    return actions, wakes


def _fewer(
    now: float, s: Snapshot, d: Demand, pace: Pace, actions: Sequence[Action]
) -> tuple[list[Action], float | None]:
    """Those above the floor that siblings want, or that nobody needed; and the next look at them.

    *actions* are those decided on already.
    """
    retired = sum(isinstance(a, Retire) for a in actions)
    spare = len(s.idle) - retired - sum(isinstance(a, Verify) for a in actions)
    above = d.size - d.opening - d.floor - retired
    yielded = max(0, min(s.owed, spare, above))
    if yielded:
        return [CloseIdle(yielded, "yielded")], None
    if d.size <= d.floor:
        return [], None
    period = min(pace.idle_timeout, LINGER) if s.leaving else pace.idle_timeout
    if s.idle_low_since + period > now:
        return [], s.idle_low_since + period
    # As many as were lent at most would be opened ahead of the same again.
    most_lent = max(0, d.size - d.opening - s.idle_low)
    kept = max(0, d.likely(with_headroom(most_lent)) - most_lent)
    unused = max(0, min(s.idle_low - kept, spare, above))
    return [CloseIdle(unused, "shutdown" if s.leaving else "idle")], now + period


def _checks_asked_for(s: Snapshot) -> Iterator[Verify]:
    """Those that cannot be done one after the other: somebody waits, or has met a dead one."""
    if doubted := [entry for entry in s.idle if entry.proved_at < s.doubted_at]:
        yield from (Verify(entry, likely=False) for entry in doubted)
    elif s.demand.waiting:
        # Whoever waits beside idle connections was not given one, for all have been idle too long.
        likeliest = sorted(s.idle, key=_proved_at, reverse=True)
        for entry in likeliest[: max(0, s.demand.for_queue)]:
            yield Verify(entry, for_waiter=True)


def _care(now: float, s: Snapshot, d: Demand, pace: Pace) -> tuple[list[Action], float]:
    """The one idle connection that needs replacing or checking most, and the next look at them."""
    retiring = min(s.idle, key=_retire_at)
    oldest = min(s.idle, key=_proved_at)
    # Both steps of a replacement follow from the counts, so it does not matter who opened the one
    # too many. Where the pool is full, the old one has to make the place, one at a time and while
    # connecting works. Otherwise its successor is begun so early that it is there in time:
    # connections that were opened together are due in quick succession, and each would be later
    # than the one before it.
    full = d.size >= d.max_size and not d.opening and d.retry_at is None
    spare = full or d.size - d.opening > d.floor
    replace_at = max(retiring.retire_at, s.retire_from) - (0.0 if spare else d.connect_time)
    check_at = oldest.proved_at + pace.check_interval
    if replace_at > now and check_at > now:
        return [], min(replace_at, check_at)
    # With the others lent out, a request is about to ask for the last idle one: let it.
    needed = len(s.idle) == 1 and d.lent > 0
    later = now + pace.check_timeout
    if replace_at <= now:
        if spare:
            if not needed:
                return [Retire(retiring)], later
        elif not d.opening and d.room and (d.retry_at is None or d.retry_at <= now):
            return [Open(1, "lifetime")], later
    if check_at <= now and not needed:
        return [Verify(oldest)], later
    return [], later


def lifetime(nth: int, max_lifetime: float, offset: float) -> float:
    """Seconds after which the *nth* connection of a pool is to be retired.

    Multiples of the golden ratio, modulo 1, divide an interval evenly however many there are:
    connections opened in the same instant are retired far apart from each other. *offset* (0 to 1)
    differs between pools.
    """
    place = (offset + nth * GOLDEN) % 1.0
    return max_lifetime * (1.0 - HEADROOM - SPREAD * place)


def between_retirements(size: int, max_lifetime: float) -> float:
    """Seconds that pass at least between two retirements in a pool of *size* connections.

    Half of what lies between them on average. It matters when many are due at once: after the clock
    has jumped, since the machine or the container slept.
    """
    return max_lifetime * SPREAD / (2 * max(1, size))


def _retire_at(entry: Entry) -> float:
    return entry.retire_at


def _proved_at(entry: Entry) -> float:
    return entry.proved_at


def _some(at: float | None) -> list[float]:
    return [] if at is None else [at]
