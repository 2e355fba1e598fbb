"""What gunicorn's configuration says of its workers, whose classes differ in more than it tells."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from ..budget.plan import Workplace

__all__ = [
    "ignores_failure",
    "is_green",
    "longest_lifespan",
    "workplace_of",
]

LONGEST_LIFESPAN = 25.0
"""Seconds. gunicorn's own asgi worker gives the lifespan 30 (asgi/lifespan.py), the application's
startup included, and then serves without, and so without its pools."""


def workplace_of(cfg: Any) -> Workplace:
    """What gunicorn's configuration says of its workers."""
    ancestry = {base.__name__ for base in cfg.worker_class.__mro__}
    is_async = bool(ancestry & {"ASGIWorker", "UvicornWorker"})
    at_once = 10
    if "ThreadWorker" in ancestry:
        at_once = cfg.threads
    elif "SyncWorker" in ancestry:
        at_once = 1
    bounded = bool(ancestry & {"ThreadWorker", "SyncWorker"})
    return Workplace(cfg.workers, at_once, "async" if is_async else "sync", bounded)


def longest_lifespan(cfg: Any) -> float:
    """Seconds that a lifespan may take to start; infinity where the server sets no limit."""
    is_own = any(base.__name__ == "ASGIWorker" for base in cfg.worker_class.__mro__)
    return LONGEST_LIFESPAN if is_own else math.inf


def ignores_failure(cfg: Any) -> bool:
    """Whether the worker serves though its lifespan has failed.

    Before gunicorn 27 its own ASGI worker took a failed startup for an application without
    lifespan and served; with ``asgi_lifespan = "on"`` its workers ended and were begun for ever.
    """
    if longest_lifespan(cfg) == math.inf:
        return False
    return not hasattr(import_module("gunicorn.asgi.lifespan"), "LifespanStartupFailed")


def is_green(cfg: Any) -> bool:
    """The worker patches the process for gevent."""
    return any(base.__name__ == "GeventWorker" for base in cfg.worker_class.__mro__)
