"""What the lab's private servers have in common: their folder, their port, their start and end."""

from __future__ import annotations

import os
import random
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from ..errors import LabError
from .janitor import Janitor
from .ports import PORTS

__all__ = ["PrivateServer"]

Self = TypeVar("Self", bound="PrivateServer")  # typing has it from Python 3.11 on

_PORTS_TRIED = 20


class _Process(Protocol):
    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...


class PrivateServer(ABC):
    """A server on 127.0.0.1, with a folder and a port of its own.

    It is a context manager: entering starts the server, leaving ends it and deletes its folder.
    Nothing runs that a :class:`~poolguard.lab.janitor.Janitor` does not watch.
    """

    _process: _Process | None

    def __init__(self, janitor: Janitor | None) -> None:
        """``janitor`` is one that already exists; without it the server starts its own."""
        self._owner = os.getpid()
        self._janitor = janitor
        self._own_janitor: Janitor | None = None
        self._folder: Path | None = None
        self._port: int | None = None
        self._process = None

    def __enter__(self: Self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The main process's; raises :class:`LabError` when the server is not running."""
        if self._process is None:
            raise LabError(f"{self!r} has no process: call start()")
        return self._process.pid

    @property
    def port(self) -> int:
        if self._port is None:
            raise LabError(f"{self!r} has no port yet: call start()")
        return self._port

    @property
    def folder(self) -> Path:
        """Its private folder; raises :class:`LabError` before the first start."""
        if self._folder is None:
            raise LabError(f"{self!r} has no folder: call start()")
        return self._folder

    @property
    def log_path(self) -> Path:
        return self.folder / "log"

    def read_log(self) -> str:
        """All that the server has logged since it was first started."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @abstractmethod
    def conninfo(self, **overrides: str | int) -> str:
        """How to connect, as ``key=value`` words, with libpq parameters changed or added."""

    def connect(self, **overrides: Any) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode; takes what :func:`psycopg.connect` takes."""
        return psycopg.connect(self.conninfo(), **{"autocommit": True, **overrides})

    def start(self) -> None:
        """Start it and wait until it accepts connections; does nothing when it is running.

        Raises :class:`LabError`, with the last words of its log, when it does not come up in time,
        or when the port that it had before has been taken by another program.
        """
        if self.running:
            return
        self._prepare()
        # Once its clients know the port, no other one would do.
        ports = [self._port] if self._port is not None else random.sample(PORTS, _PORTS_TRIED)
        for port in ports:
            if self._launch(port):
                self._port = port
                return
        raise LabError(
            f"port {ports[-1]} on 127.0.0.1 is in use by another program: end that, or make a new "
            f"{type(self).__name__}"
        )

    def close(self) -> None:
        """End it and delete its folder. Idempotent; a forked child's call does nothing."""
        if os.getpid() != self._owner:
            return
        try:
            self._end()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            if self._own_janitor is not None:
                self._own_janitor.close()
                self._own_janitor = None

    def _watcher(self) -> Janitor:
        """The janitor that was given, else one of its own, which starts at the first call."""
        if self._janitor is not None:
            return self._janitor
        if self._own_janitor is None:
            self._own_janitor = Janitor()
        return self._own_janitor

    @abstractmethod
    def _prepare(self) -> None:
        """Make what a start needs, the folder above all, where it is not there already."""

    @abstractmethod
    def _launch(self, port: int) -> bool:
        """Start its program and wait until it accepts connections; false when *port* was taken."""

    @abstractmethod
    def _end(self) -> None:
        """End its processes, if there are any."""
