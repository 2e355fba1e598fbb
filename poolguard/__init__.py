"""poolguard: a warm psycopg pool in each gunicorn worker, sized from one budget.

Names are imported when they are first used: gunicorn.conf.py imports this package in the master,
and psycopg must not be imported before a gevent worker has been patched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .util.version import __version__ as __version__

__all__ = [
    "AsyncGuardedPool",
    "ForkError",
    "Guard",
    "GuardedPool",
    "ModeError",
    "PlanError",
    "PoolguardError",
    "SettingsError",
    "aconnection",
    "connection",
    "forget",
    "guard",
    "role",
]

if TYPE_CHECKING:
    from .errors import ForkError, ModeError, PlanError, PoolguardError, SettingsError
    from .pool.aio import AsyncGuardedPool
    from .pool.sync import GuardedPool
    from .runtime.guards import Guard
    from .runtime.lookup import aconnection, connection, forget, guard
    from .worker.context import role

_HOMES = {
    "AsyncGuardedPool": "pool.aio",
    "Guard": "runtime.guards",
    "GuardedPool": "pool.sync",
    **dict.fromkeys(
        ("ForkError", "ModeError", "PlanError", "PoolguardError", "SettingsError"), "errors"
    ),
    **dict.fromkeys(("aconnection", "connection", "forget", "guard"), "runtime.lookup"),
    "role": "worker.context",
}


if not TYPE_CHECKING:  # by this a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
