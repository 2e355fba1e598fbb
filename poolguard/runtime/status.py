"""What ``guard.status()`` tells of the pool and its budget, JSON-ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .runtime import Runtime

if TYPE_CHECKING:
    from ..budget.fleet.ledger import FleetLedger

__all__ = ["not_warm", "status_of"]


def status_of(runtime: Runtime | None) -> dict[str, Any]:
    """What that runtime has and has counted; zeros where the guard is not open."""
    pool = None if runtime is None else runtime.pool
    status: dict[str, Any] = {
        "leaving": pool is not None and pool.leaving,
        "floor": None,
        "expected": {"level": None, "reason": None},
        "max_size": None,
        **dict.fromkeys(("idle", "used", "opening", "waiting"), 0),
        "acquires": {},
        "created": {},
        "closed": {},
        "leaks": {},
        "warmup": {"asked": None, "opened": 0, "seconds": None},
        "last_error": None,
    }
    if runtime is not None:
        status |= runtime.pool_status()
        if runtime.error is not None:
            status["last_error"] = str(runtime.error)
    return {**status, "budget": _budget_of(runtime)}


def _budget_of(runtime: Runtime | None) -> dict[str, Any]:
    plan = None if runtime is None else runtime.plan
    return {
        "capacity": plan and plan.capacity,
        "budget": plan and plan.budget,
        "instance": runtime and runtime.sizing.share,
        "in_use": 0 if runtime is None else runtime.ledger.in_use,
        "others": [] if runtime is None else runtime.sizing.room.others,
        "fleet": None if runtime is None or runtime.fleet is None else _fleet_of(runtime.fleet),
    }


def _fleet_of(ledger: FleetLedger) -> dict[str, Any]:
    """How the fleet stands, by what this host's keeper knows. What is granted, used and needed is
    for pools: each host has a control session beside that."""
    fleet = ledger.standing
    return {
        "hosts": fleet.hosts,
        "budget": fleet.budget,
        "granted": fleet.granted,
        "used": fleet.used,
        "needed": fleet.need,
        "guaranteed": fleet.guaranteed,
        "fair": fleet.fair,
        "unreachable": ledger.trouble,
    }


def not_warm(status: dict[str, Any], after: float) -> str:
    """What to say when a guard's warm-up has not ended in time, *after* so many seconds."""
    error, floor = status["last_error"], status["floor"]
    return (
        f"poolguard {status['name']!r} is not warm after {after:g} s: it has "
        f"{status['idle'] + status['used']} of {'?' if floor is None else floor} connections"
        + (f"; the last failure: {error}" if error else "")
    )
