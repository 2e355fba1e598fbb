"""What a pool says of itself: in its errors, and in its status."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .growth import LATE_AT_FIRST

if TYPE_CHECKING:
    from .housekeeper import Housekeeper

__all__ = ["state_of", "status_of"]


def state_of(keeper: Housekeeper, now: float) -> str:
    """What an error tells of the pool, and what to change."""
    c = keeper.core.counts()
    text = (
        f" (pool {keeper.name!r}: {c.size} of {c.max_size} connections, "
        f"{c.idle} idle, {c.lent} used, {c.opening} opening; "
        f"{c.waiting} waiting)."
    )
    if keeper.outage.lasts:
        return f"{text} Connecting fails: {keeper.outage.last_error}. Look at the server first"
    oldest = now - min((e.began for e in keeper.core.those("connecting")), default=math.inf)
    if oldest > LATE_AT_FIRST:
        return (
            f"{text} A connect is under way for {oldest:.1f} s: the server, or the way to it, "
            f"does not answer. Look there first"
        )
    if keeper.outage.refused:
        return (
            f"{text} The server has no room for more connections: {keeper.outage.last_error}. "
            f"Have others hold fewer (poolguard check tells who holds how many), or raise what "
            f"the server grants"
        )
    if keeper.leases.starved:
        return f"{text} The budget has no free slot: {keeper.leases.ledger.explain()}"
    if c.size >= c.max_size:
        return f"{text} Raise max_size (and budget), or hold connections for a shorter time"
    return text


def status_of(keeper: Housekeeper) -> dict[str, Any]:
    """The pool's part of a guard's status: plain data."""
    counts = keeper.core.counts()
    return {
        "name": keeper.name,
        "floor": counts.min_size,
        "expected": keeper.expected.status(counts),
        "max_size": counts.max_size,
        "idle": counts.idle,
        "used": counts.lent,
        "opening": counts.opening,
        "waiting": counts.waiting,
        "acquires": keeper.outcomes.counts(keeper.core.taken_free),
        "created": dict(keeper.lifecycle.created),
        "closed": dict(keeper.lifecycle.closed),
        "leaks": keeper.leaks.counts,
        "warmup": {
            "asked": keeper.asked or counts.min_size,
            "opened": keeper.lifecycle.created.get("warmup", 0),
            "seconds": keeper.warm_after,
        },
        "last_error": keeper.outage.last_error,
    }
