"""Readiness: what the doors answer at ``ready_path``, for load balancers and orchestrators."""

from __future__ import annotations

from typing import NamedTuple

from . import registry
from .escape import as_json

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


def readiness(method: str, path: str) -> Readiness | None:
    """The answer to a request for *path*; None where that is no guard's ``ready_path``.

    It is for all guards of this process that have the same, whichever middleware is asked.
    """
    if path not in registry.ready_paths:
        return None
    asked = [guard for guard in registry.guards() if guard.settings.ready_path == path]
    if not asked or method not in ("GET", "HEAD"):
        return None
    statuses = [guard.status() for guard in asked]
    ready = all(status["ready"] for status in statuses)
    return Readiness(ready, as_json({"ready": ready, "guards": statuses}).encode() + b"\n")
