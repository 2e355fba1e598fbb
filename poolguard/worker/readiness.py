"""Readiness: what the doors answer at ``ready_path``, for load balancers and orchestrators."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from ..errors import PoolguardError
from ..settings import Kind
from ..util.escape import as_json
from . import registry

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


def readiness(method: str, path: str, root: str, kind: Kind) -> Readiness | None:
    """The answer to a request for *path*; None where that is no guard's ``ready_path``.

    It is for all guards of this process that have the same, whichever middleware is asked, but for
    those that were closed by name. Asked before any hook or lifespan has opened them, it opens
    them, as pools of that *kind* where nothing else decides it: a load balancer that waits for
    readiness sends no request before.

    :param root: where the application is mounted, by a proxy or below another application.
    """
    met = [each for each in registry.ready_paths if _meets(each, path, root)]
    if not met or method not in ("GET", "HEAD"):
        return None
    known = registry.guards(retired=False)
    asked = [guard for guard in known if guard.settings.ready_path in met]
    if not asked:
        return None
    for guard in asked:
        with suppress(PoolguardError):  # then it is not ready, and its status says why
            guard.open_for_request(guard.mode or kind)
    statuses = [guard.status() for guard in asked]
    ready = all(status["ready"] for status in statuses)
    return Readiness(ready, as_json({"ready": ready, "guards": statuses}).encode() + b"\n")


def _meets(ready_path: str, path: str, root: str) -> bool:
    """Whether *path* is the ``ready_path``, with nothing before it but a part of *root*.

    Servers leave their ``root_path`` in front of the path, or take it away; frameworks leave there
    where they mount. Who asks for the path cannot tell.
    """
    if not path.endswith(ready_path):
        return False
    before = path.removesuffix(ready_path)
    return not before or f"{before}/" in f"{root}/"
