"""What a pool's upkeep does now, and when it must look again. Pure: time is an argument.

Each decision is derived from the state as it stands and none is stored: a timer that an event sets
is lost with the event, a state is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..listener import CreateReason
from .growth import Demand, connects_to_begin, next_look
from .seat import Seat

__all__ = [
    "Abandon",
    "Action",
    "Open",
    "Pace",
    "Retire",
    "Shrink",
    "Snapshot",
    "Verify",
    "Yield",
    "decide",
    "lifetime",
]

GOLDEN = 0.6180339887498949
SPREAD = 0.20
"""Part of max_lifetime over which retirements are spread."""
HEADROOM = 0.10
"""Part of max_lifetime left between the last retirement and the expiry: psycopg_pool takes up to
5 % off the lifetime itself, and a replacement needs time to connect."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is done. Seconds."""

    refresh_interval: float
    check_timeout: float
    idle_timeout: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pool at one moment."""

    demand: Demand
    idle: Sequence[Seat]
    verifying: Seat | None
    """The one connection that is being verified."""
    verifying_since: float
    idle_low: int
    """The fewest idle connections since ``idle_low_since``: so many were not needed."""
    idle_low_since: float
    reason: CreateReason
    """Why a connect for the floor would be made now."""
    owed: int = 0
    """Idle connections that the siblings want, as far as they are above the floor."""


@dataclass(frozen=True, slots=True)
class Open:
    """Begin *n* connects."""

    n: int
    reason: CreateReason


@dataclass(frozen=True, slots=True)
class Verify:
    """Take an idle connection out of the pool, ask the server for a sign of life, put it back."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up the verification under way: the server does not answer in time."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class Retire:
    """Close an idle connection before its lifetime could end in a request."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class Shrink:
    """Close *n* idle connections that nobody needed, and begin a new period of watching."""

    n: int


@dataclass(frozen=True, slots=True)
class Yield:
    """Close *n* idle connections, for their slots are wanted elsewhere."""

    n: int


Action = Open | Verify | Abandon | Retire | Shrink | Yield


def decide(now: float, s: Snapshot, pace: Pace) -> tuple[list[Action], float | None]:
    """What to do at *now*, and when to look again if nothing happens before."""
    actions: list[Action] = []
    wakes: list[float] = []
    d = s.demand

    n = connects_to_begin(now, d)
    if n:
        for_floor = max(0, min(n, d.floor - d.size))
        if for_floor:
            actions.append(Open(for_floor, s.reason))
        if n > for_floor:
            actions.append(Open(n - for_floor, "growth"))
        d = replace(d, opening=d.opening + n, size=d.size + n, begun=d.begun + n)
    wakes += _some(next_look(now, d))

    if s.verifying is not None:
        give_up_at = s.verifying_since + pace.check_timeout
        if give_up_at <= now:
            actions.append(Abandon(s.verifying))
        else:
            wakes.append(give_up_at)
    elif s.idle:
        care, wake = _care(now, s.idle, d, pace)
        actions += care
        wakes.append(wake)

    spare = len(s.idle) - sum(isinstance(a, (Verify, Retire)) for a in actions)
    above = d.size - d.opening - d.floor - sum(isinstance(a, Retire) for a in actions)
    yielded = max(0, min(s.owed, spare, above))
    if yielded:
        actions.append(Yield(yielded))
    elif d.size > d.floor:
        period_ends = s.idle_low_since + pace.idle_timeout
        if period_ends <= now:
            actions.append(Shrink(max(0, min(s.idle_low, spare, above))))
            wakes.append(now + pace.idle_timeout)
        else:
            wakes.append(period_ends)
    return actions, min(wakes, default=None)


def _care(now: float, idle: Sequence[Seat], d: Demand, pace: Pace) -> tuple[list[Action], float]:
    """The one idle connection that needs replacing or verifying most, and the next look at them."""
    retiring = min(idle, key=_retire_at)
    oldest = min(idle, key=_proved_at)
    verify_at = oldest.proved_at + pace.refresh_interval
    if retiring.retire_at > now and verify_at > now:
        return [], min(retiring.retire_at, verify_at)
    # With the others lent out, a request is about to ask for the last idle one: let it.
    needed = len(idle) == 1 and d.lent > 0
    later = now + pace.check_timeout
    if retiring.retire_at <= now:
        # Both steps of a replacement follow from the counts, so it does not matter who opened the
        # one too many. Where the pool is full, the old one has to make the place.
        if d.size - d.opening > d.floor or d.size >= d.max_size:
            if not needed:
                return [Retire(retiring)], later
        elif not d.opening and d.room and (d.retry_at is None or d.retry_at <= now):
            return [Open(1, "refresh")], later
    if verify_at <= now and not needed:
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


def _retire_at(seat: Seat) -> float:
    return seat.retire_at


def _proved_at(seat: Seat) -> float:
    return seat.proved_at


def _some(at: float | None) -> list[float]:
    return [] if at is None else [at]
