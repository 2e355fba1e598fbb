"""What the pools of this process have counted and have now, as each metric wants it. Plain data."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, get_args

from ..history.expected import Reason
from ..pool.events import CloseReason, CreateReason, Outcome
from ..util.logs import logger

if TYPE_CHECKING:
    from typing import Any, Protocol

    from ..budget.fleet.ledger import FleetLedger
    from ..budget.ledger import Ledger
    from ..budget.plan import Plan

    class Measured(Protocol):
        """One opening of a guard."""

        name: str

        @property
        def plan(self) -> Plan | None: ...

        @property
        def ledger(self) -> Ledger: ...

        @property
        def fleet(self) -> FleetLedger | None: ...

        @property
        def alive(self) -> bool:
            """It was not closed."""

        def pool_status(self) -> Mapping[str, Any]:
            """What its pool says of itself, also once it is closed; empty before there is one."""


__all__ = ["COUNTERS", "Figures", "figures", "forget", "watch"]


Figures = dict[str, dict[str, float]]
"""By the metric's name, and by the value of the attribute that tells its series apart: ``""`` where
there is one series."""

ACQUIRES = "poolguard.acquires"
CREATED = "poolguard.connections.created"
CLOSED = "poolguard.connections.closed"
TIMEOUTS = "db.client.connection.timeouts"
COUNTERS = (ACQUIRES, CREATED, CLOSED, TIMEOUTS)
"""What only ever grows, and goes on from where it was when a guard is opened again."""


class _Past:
    """The openings of guards of one name, one after the other."""

    def __init__(self) -> None:
        self._openings: list[Measured] = []
        self._ended: Figures = {}
        """What those counted that are not kept any more."""

    def add(self, opening: Measured) -> None:
        """A new one begins; what has nothing left to count is kept as figures only."""
        kept: list[Measured] = []
        for each in self._openings:
            if _is_over(each):
                found = _of(each)
                _add(self._ended, {name: found[name] for name in COUNTERS if name in found})
            else:
                kept.append(each)
        self._openings = [*kept, opening]

    def figures(self) -> Figures:
        total: Figures = {}
        _add(total, self._ended)
        for each in self._openings:
            _add(total, _of(each))
        if self._openings:
            total |= _warmup(self._openings[-1])
        return total


_pools: dict[str, _Past] = {}
_lock = threading.RLock()
_failed = False


def watch(opening: Measured) -> None:
    """Count *opening* from now on, and what it counted for ever."""
    with _lock:
        _pools.setdefault(opening.name, _Past()).add(opening)


def figures() -> dict[str, Figures]:
    """By the pool's name. Never raises: what fails is logged, once."""
    global _failed  # noqa: PLW0603
    found = {}
    with _lock:
        for name, past in _pools.items():
            try:
                found[name] = past.figures()
            except Exception:
                if not _failed:
                    logger.exception("the metrics of pool %r could not be read", name)
                _failed = True
    return found


def forget() -> None:
    """In a forked child: the pools are the parent's, and so is the thread that holds the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    _pools.clear()


def _of(opening: Measured) -> Figures:
    """What one opening counts, and what it has. A closed one has no bounds and sees no budget: a
    worker that has ended is to count no more in a sum or a maximum over all workers, though its
    last figures stay with a backend for a while."""
    status, open_now = opening.pool_status(), opening.alive
    if not status:
        return {}
    floor, most = (status["floor"], status["max_size"]) if open_now else (0, 0)
    expected: dict[str, Any] = status["expected"] if open_now else {"level": 0, "reason": "floor"}
    level, reason = expected["level"], expected["reason"]
    found: Figures = {
        ACQUIRES: _counts(status["acquires"], get_args(Outcome)),
        CREATED: _counts(status["created"], get_args(CreateReason)),
        CLOSED: _counts(status["closed"], get_args(CloseReason)),
        TIMEOUTS: {"": status["acquires"].get("timeout", 0)},
        "db.client.connection.count": {"idle": status["idle"], "used": status["used"]},
        "db.client.connection.idle.max": {"": most},
        "db.client.connection.idle.min": {"": level},
        "poolguard.connections.floor": {"": floor},
        "poolguard.connections.expected": _counts({reason: level}, get_args(Reason)),
        "db.client.connection.max": {"": most},
        "db.client.connection.limit": {"": most},
        "db.client.connection.pending_requests": {"": status["waiting"]},
        "poolguard.budget.in_use": {"": opening.ledger.in_use if open_now else 0},
    }
    limit = opening.ledger.limit
    if opening.plan is not None and limit is not None:
        found["poolguard.budget.limit"] = {"": limit if open_now else 0}
    if opening.fleet is not None:
        found |= _of_fleet(opening.fleet)
    return found


def _of_fleet(ledger: FleetLedger) -> Figures:
    """What a host knows of its fleet; zeros once its ledger is closed."""
    fleet = ledger.standing
    told = {
        "poolguard.budget.guaranteed": fleet.guaranteed,
        "poolguard.budget.fair": fleet.fair,
        "poolguard.budget.fleet.limit": fleet.budget,
        "poolguard.budget.fleet.granted": fleet.granted,
        "poolguard.budget.fleet.in_use": fleet.used,
        "poolguard.budget.fleet.needed": fleet.need,
        "poolguard.budget.fleet.hosts": fleet.hosts,
        "poolguard.budget.fleet.unreachable": int(ledger.trouble is not None),
    }
    return {name: {"": figure} for name, figure in told.items()}


def _warmup(opening: Measured) -> Figures:
    seconds = opening.pool_status().get("warmup", {}).get("seconds")
    return {} if seconds is None else {"poolguard.warmup.duration": {"": seconds}}


def _is_over(opening: Measured) -> bool:
    """Closed, and its last connection has ended."""
    status = opening.pool_status()
    return not opening.alive and not any(
        status.get(name) for name in ("idle", "used", "opening", "waiting")
    )


def _counts(counted: Mapping[str, int], known: Iterable[str]) -> dict[str, float]:
    """All that may be counted, from the start: a counter that begins at 1 has no increase."""
    return {value: counted.get(value, 0) for value in known}


def _add(total: Figures, more: Mapping[str, Mapping[str, float]]) -> None:
    for name, series in more.items():
        sums = total.setdefault(name, {})
        for value, n in series.items():
            sums[value] = sums.get(value, 0) + n
