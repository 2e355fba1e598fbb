"""One run of PostgreSQL's main process, from its start until all of its processes are gone."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT
from typing import IO

from .account import Account
from .janitor import Janitor
from .processes import descendants, kill, processes

__all__ = ["Postmaster"]

_ORPHANS_WITHIN = 1.0  # for orphaned backends to notice, before they are killed as well
_KILLED_WITHIN = 5.0
_SOCKET_PATH_MOST = 103  # bytes; Linux allows 107, macOS 103


class Postmaster:
    """The ``postgres`` process that runs on one data folder, and the backends that it starts."""

    def __init__(
        self,
        data: Path,
        port: int,
        *,
        log: IO[bytes],
        account: Account,
        janitor: Janitor,
        addresses: Sequence[str] = (),
    ) -> None:
        """Start it on 127.0.0.1 and these *addresses*, with its Unix socket beside *data*.
        *janitor* watches it."""
        self._pid_file = data / "postmaster.pid"
        self._janitor = janitor
        self._in_namespace = bool(account.prefix)
        socket_path = data.parent / f".s.PGSQL.{port}"
        socket_folder = data.parent if len(os.fsencode(socket_path)) <= _SOCKET_PATH_MOST else ""
        arguments: list[str | Path] = ["-D", data, "-p", str(port)]
        arguments += ["-c", f"listen_addresses={','.join(('127.0.0.1', *addresses))}"]
        arguments += ["-c", "logging_collector=off"]
        arguments += ["-c", f"unix_socket_directories={socket_folder}"]
        # Every backend inherits the writing end: end-of-file means that the last of them is gone.
        ours, theirs = os.pipe()
        self._lifeline = open(ours, "rb", buffering=0)  # noqa: SIM115 - clean_up closes it
        try:
            self._process = janitor.spawn(
                account.command("postgres", *arguments),
                signal=SIGINT,
                stdout=log,
                stderr=log,
                pass_fds=(theirs,),
                **account.popen_options(),
            )
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def ready_within(self, timeout: float) -> bool:
        """Wait until it accepts connections; false when it ends, or takes longer."""
        # As pg_ctl does it: the postmaster writes its state to the last line of its pid file.
        # Trying to connect instead would leave failed connections in the log.
        deadline = time.monotonic() + timeout
        pause = 0.002
        while self.poll() is None and time.monotonic() < deadline:
            lines = self._pid_file_lines()
            if len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready":
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return False

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def gone_within(self, timeout: float) -> bool:
        """Wait until it and all of its backends are gone; false when that takes longer."""
        deadline = time.monotonic() + timeout
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def kill(self) -> bool:
        """SIGKILL it, and wait until its backends are gone too; false when they are not.

        Backends end when they notice. One that is too busy to notice within 1 s is killed.
        """
        table = processes()
        family = {table[pid].identity for pid in descendants([self.pid], table)}
        self._process.kill()
        if self.gone_within(_ORPHANS_WITHIN):
            return True
        kill(family, processes())
        return self.gone_within(_KILLED_WITHIN)

    def clean_up(self) -> None:
        """Free what a killed one has left, once all of its processes are gone."""
        lines = self._pid_file_lines()
        if len(lines) >= 7 and not self._in_namespace:
            # A few bytes of System V memory, of which some systems have 32 pieces in all. In a
            # namespace of its own it is gone already, and its number here would mean another's.
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)
        # Another process may have its pid when the next server asks whether this one still lives.
        self._pid_file.unlink(missing_ok=True)
        self._janitor.forget(self.pid)
        self._lifeline.close()

    def _pid_file_lines(self) -> list[str]:
        try:
            return self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return []
