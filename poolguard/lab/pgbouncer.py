"""A private PgBouncer in front of a server, which lives as long as a ``with`` block.

The program is that of the system's package ``pgbouncer``, or any other of that name on PATH.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import LabError
from .janitor import Janitor
from .last_words import last_words
from .private_server import PrivateServer

__all__ = ["PgBouncer", "find_pgbouncer"]

PoolMode = Literal["session", "transaction", "statement"]
AuthType = Literal["scram-sha-256", "trust"]

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin")
_START_WITHIN = 10.0
_OURS = frozenset({"listen_addr", "listen_port", "auth_type", "auth_file", "pool_mode"})


def find_pgbouncer() -> Path:
    """The path of the program. Raises :class:`LabError` where there is none."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    found = shutil.which("pgbouncer", path=path)
    if found is None:
        raise LabError(
            "no PgBouncer was found here: install the system's package pgbouncer, or put the "
            "folder of the program on PATH"
        )
    return Path(found)


class PgBouncer(PrivateServer):
    """One PgBouncer on 127.0.0.1, with a folder and a port of its own.

    It is a context manager: entering starts it, leaving ends it and deletes its folder, which holds
    its configuration and its log.
    """

    _process: subprocess.Popen[bytes] | None

    def __init__(
        self,
        target: str,
        *others: str,
        pool_mode: PoolMode = "transaction",
        auth_type: AuthType = "scram-sha-256",
        settings: Mapping[str, str] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        """``target`` is the conninfo of the server, with a user that it admits and the password.

        ``others`` are conninfos of further users of the same server. ``settings`` go to
        pgbouncer.ini. ``janitor`` is one that already exists; without it the server starts its own.
        Raises :class:`LabError` where PgBouncer is not installed, or a setting is not the caller's
        to choose.
        """
        super().__init__(janitor)
        self.pool_mode = pool_mode
        self._auth_type = auth_type
        self.settings = dict(settings or {})
        if taken := sorted(_OURS & self.settings.keys()):
            raise LabError(f"setting {taken[0]!r} is chosen by the lab itself: leave it out")
        self._binary = find_pgbouncer()
        self._target = target
        self._users = [conninfo_to_dict(conninfo) for conninfo in (target, *others)]

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"PgBouncer(pool_mode={self.pool_mode!r}, port={self._port}, {state})"

    def conninfo(self, conninfo: str | None = None, /, **overrides: str | int) -> str:
        """The way through it for the first user, or for the one that ``conninfo`` names."""
        way = {"host": "127.0.0.1", "port": self.port, **overrides}
        return make_conninfo(conninfo or self._target, **way)

    def _prepare(self) -> None:
        if self._folder is None:
            # It refuses to run as root, and nobody, as which it then runs, must be able to enter.
            self._folder = self._watcher().folder("/tmp" if os.geteuid() == 0 else None)

    def _launch(self, port: int) -> bool:
        options: dict[str, Any] = {"cwd": "/"}
        self._configure(self.folder, port)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with self.log_path.open("ab") as log:
            # It has nothing to save, and since 1.23 it waits for its clients after SIGTERM.
            self._process = self._watcher().spawn(
                [self._binary, self.folder / "pgbouncer.ini"],
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
        said = self.read_log()
        if "in use" in said:
            self.log_path.unlink()
            return False
        raise LabError(
            f"PgBouncer did not start ({last_words(said)}): correct what it complains about"
        )

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
