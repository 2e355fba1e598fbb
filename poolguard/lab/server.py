"""A real gunicorn, or another HTTP server, that listens on loopback and ends with its owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import chain
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import TypeVar

from ..errors import LabError
from .janitor import Janitor

__all__ = ["Gunicorn", "WebServer", "listen"]

T = TypeVar("T")
STOP_TIMEOUT = 10.0
BOOT_TIMEOUT = 30.0
"""Seconds within which the workers must answer."""
ENDED_WITHIN = 5.0
"""Seconds after which it is noticed that the program has ended, whose listener stays open here."""


def listen(port: int = 0) -> socket.socket:
    """A listening socket on loopback. Raises LabError where the port cannot be used."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise LabError(
            f"port {port} on 127.0.0.1 cannot be used ({os.strerror(error.errno or 0)}): name "
            f"another with --port, or leave it out to have a free one chosen"
        ) from None
    listener.listen(2048)
    return listener


class WebServer:
    """A program that serves HTTP on *listener*, which it inherits, in a session of its own.

    What it prints goes to *log*.
    """

    name = "server"

    def __init__(
        self,
        command: Sequence[str],
        *,
        listener: socket.socket,
        log: Path,
        environ: Mapping[str, str],
        janitor: Janitor,
    ) -> None:
        self._log = log
        self._janitor = janitor
        self.address: tuple[str, int] = listener.getsockname()
        # The user's own settings must not change what is measured.
        inherited = {k: v for k, v in os.environ.items() if not _foreign(k)}
        with log.open("ab") as out:
            self._process = janitor.spawn(
                command,
                as_group=True,
                env={**inherited, **environ},
                pass_fds=(listener.fileno(),),
                stdout=out,
                stderr=out,
            )

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an exception there is no reason to wait for the requests that are under way.
        self.stop(STOP_TIMEOUT if kind is None else 0.5)

    @property
    def pid(self) -> int:
        """The pid of the main process: gunicorn's master."""
        return self._process.pid

    def wait_healthy(self) -> None:
        """Wait until a worker answers ``/health``, which needs no database.

        Raises LabError with the log's last words where gunicorn ends or takes too long.
        """
        until = monotonic() + BOOT_TIMEOUT
        while monotonic() < until:
            if self._process.poll() is not None:
                raise LabError(f"{self.name} ended at start: {self.last_words()}")
            try:
                # The master listens already: the answer comes when a worker accepts.
                timeout = min(until - monotonic(), ENDED_WITHIN)
                with closing(HTTPConnection(*self.address, timeout=timeout)) as connection:
                    connection.request("GET", "/health")
                    healthy = connection.getresponse().status == 200
            except (OSError, HTTPException):
                sleep(0.02)
                continue
            if healthy:
                return
        raise LabError(f"{self.name} does not answer after {BOOT_TIMEOUT:g} s: {self.last_words()}")

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End it with SIGTERM, and after *timeout* seconds by force."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._janitor.forget(self._process.pid)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def last_words(self) -> str:
        """The last line of the log."""
        lines = self.log().strip().splitlines()
        return lines[-1] if lines else "it has logged nothing"


class Gunicorn(WebServer):
    """gunicorn with one application, its log in *folder*.

    :param app: as gunicorn takes it, ``module:name``.
    :param config: the module that is its configuration.
    """

    name = "gunicorn"

    def __init__(
        self,
        app: str,
        config: str,
        *,
        listener: socket.socket,
        folder: Path,
        environ: Mapping[str, str],
        janitor: Janitor,
    ) -> None:
        options = {"--config": f"python:{config}", "--bind": f"fd://{listener.fileno()}"}
        super().__init__(
            [sys.executable, "-m", "gunicorn", *chain.from_iterable(options.items()), app],
            listener=listener,
            log=folder / f"gunicorn-{app.partition(':')[0].rpartition('.')[2]}.log",
            environ=environ,
            janitor=janitor,
        )


def _foreign(variable: str) -> bool:
    return variable.startswith(("POOLGUARD_", "OTEL_", "PG", "GUNICORN_")) or variable in (
        "DATABASE_URL",
        "WEB_CONCURRENCY",
    )
