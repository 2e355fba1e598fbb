"""Watches what a worker pays for: modules that it imports, at last for requests, and collections.

Imported in the master, by ``TEST_IMPORTS``, so that the worker has it from its beginning on.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["begin", "report"]

_imported_by_requests: list[str] = []
_by_the_master: set[str] = set()
_collections = 0


class Finder:
    """Finds nothing, and notes what is looked for within a request."""

    def find_spec(self, name: str, *_: object) -> None:
        if any(_is_request(frame) for frame in _frames()):
            _imported_by_requests.append(name)


def begin() -> None:
    """The application is imported: count from here, with a full collection just behind."""
    global _collections  # noqa: PLW0603
    gc.collect()
    _collections = 0


def report() -> dict[str, Any]:
    """What all requests so far have imported, and how many full collections there were; what of
    poolguard this worker has imported since the fork, and how many objects are frozen."""
    ours = {name for name in sys.modules if name.startswith("poolguard.")}
    return {
        "imported": _imported_by_requests,
        "collections": _collections,
        "by_the_worker": sorted(ours - _by_the_master),
        "frozen": gc.get_freeze_count(),
    }


def _count(phase: str, info: Mapping[str, int]) -> None:
    global _collections  # noqa: PLW0603
    if phase == "stop" and info["generation"] == 2:
        _collections += 1


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_request(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name != "__call__":
        return False
    if code.co_filename.endswith("poolguard/asgi.py"):
        return bool(frame.f_locals["scope"]["type"] != "lifespan")
    return code.co_filename.endswith("poolguard/wsgi.py")


sys.meta_path.insert(0, Finder())
gc.callbacks.append(_count)
os.register_at_fork(after_in_child=lambda: _by_the_master.update(sys.modules))
