"""A real gunicorn with one of the test applications, and what a test asks it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from pathlib import Path
from time import monotonic
from typing import Any

import gunicorn
import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.processes import processes
from poolguard.lab.server import listen

from ..support import until

ROOT = Path(__file__).parents[2]
BOOT_TIMEOUT = 40.0
"""Seconds within which the workers must answer, on a busy machine."""
_PYTHONPATH = os.environ.get("PYTHONPATH", "")
_SCRIPT = (str(Path(sysconfig.get_path("scripts"), "gunicorn")),)
"""What USR2 can repeat: begun with ``-m`` the new master has gunicorn's own folder in its path, and
takes gunicorn/http for the library's."""


@dataclass(frozen=True)
class Door:
    """A worker class of gunicorn, and which application it runs."""

    worker_class: str
    app: str
    """Empty where the configuration names it."""
    threads: int = 1
    since: int = 23
    """The first major version of gunicorn that has it."""

    @property
    def is_async(self) -> bool:
        return "asgi" in self.app

    def __str__(self) -> str:
        return self.worker_class.rpartition(".")[2]

    def must_exist(self) -> None:
        """Skip the test where the gunicorn that is installed is too old for it."""
        if gunicorn.version_info[0] < self.since:
            pytest.skip(f"gunicorn {gunicorn.__version__} has no worker class {self}")


SYNC = Door("sync", "tests.doors.wsgi_app:app")
GTHREAD = Door("gthread", "tests.doors.wsgi_app:app", threads=4)
ASGI = Door("asgi", "tests.doors.asgi_app:app", since=24)
UVICORN = Door("uvicorn_worker.UvicornWorker", "tests.doors.asgi_app:app")
GEVENT = Door("gevent", "tests.doors.wsgi_app:app")
DOORS = [SYNC, GTHREAD, GEVENT, ASGI, UVICORN]


@dataclass(frozen=True)
class Answer:
    """What a request was answered."""

    status: int
    body: Any
    headers: HTTPMessage


@dataclass(frozen=True)
class Span:
    """A finished span, as the SDK wrote it."""

    raw: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    @property
    def scope(self) -> str:
        """Who began it."""
        return str(self.raw["scope"])

    @property
    def kind(self) -> str:
        return str(self.raw["kind"]).removeprefix("SpanKind.")

    @property
    def id(self) -> str:
        return str(self.raw["context"]["span_id"])

    @property
    def trace(self) -> str:
        return str(self.raw["context"]["trace_id"])

    @property
    def parent(self) -> str | None:
        found: str | None = self.raw["parent_id"]
        return found

    @property
    def attributes(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.raw["attributes"]
        return found

    @property
    def tags(self) -> dict[str, Any]:
        """What poolguard says of the request, without the prefix."""
        prefix = "poolguard.request."
        return {
            name.removeprefix(prefix): value
            for name, value in self.attributes.items()
            if name.startswith(prefix)
        }


class Server:
    """gunicorn in a session of its own, on a free port of the loopback.

    :param cwd: the folder that it runs in, where *config* may be a file.
    """

    def __init__(
        self,
        door: Door,
        environ: Mapping[str, str],
        *,
        janitor: Janitor,
        folder: Path,
        dsn: str,
        port: int | None = None,
        config: str = "python:tests.doors.gunicorn_conf",
        cwd: Path = ROOT,
    ) -> None:
        door.must_exist()
        self.door = door
        self._janitor = janitor
        self._log = folder / "gunicorn.log"
        self._stderr = folder / "stderr"
        self._spans = folder / "spans"
        self.runtime_dir = folder / "run"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("POOLGUARD_", "OTEL_", "PG", "GUNICORN_"))
        }
        with listen() as listener, self._stderr.open("wb") as stderr:
            self.port: int = port or listener.getsockname()[1]
            bind = f"127.0.0.1:{port}" if port else f"fd://{listener.fileno()}"
            self.process = janitor.spawn(
                [
                    sys.executable,
                    *(_SCRIPT if port else ("-m", "gunicorn")),
                    *("--config", config),
                    *("--bind", bind, "--log-file", str(self._log)),
                    *filter(None, [door.app]),
                ],
                as_group=True,
                cwd=cwd,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), _PYTHONPATH])),
                    "DATABASE_URL": dsn,
                    "POOLGUARD_RUNTIME_DIR": str(self.runtime_dir),
                    "TEST_WORKER_CLASS": door.worker_class,
                    "TEST_THREADS": str(door.threads),
                    "TEST_SPANS": str(self._spans),
                    **environ,
                },
                pass_fds=(listener.fileno(),),
                stdout=stderr,
                stderr=stderr,
            )

    # -- asking --------------------------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET *path*. The master listens before a worker accepts: it may take its time."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=BOOT_TIMEOUT)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise AssertionError(f"no answer to {path}: {error!r}\n{self.said()}") from error
        finally:
            connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return Answer(response.status, json.loads(body) if is_json else body, response.headers)

    def get_together(self, *paths: str) -> list[Answer]:
        """GET all *paths* at once."""
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(self.get, paths))

    @contextmanager
    def getting(self, path: str) -> Iterator[Callable[[], Answer]]:
        """While the block runs, *path* is being got; the answer is to be called for."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.get, path).result

    def status(self) -> dict[str, Any]:
        """``guard.status()`` of the worker that answers."""
        found: dict[str, Any] = self.get("/status").body
        return found

    # -- reading -------------------------------------------------------------------------------

    def spans(self) -> list[Span]:
        """All spans that ended so far."""
        lines = self._spans.read_text().splitlines() if self._spans.exists() else []
        return [Span(json.loads(line)) for line in lines if line.endswith("}")]

    def server_spans(self, path: str) -> list[Span]:
        """The spans that requests for *path* left: poolguard's own, or an instrumentation's."""
        return [
            span
            for span in self.spans()
            if span.kind == "SERVER"
            and path in (span.attributes.get("url.path"), span.attributes.get("http.target"))
        ]

    def server_span(self, path: str) -> Span:
        """The one span of the one request for *path*. It may end after the response."""
        until(lambda: self.server_spans(path))
        (span,) = self.server_spans(path)
        return span

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans() if span.parent == parent.id]

    def log(self) -> str:
        """What gunicorn has logged."""
        return self._log.read_text() if self._log.exists() else ""

    def said(self) -> str:
        """The log, and what went to standard output and error."""
        return self.log() + self._stderr.read_text()

    def lines(self, word: str) -> list[str]:
        """The log's lines that have *word* in them."""
        return [line for line in self.said().splitlines() if word in line]

    # -- ending --------------------------------------------------------------------------------

    def wait(self, timeout: float = BOOT_TIMEOUT) -> int:
        """Wait for it to end of itself; its exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {timeout:g} s\n{self.said()}") from None

    def processes(self) -> list[int]:
        """Its processes that are alive: the master, its workers, and those that outlive it."""
        rows = processes().values()
        return [row.pid for row in rows if row.group == self.process.pid and not row.zombie]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> tuple[int, float]:
        """Send the master a signal; its exit status, and the seconds it took to end."""
        began = monotonic()
        self.process.send_signal(number)
        return self.wait(timeout), monotonic() - began

    def end(self) -> None:
        """End it as a service ends, so that its workers say which of our lines they have run."""
        if self.process.poll() is None:
            with suppress(AssertionError):
                self.stop(timeout=12)  # graceful_timeout is 10
        self.close()

    def close(self) -> None:
        """End what the test has left of it, without ceremony."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._janitor.forget(self.process.pid)
