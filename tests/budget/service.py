"""A real service of several workers, and the load on it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from poolguard.lab.janitor import Janitor
from poolguard.lab.ports import PORTS
from poolguard.lab.processes import descendants, processes

from ..support import alive, until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reply:
    """What a request came to."""

    began: float
    ended: float
    status: int
    """0 where the connection was cut: its worker was killed."""
    worker: int
    body: str


@dataclass(frozen=True)
class Hogged:
    """What load on one worker alone came to."""

    worker: int
    most: int
    """Connections it had at most."""
    reached: float
    """Seconds until it had as many as were asked for; -1: never."""


class Service:
    """gunicorn with gthread workers, and whoever takes over from it after USR2."""

    def __init__(
        self,
        janitor: Janitor,
        folder: Path,
        dsn: str,
        *,
        workers: int,
        threads: int,
        **environ: str,
    ) -> None:
        self._janitor = janitor
        self.log_path = folder / "gunicorn.log"
        self._hogs = folder / "hogs"
        self._hogs.mkdir()
        self.workers = workers
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOLGUARD_", "PG"))}
        self.port = _free_port()  # by number: a new master after USR2 inherits no fd://
        self._process = janitor.spawn(
            [
                sys.executable,
                *("-m", "gunicorn", "--config", "python:tests.budget.gunicorn_conf"),
                *("--bind", f"127.0.0.1:{self.port}", "--log-file", str(self.log_path)),
                "tests.budget.app:app",
            ],
            as_group=True,
            cwd=ROOT,
            env={
                **inherited,
                "DATABASE_URL": dsn,
                "TEST_WORKERS": str(workers),
                "TEST_THREADS": str(threads),
                "TEST_HOGS": str(self._hogs),
                "POOLGUARD_RUNTIME_DIR": str(folder / "run"),
                **environ,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.master = self._process.pid

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if alive(self.master):
            os.kill(self.master, signal.SIGTERM)
            until(lambda: not alive(self.master), within=20)
        if self._process.poll() is None:
            self._process.wait(20)
        self._janitor.forget(self._process.pid)

    def pids(self) -> set[int]:
        """The living workers."""
        table = processes()
        return {
            row.pid
            for row in table.values()
            if row.parent == self.master and not row.zombie and not self._is_master(row.pid)
        }

    def _is_master(self, pid: int) -> bool:
        return bool(descendants([pid], processes()))

    def signal(self, number: int) -> None:
        os.kill(self.master, number)

    def until_workers(self, n: int, *, without: set[int] | None = None) -> set[int]:
        """Wait until there are *n* workers, none of them of the old ones."""
        old = without or set()
        until(lambda: len(self.pids()) == n and not self.pids() & old, within=30)
        return self.pids()

    def replace_master(self) -> None:
        """USR2, wait for the new master's workers, and retire the old one."""
        before = self.pids()
        old = self.master
        os.kill(old, signal.SIGUSR2)
        until(lambda: self._successor(old, before) is not None, within=30)
        successor = self._successor(old, before)
        assert successor is not None
        self.master = successor
        self.until_workers(self.workers)
        os.kill(old, signal.SIGTERM)
        self._process.wait(30)

    def _successor(self, old: int, workers: set[int]) -> int | None:
        table = processes()
        for row in table.values():
            if row.parent == old and row.pid not in workers and descendants([row.pid], table):
                return row.pid
        return None

    def get(self, path: str, timeout: float = 60.0) -> Reply:
        """One request, on a connection of its own."""
        began = monotonic()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", f"/{path}", headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read().decode()
            worker = int(response.headers.get("X-Worker", "0"))
            return Reply(began, monotonic(), response.status, worker, body)
        except (RemoteDisconnected, ConnectionError, HTTPException) as error:
            return Reply(began, monotonic(), 0, 0, repr(error))
        finally:
            connection.close()

    def statuses(self) -> dict[int, dict[str, Any]]:
        """Every worker's status, by its pid."""
        found: dict[int, dict[str, Any]] = {}

        def all_found() -> bool:
            status = json.loads(self.get("status").body)
            found[status["pid"]] = status
            return set(found) >= self.pids()

        until(all_found)
        return found

    def hog(self, threads: int, seconds: float, enough: int, but_not: int = 0) -> Hogged:
        """Put load on one worker, but not on that one."""
        reply = self.get(f"hog/{threads}/{seconds}/{enough}/{but_not}")
        while reply.status == 409:
            reply = self.get(f"hog/{threads}/{seconds}/{enough}/{but_not}")
        assert reply.status == 200, reply
        return Hogged(reply.worker, **json.loads(reply.body))

    def until_hogged(self) -> int:
        """Wait until a worker under such load has as many as were asked for; which one it is."""
        until(lambda: any(self._hogs.iterdir()), within=30)
        return int(next(self._hogs.iterdir()).name)

    def end_hogs(self) -> None:
        """End such load, now and from now on, whatever time it was given."""
        (self._hogs / "over").touch()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""


def _free_port() -> int:
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", random.choice(PORTS)))
            return int(tried.getsockname()[1])


class Load:
    """Clients that ask again as soon as they are answered, until the block ends."""

    def __init__(self, service: Service, clients: int, seconds: Callable[[random.Random], float]):
        self.replies: list[Reply] = []
        self._service = service
        self._seconds = seconds
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed),), daemon=True)
            for seed in range(clients)
        ]

    def _run(self, rng: random.Random) -> None:
        while not self._over.is_set():
            self.replies.append(self._service.get(f"{self._seconds(rng):.3f}"))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def until_more(self, n: int) -> None:
        """Wait until *n* more requests were answered well."""
        before = self._good()
        until(lambda: self._good() >= before + n, within=60)

    def _good(self) -> int:
        return sum(reply.status == 200 for reply in self.replies)

    def bad(self, since: float) -> list[Reply]:
        """What was not answered well since then."""
        return [reply for reply in self.replies if reply.status != 200 and reply.ended >= since]
