"""What a pool's upkeep does now, and when it must look again. Pure: time is an argument.

Each decision is derived from the state as it stands and none is stored: a timer that an event sets
is lost with the event, a state is not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from ..budget.slots import Orphan
from .entry import Entry
from .events import CreateReason
from .growth import connects_to_begin, next_look, patience, with_headroom
from .memory import Asked
from .snapshot import Snapshot
from .suspects import is_asking

__all__ = [
    "Abandon",
    "Action",
    "CloseIdle",
    "Cut",
    "Doubt",
    "Open",
    "Opening",
    "Pace",
    "Retire",
    "Round",
    "Verify",
    "between_retirements",
    "check_after_another",
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
own asgi worker goes on accepting for as long, and what it accepts is not to wait for a connect."""
FALLEN = 300.0
"""Seconds without use after which a connection is closed that was kept for a level which has fallen
since. (``python -m benchmarks history``: with ``idle_timeout`` alone, where there are hourly jobs,
twice as many connections are kept as are needed.)"""
LOOK_FOR_CONNECTS = 1.0
"""Seconds after which connects under way are looked at again. One that has got as far as a session
is given up a while later, of which nothing tells, and which is never shorter."""
INTRODUCED = 1.0
"""Seconds without use after which a connection is greeted that was not greeted as it came."""
EARLY = 0.2
"""Part of the time after which a connection is checked that may be missing, where another one is
checked anyway."""
EXPIRY = 0.95
"""Part of max_lifetime after which a connection that comes back is not lent again."""


class Pace(NamedTuple):
    """How often what is done. Seconds."""

    check_interval: float
    check_timeout: float
    max_idle: float
    check_after_idle: float = math.inf
    """An idle connection not proved for longer is checked before it is lent."""


class Open(NamedTuple):
    """Begin *n* connects."""

    n: int
    reason: CreateReason


class Verify(NamedTuple):
    """Take an idle connection out of the pool, ask the server for a sign of life, put it back."""

    entry: Entry
    likely: bool = True
    for_waiter: bool = False
    asks: bool = False
    """It asks about the commands that have been under way for long."""


class Doubt(NamedTuple):
    """Lend none unverified that has not been proved since then."""

    since: float


class Cut(NamedTuple):
    """End a lent connection over which no answer will come."""

    entry: Entry


class Abandon(NamedTuple):
    """Give up the check, or the connect: the server does not answer in time."""

    entry: Entry


class Retire(NamedTuple):
    """Close an idle connection before its lifetime could end in a request."""

    entry: Entry


class CloseIdle(NamedTuple):
    """Close *n* idle connections: they were not needed, or siblings want their slots."""

    n: int
    reason: Literal["idle", "shutdown", "yielded"]


Action = Open | Verify | Doubt | Cut | Abandon | Retire | CloseIdle


class Opening(NamedTuple):
    """A connect to begin: its entry holds the slot already."""

    entry: Entry
    reason: CreateReason


class Round:
    """The I/O that one look at a pool leads to."""

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self.dead: list[Any] = []
        """Connections that the server has ended, to be closed on this side."""
        self.surplus: list[Any] = []
        """Connections to be closed of the pool's own will."""
        self.checks: list[tuple[Entry, Any, Collection[Orphan]]] = []
        """Those to be checked, and the slots of the dead that are to be asked about meanwhile."""
        self.asked: Asked | None = None
        """What the pool's memory is to be told, if there is one."""
        self.wake: float | None = None
        """When to look again, by the monotonic clock, if nothing happens before."""

    def __repr__(self) -> str:
        lists = ("openings", "dead", "surplus", "checks")
        told = (f"{len(getattr(self, each))} {each}" for each in lists if getattr(self, each))
        return f"<Round {', '.join(told) or 'of nothing'}>"


def decide(now: float, s: Snapshot, pace: Pace) -> tuple[list[Action], float | None]:
    """What to do at *now*, and when to look again if nothing happens before."""
    s, silences = _silences(now, s)
    checks = [*_checks_asked_for(s)]
    if checks and checks[0].likely:
        # Where a check has not answered in time, another is made beside a connect.
        late = sum(v.likely for v in s.checking.values()) - s.promised
        s = s._replace(
            promised=s.promised + max(0, len(checks) - late),
            promised_until=min(now + patience(s.connect_time), s.promised_until or math.inf),
        )
    actions: list[Action] = [*silences, *checks, *_question(now, s, checks)]

    n = connects_to_begin(now, s)
    if n:
        for_floor = max(0, min(n, s.for_floor))
        if for_floor:
            actions.append(Open(for_floor, s.reason))
        for_queue = min(n - for_floor, max(0, s.for_queue - for_floor))
        if for_queue:
            actions.append(Open(for_queue, "growth"))
        if n > for_floor + for_queue:
            actions.append(Open(n - for_floor - for_queue, "headroom"))
        s = s.after(n)

    given_up, looks = _given_up(now, s, pace)
    actions += given_up
    wakes = [next_look(now, s), *looks]
    if any(isinstance(a, Verify) for a in actions):
        asks = any(isinstance(a, Verify) and a.asks for a in actions)
        wakes.append(now + (s.reply_time if asks else pace.check_timeout))
    elif s.idle and not s.checking:
        care, wake = _care(now, s, pace)
        actions += care
        wakes.append(wake)
    elif s.counts.lent:
        # What is lent comes back without a word, and may then be left alone.
        wakes.append(now + pace.check_interval)
    if s.strangers:
        wakes.append(now + INTRODUCED)

    fewer, later = _fewer(now, s, pace, actions)
    actions += fewer
    wakes.append(later)
    return actions, min((at for at in wakes if at is not None), default=None)


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
        answered_by = check.since + s.reply_time
        if check.question and answered_by > now:
            wakes.append(answered_by)
    for entry in s.connecting:
        if entry.give_up_at > now:
            wakes.append(min(entry.give_up_at, now + LOOK_FOR_CONNECTS))
        elif not entry.severed:
            actions.append(Abandon(entry))
    return actions, wakes


