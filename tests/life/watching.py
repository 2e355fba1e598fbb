"""What events of the matrix watch a service with: light load on it, its processes, its backends."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from time import monotonic
from typing import Any

from poolguard.lab.ports import PORTS
from poolguard.lab.processes import descendants, processes
from poolguard.lab.sessions import SessionSampler
from poolguard.worker import publish as board

from ..doors.server import UVICORN, Door, Server
from ..support import alive, until
from .stage import Stage

__all__ = ["Master", "Traffic", "census", "free_port"]

WITHIN = 40.0
"""Seconds that an event may take on a busy machine."""


@dataclass(frozen=True)
class Reply:
    """What a request came to."""

    began: float
    ended: float
    error: str
    """Empty where it was answered with 200."""


class Traffic:
    """Clients that ask again soon after they are answered, each time on a new connection."""

    def __init__(self, port: int, *, path: str = "/query", clients: int = 2) -> None:
        self.replies: list[Reply] = []
        self._port = port
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more requests; those under way are waited for."""
        self._over.set()
        for thread in self._threads:
            thread.join(WITHIN)

    def _run(self) -> None:
        while not self._over.wait(0.02):
            began = monotonic()
            error = self._get()
            self.replies.append(Reply(began, monotonic(), error))

    def _get(self) -> str:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=WITHIN)
        try:
            connection.request("GET", self._path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        return "" if response.status == 200 else f"{response.status} {body[:200]!r}"

    @property
    def answered(self) -> int:
        return sum(not reply.error for reply in self.replies)

    def until_more(self, n: int = 20) -> None:
        """Wait until *n* more requests were answered well."""
        before = self.answered
        until(lambda: self.answered >= before + n, within=WITHIN)

    def failed(self) -> list[str]:
        """What went wrong, and how long after the first request began."""
        first = self.replies[0].began
        return [f"{r.began - first:.2f}s: {r.error}" for r in self.replies if r.error]

    def refused(self, door: Door, *, kills: bool = False) -> list[str]:
        """What failed and is not uvicorn's own doing, nor, where there are *kills*, theirs.

        On SIGTERM, and past its limit of requests, uvicorn closes connections that it has accepted
        and whose request has not arrived yet: without poolguard too, a client that connects before
        HUP and asks a moment later gets no answer from it.
        """
        cut = ("ConnectionResetError", "RemoteDisconnected") if kills or door is UVICORN else ()
        return [each for each in self.failed() if not any(name in each for name in cut)]

    def stall(self) -> float:
        """The longest time in which nobody was answered."""
        ends = sorted(reply.ended for reply in self.replies)
        return max(late - early for early, late in pairwise(ends))


def census(stage: Stage) -> SessionSampler:
    """Counts the backends of an event all along."""
    return SessionSampler(stage.postgres.conninfo(), application=stage.name, every=0.03)


class Master:
    """A gunicorn master and its workers, seen from outside. USR2 makes another one."""

    def __init__(self, server: Server, pid: int | None = None) -> None:
        self.server = server
        self.pid = server.process.pid if pid is None else pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def workers(self) -> set[int]:
        """The living workers: children without children of their own."""
        table = processes()
        children = {row.pid for row in table.values() if row.parent == self.pid and not row.zombie}
        return {pid for pid in children if not descendants([pid], table)}

    def until_workers(self, n: int, *, without: set[int] | None = None) -> set[int]:
        """Wait until there are *n* workers, all of them open, and none of them of the old ones."""
        old = without or set()

        def there() -> bool:
            now = self.workers()
            return len(now) == n and not now & old and now <= set(self.statuses())

        until(there, within=WITHIN)
        return self.workers()

    def statuses(self) -> Mapping[int, dict[str, Any]]:
        """What the living workers have published of their default guard, by their pid."""
        found = board.published(self.server.runtime_dir)
        workers = self.workers()
        return {each["pid"]: each for each in found if each["pid"] in workers}

    def until_warm(self, n: int, floor: int) -> None:
        """Wait until *n* workers have published that each holds its floor."""

        def warm() -> bool:
            found = self.statuses().values()
            held = [each["idle"] + each["used"] for each in found if each["ready"]]
            return len(held) == n and min(held) >= floor

        try:
            until(warm, within=WITHIN)
        except AssertionError as error:
            found = f"{self.workers()} published {self.statuses()}"
            raise AssertionError(f"{error}: {found}\n{self.server.said()}") from None

    @contextmanager
    def successor(self) -> Iterator[Master]:
        """The master that USR2 makes, until the block ends."""
        before = self.workers()
        self.signal(signal.SIGUSR2)
        until(lambda: self._born(before), within=WITHIN)
        made = Master(self.server, self._born(before))
        try:
            yield made
        finally:
            if alive(made.pid):
                made.signal(signal.SIGTERM)
                until(lambda: not alive(made.pid), within=WITHIN)

    def _born(self, workers: set[int]) -> int | None:
        table = processes()
        for row in table.values():
            if row.parent == self.pid and row.pid not in workers and descendants([row.pid], table):
                return row.pid
        return None


def free_port() -> int:
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", random.choice(PORTS)))
            return int(tried.getsockname()[1])
