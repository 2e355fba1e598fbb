"""What each worker would import for itself: the master does where it may, and the rest is quick.

The driver is left to the workers. A reload is to find the one that is installed by then, and one
with gevent has to import it after its patch. Where gunicorn.conf.py or ``preload_app`` has imported
it, that is decided.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from importlib import import_module

from ..settings import Kind

__all__ = ["import_pool", "preload"]

_POOLS = {"sync": "poolguard.pool.sync", "async": "poolguard.pool.aio"}
_OURS = (
    "poolguard.pool.expected",
    "poolguard.pool.inquiry",
    "poolguard.pool.jobs",
    "poolguard.pool.leases",
    "poolguard.pool.outage",
    "poolguard.pool.outbox",
    "poolguard.pool.sockets",
    "poolguard.pool.statistics",
    "poolguard.pool.status",
    "poolguard.pool.upkeep",
    "poolguard.telemetry.durations",
    "poolguard.telemetry.http",
    "poolguard.telemetry.spans",
)
"""What an open pool needs beside the hooks, and imports no driver."""
_DRIVERS = (
    "ctypes.util",
    "decimal",
    "email.parser",
    "importlib.metadata",
    "importlib.resources",
    "queue",
    "zoneinfo",
)
"""What psycopg needs of the standard library: a tenth of its import. (One that is not needed any
more costs a millisecond, and a missing one as much in each worker.)"""


def preload(kind: Kind) -> None:
    """In the master, before it forks workers with pools of that *kind*: import what all need."""
    # A part of the standard library may be missing, and a driver without its pool: the worker says.
    for name in _DRIVERS:
        with suppress(ImportError):
            import_module(name)
    for name in _OURS:
        import_module(name)
    if "psycopg" in sys.modules:
        with suppress(ImportError):
            import_module(_POOLS[kind])


def import_pool(kind: Kind) -> None:
    """In a worker that has begun nothing else: import the driver, and the pool of that *kind*.

    Without the collector, which would go a hundred times through what is only growing: that is a
    tenth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        import_module(_POOLS[kind])
    finally:
        if collects:
            gc.enable()