def _silences(now: float, s: Snapshot) -> tuple[Snapshot, list[Action]]:
    """What is to be done about commands that get no answer; and the pool with that in mind.

    Where the server does not even reply to the question about them, the way to it may be lost for
    all connections that are older.
    """
    actions: list[Action] = [Cut(entry) for entry in s.lost]
    limit = now - s.reply_time
    unanswered = (c.since for c in s.checking.values() if c.question and c.since <= limit)
    since = max(unanswered, default=-math.inf)
    if since > s.doubted_at:
        actions.append(Doubt(since))
        s = s._replace(doubted_at=since)
    unheard = s.unheard
    if unheard and not (s.lost or s.idle or s.checking or s.counts.opening):
        # Nobody can ask. So another is opened, which will; or the kernel's word has to be enough.
        if s.room and (s.retry_at is None or s.retry_at <= now):
            actions.append(Open(1, "headroom"))
            s = s.after(1)
        elif s.counts.size >= s.counts.max_size:
            actions.append(Cut(unheard))
    return s, actions


def _question(now: float, s: Snapshot, checks: Sequence[Verify]) -> Iterator[Verify]:
    """Have the connection that was proved last ask about late commands, unless another does so."""
    asking = is_asking(now, s.reply_time, s.checking.values())
    if s.suspects and s.idle and not checks and not asking:
        yield Verify(max(s.idle, key=attrgetter("proved_at")), asks=True)


def _fewer(
    now: float, s: Snapshot, pace: Pace, actions: Sequence[Action]
) -> tuple[list[Action], float | None]:
    """Those above the floor that siblings want, or that were not needed; and the next look at them.

    *actions* are those decided on already.
    """
    counts = s.counts
    retired = sum(isinstance(a, Retire) for a in actions)
    spare = len(s.idle) - retired - sum(isinstance(a, Verify) for a in actions)
    above = counts.size - counts.opening - counts.min_size - retired
    yielded = max(0, min(s.owed, spare, above))
    if yielded:
        return [CloseIdle(yielded, "yielded")], None
    if s.for_floor >= 0:
        return [], None
    period = min(pace.max_idle, LINGER if s.leaving else FALLEN if s.level_fell else math.inf)
    if s.idle_low_since + period > now:
        return [], s.idle_low_since + period
    # As many as were lent at most would be opened ahead of the same again.
    most_lent = max(0, counts.size - counts.opening - s.idle_low)
    kept = max(0, s.likely(with_headroom(most_lent)) - most_lent)
    unused = max(0, min(s.idle_low - kept, spare, above, above + counts.min_size - s.level))
    return [CloseIdle(unused, "shutdown" if s.leaving else "idle")], now + period


def _checks_asked_for(s: Snapshot) -> Iterator[Verify]:
    """Those that cannot be done one after the other: an acquire waits, or one was found dead."""
    if doubted := [entry for entry in s.idle if entry.proved_at < s.doubted_at]:
        yield from (Verify(entry, likely=False) for entry in doubted)
    elif s.counts.waiting:
        # An acquire that waits beside idle connections was given none: all were idle too long.
        likeliest = sorted(s.idle, key=attrgetter("proved_at"), reverse=True)
        for entry in likeliest[: max(0, s.for_queue)]:
            yield Verify(entry, for_waiter=True)


def _care(now: float, s: Snapshot, pace: Pace) -> tuple[list[Action], float]:
    """The one idle connection that needs replacing or checking most, and the next look at them."""
    counts = s.counts
    retiring = min(s.idle, key=attrgetter("retire_at"))
    oldest = min(s.idle, key=partial(_check_at, pace=pace))
    # Both steps of a replacement follow from the counts, whatever opened the one too many. Where
    # the pool is full, the old one has to make room, one at a time and while connecting works.
    # Otherwise its successor is begun so early that it is there in time: connections that were
    # opened together are due in quick succession, and each would be later than the one before.
    full = counts.size >= counts.max_size and not counts.opening and s.retry_at is None
    spare = full or counts.size - counts.opening > counts.min_size
    replace_at = max(retiring.retire_at, s.retire_from) - (0.0 if spare else s.connect_time)
    check_at = _check_at(oldest, pace)
    if replace_at > now and check_at > now:
        return [], min(replace_at, check_at)
    # With the others lent out, a request is about to ask for the last idle one: let it.
    needed = len(s.idle) == 1 and counts.lent > 0
    later = now + pace.check_timeout
    if replace_at <= now:
        if spare:
            if not needed:
                return [Retire(retiring)], later
        elif not counts.opening and s.room and (s.retry_at is None or s.retry_at <= now):
            return [Open(1, "lifetime")], later
    if check_at <= now and not needed:
        return [Verify(oldest)], later
    return [], later


def _check_at(entry: Entry, pace: Pace) -> float:
    """When an idle connection is to be asked for a sign of life."""
    after = pace.check_interval
    return entry.proved_at + (min(INTRODUCED, after) if entry.stranger else after)


def check_after_another(
    now: float, idle: Collection[Entry], pace: Pace, *, any_lent: bool
) -> Entry | None:
    """Which of the *idle* connections is to be checked as well, once another one has been."""
    if len(idle) <= any_lent:  # a request is about to ask for the last one
        return None
    oldest = min(idle, key=partial(_check_at, pace=pace))
    due = _check_at(oldest, pace)
    return oldest if due - EARLY * (due - oldest.proved_at) <= now else None


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
