"""What each worker would import for itself, the driver included: the master does, for all of them.

A reload is to find what is installed by then. So where a file has changed of what was imported
here, and not by gunicorn.conf.py or ``preload_app``, that is forgotten, and left to the workers.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from ..settings import Kind

__all__ = ["forget", "import_pool", "preload"]

_POOLS = {"sync": "poolguard.pool.sync", "async": "poolguard.pool.aio"}
_BESIDE = (
    "poolguard.telemetry.durations",
    "poolguard.telemetry.http",
    "poolguard.telemetry.spans",
)
"""What an open pool needs beside the hooks and its own."""

_Version = tuple[int, int] | None
_shared: dict[str, _Version] = {}
"""The modules that were imported here and can be forgotten, and of which versions they are."""
_forgotten = False
"""They were once. From then on the workers import them: two versions of a library in C are not to
meet in the master."""


def preload(kind: Kind) -> None:
    """In the master, before it forks workers with pools of that *kind*: import what all need."""
    for name in _BESIDE:
        import_module(name)
    if any(_version(sys.modules.get(name)) != version for name, version in _shared.items()):
        forget()
    if _forgotten:
        return
    before = set(sys.modules)
    # A part of the standard library may be missing, or the driver: the worker says so.
    with suppress(ImportError):
        import_pool(kind)
    new = {name for name in sys.modules if name not in before and _may_change(name)}
    _shared.update((name, _version(sys.modules[name])) for name in new)


def forget() -> None:
    """In the master: have its workers import the driver for themselves from now on. It stays where
    gunicorn.conf.py, or the application, has imported it."""
    global _forgotten  # noqa: PLW0603 - the workers inherit it
    _forgotten = True
    for name in _shared:
        sys.modules.pop(name, None)
        package, _, attribute = name.rpartition(".")
        vars(sys.modules.get(package, sys)).pop(attribute, None)
    _shared.clear()


def import_pool(kind: Kind) -> None:
    """Where nothing else has begun: import the driver, and the pool of that *kind*.

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


def _may_change(name: str) -> bool:
    return name.partition(".")[0] not in sys.stdlib_module_names


def _version(module: Any) -> _Version:
    """What tells apart the files of two versions of a module; None where there is none."""
    with suppress(OSError, AttributeError, TypeError):
        told = os.stat(module.__file__)
        return told.st_ino, told.st_mtime_ns
    return None
