"""A private PgBouncer in front of a server, that lives as long as a ``with`` block.

Its package is Debian's ``pgbouncer``, or any other whose program is on PATH.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.proxy import PORTS

__all__ = ["PgBouncer", "find_pgbouncer"]

PoolMode = Literal["session", "transaction", "statement"]
AuthType = Literal["scram-sha-256", "trust"]

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin")
_START_WITHIN = 10.0
_OURS = frozenset({"listen_addr", "listen_port", "auth_type", "auth_file", "pool_mode"})


def find_pgbouncer() -> Path:
    """The program. Raises :class:`LabError` where there is none."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    found = shutil.which("pgbouncer", path=path)
    if found is None:
        raise LabError(
            "no PgBouncer was found here: install the system's package pgbouncer, or put the "
            "folder of the program on PATH"
        )
    return Path(found)


class PgBouncer:
    """One PgBouncer on 127.0.0.1, with a folder and a port of its own.

    A context manager: entering starts it, leaving ends it and deletes its folder.
    """

    def __init__(
        self,
        target: str,
        *others: str,
        pool_mode: PoolMode = "transaction",
        auth_type: AuthType = "scram-sha-256",
        settings: Mapping[str, str] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        """``target`` is the conninfo of the server, with a user and a password who may come in.

        ``others`` are conninfos of further users of the same server. ``settings`` go to
        pgbouncer.ini. ``janitor`` is one that already exists, else it starts its own. Raises
        :class:`LabError` where PgBouncer is not installed, or a setting is not the caller's.
        """
        self.pool_mode = pool_mode
        self._auth_type = auth_type
        self.settings = dict(settings or {})
        if taken := sorted(_OURS & self.settings.keys()):
            raise LabError(f"setting {taken[0]!r} is chosen by the lab itself: leave it out")
        self._binary = find_pgbouncer()
        self._target = target
        self._users = [conninfo_to_dict(conninfo) for conninfo in (target, *others)]
        self._janitor = janitor
        self._own_janitor: Janitor | None = None
        self._folder: Path | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"PgBouncer(pool_mode={self.pool_mode!r}, port={self._port}, {state})"

    def __enter__(self) -> PgBouncer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises :class:`LabError` when it is not running."""
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
        """Its private folder, which holds its configuration and its log."""
        if self._folder is None:
            raise LabError(f"{self!r} has no folder: call start()")
        return self._folder

    def conninfo(self, conninfo: str | None = None, **overrides: str | int) -> str:
        """The way through it for the first user, or for the one that ``conninfo`` names."""
        way = {"host": "127.0.0.1", "port": self.port, **overrides}
        return make_conninfo(conninfo or self._target, **way)

    def connect(self, **overrides: Any) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode; takes what :func:`psycopg.connect` takes."""
        return psycopg.connect(self.conninfo(), **{"autocommit": True, **overrides})

    def read_log(self) -> str:
        """All that it has logged."""
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self) -> None:
        """Start it and wait until it accepts connections; does nothing when it is running.

        Raises :class:`LabError`, with the last words of its log, when it does not come up.
        """
        if self.running:
            return
        for port in [self._port] if self._port is not None else random.sample(PORTS, 20):
            if self._launch(port):
                self._port = port
                return
        raise LabError(f"{self!r} found no free port on 127.0.0.1: end what uses them")

    def close(self) -> None:
        """End it and delete its folder. Idempotent."""
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._own_janitor is not None:
            self._own_janitor.close()
            self._own_janitor = None

    def _watcher(self) -> Janitor:
        if self._janitor is not None:
            return self._janitor
        if self._own_janitor is None:
            self._own_janitor = Janitor()
        return self._own_janitor

    def _launch(self, port: int) -> bool:
        """Start the process; false when the port was taken."""
        options: dict[str, Any] = {"cwd": "/"}
        if self._folder is None:
            # It refuses to run as root, and whom it runs as then must be able to enter.
            self._folder = self._watcher().folder("/tmp" if os.geteuid() == 0 else None)
        self._configure(self._folder, port)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with (self._folder / "log").open("ab") as log:
            # It has nothing to save, and since 1.23 would wait for its clients after SIGTERM.
            self._process = self._watcher().spawn(
                [self._binary, self._folder / "pgbouncer.ini"],
                signal=SIGKILL,
                stdout=log,
                stderr=log,
                **options,
            )
        deadline = time.monotonic() + _START_WITHIN
        while self.running and time.monotonic() < deadline:
            if "process up" in self.read_log():
                return True
            time.sleep(0.005)
        self._end()
        words = (self.read_log().strip().splitlines() or ["it said nothing"])[-1]
        if "in use" in self.read_log():
            (self._folder / "log").unlink()
            return False
        raise LabError(f"PgBouncer did not start ({words}): correct what it complains about")

    def _configure(self, folder: Path, port: int) -> None:
        server = self._users[0]
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": self._auth_type,
            "auth_file": str(folder / "users"),
            "pool_mode": self.pool_mode,
            **self.settings,
        }
        lines = [
            "[databases]",
            f"* = host={server['host']} port={server['port']}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in values.items()),
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        users = (f'"{user["user"]}" "{user["password"]}"' for user in self._users)
        (folder / "users").write_text("\n".join(users) + "\n")

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._watcher().forget(self._process.pid)
            self._process = None
