"""Readiness: what the doors answer at ``ready_path``, for load balancers and orchestrators."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from . import registry
from .errors import PoolguardError

__all__ = ["Readiness", "readiness"]


class Readiness(NamedTuple):
    """The answer: 200 where all guards that are asked about are ready, else 503."""

    ready: bool
    body: bytes

    @property
    def status(self) -> int:
        return 200 if self.ready else 503

    @property
    def line(self) -> str:
        return "200 OK" if self.ready else "503 Service Unavailable"

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
        ]


def readiness(method: str, path: str, kind: str) -> Readiness | None:
    """The answer to a request for *path*; None where that is no guard's ``ready_path``.

    It is for all guards of this process that have the same, whichever middleware is asked, but for
    those that were closed by name. Asked before any hook or lifespan has opened them, it opens
    them, as pools of that *kind* where nothing else decides it: who waits for readiness may send no
    request before.
    """
    if path not in registry.ready_paths:
        return None
    guards = [guard for guard in registry.guards() if not guard.retired]
    asked = [guard for guard in guards if guard.settings.ready_path == path]
    if not asked or method not in ("GET", "HEAD"):
        return None
    for guard in asked:
        with suppress(PoolguardError):  # then it is not ready, and its status says why
            guard.open_for_request(guard.mode or kind)
    statuses = [guard.status() for guard in asked]
    ready = all(status["ready"] for status in statuses)
    return Readiness(ready, json.dumps({"ready": ready, "guards": statuses}).encode() + b"\n")
