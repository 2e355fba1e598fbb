"""A process that outlives its owner by a moment and tidies up after it, even after ``kill -9``.

Owner and janitor share one socket. The kernel closes the owner's end however the owner ends; the
janitor then reads end-of-file, ends what it was told to watch, deletes what it was told to remove,
and exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal as signals
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .helper import Helper
from .processes import Identity, Process, descendants, kill, processes

__all__ = ["Janitor"]

_POLL = 0.05
_FORCED_WITHIN = 5.0  # for killed processes to go, and for a folder they may still write to


class Janitor:
    """Ends processes and deletes folders when this process ends, in whichever way it ends.

    It is a context manager, and leaving it does the same at once. What a method promises holds
    from the moment at which it returns: no later ``kill -9`` leaves anything behind.
    """

    def __init__(self, *, grace: float = 5.0) -> None:
        """``grace`` is the time in seconds that a signalled process has before it is killed."""
        self._helper = Helper("poolguard.lab.janitor", str(grace))
        # After the grace come killing and deleting, each with a bound of its own.
        self._patience = grace + 3 * _FORCED_WITHIN

    def __repr__(self) -> str:
        return f"Janitor(pid={self.pid})"

    def __enter__(self) -> Janitor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._helper.pid

    def watch(self, pid: int, *, signal: int = signals.SIGTERM, group: bool = False) -> None:
        """End this process when the owner ends.

        It is sent ``signal``. If it still runs after the grace, it and its descendants are killed.

        ``group`` is for a process that was started with ``start_new_session``: its whole process
        group is signalled, and counts as alive while any of its members is.
        """
        self._helper.ask("watch", pid=pid, signal=int(signal), group=group)

    def forget(self, pid: int) -> None:
        """Watch this process no longer. It is no error if it was never watched."""
        self._helper.ask("forget", pid=pid)

    def remove(self, path: Path | str) -> None:
        """Delete this folder with all its contents when the owner ends. It need not exist yet."""
        self._helper.ask("remove", path=os.path.abspath(path))

    def folder(self, parent: Path | str | None = None) -> Path:
        """Make a private folder (0700), and delete it when the owner ends.

        It is made in ``parent``, or without one where temporary folders are.
        """
        path = Path(parent or tempfile.gettempdir()).resolve() / f"poolguard-{secrets.token_hex(8)}"
        self.remove(path)
        path.mkdir(mode=0o700)
        return path

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        signal: int = signals.SIGTERM,
        as_group: bool = False,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, watched before its first instruction.

        ``as_group`` is :meth:`watch`'s ``group``. ``options`` are Popen's (whose own ``group`` is
        a group of users), except ``stdin``: the program reads from /dev/null.
        """
        # The shell waits for our word, and then becomes the program. If this process is killed in
        # between, the shell reads end-of-file and ends instead.
        gate = ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *map(str, argv)]
        process = subprocess.Popen(
            gate, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, **options
        )
        assert process.stdin is not None
        try:
            with process.stdin:
                self.watch(process.pid, signal=signal, group=as_group)
                process.stdin.write(b"go\n")
            process.stdin = None  # communicate() would flush it
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def close(self) -> None:
        """Do now what was promised for the owner's end, and wait until it is done. Idempotent."""
        self._helper.close(self._patience)


class _Watched:
    """One process, or process group, that is to be ended. It holds a pidfd where there are any."""

    def __init__(self, pid: int, signal: int, *, group: bool) -> None:
        self.pid = pid
        self.signal = signal
        self.group = group
        self.pidfd = _open_pidfd(pid)
        row = processes().get(pid)
        self._started = row.started if row is not None else None

    def close(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)

    def alive(self, table: Mapping[int, Process]) -> set[int]:
        """The pids that are still to end: the process and, for a group, its members."""
        leader = table.get(self.pid)
        # A pid is not given out again while a group bears it. So another process under this pid
        # means that the whole group is gone too.
        if leader is not None and leader.started != self._started:
            return set()
        return {
            row.pid
            for row in table.values()
            if not row.zombie and (row.pid == self.pid or (self.group and row.group == self.pid))
        }

    def end(self, table: Mapping[int, Process]) -> None:
        """Send the first, polite signal."""
        if not self.alive(table):
            return
        with contextlib.suppress(ProcessLookupError):
            if self.group:
                os.killpg(self.pid, self.signal)
            elif self.pidfd is not None and sys.platform == "linux":
                signals.pidfd_send_signal(self.pidfd, self.signal)
            else:
                os.kill(self.pid, self.signal)


def _open_pidfd(pid: int) -> int | None:
    if sys.platform == "linux":
        # ESRCH: it is gone already. ENOSYS and EPERM come from a kernel or a sandbox without
        # pidfds: there, the time at which the process started tells it from a later one.
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


class _Duties:
    """The janitor process's list of what it has to do when its owner ends."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._watched: dict[int, _Watched] = {}
        self._paths: list[str] = []

    def take(self, command: Mapping[str, Any]) -> None:
        if command["do"] == "remove":
            self._paths.append(command["path"])
            return
        pid = command["pid"]
        if (earlier := self._watched.pop(pid, None)) is not None:
            earlier.close()
        if command["do"] == "watch":
            self._watched[pid] = _Watched(pid, command["signal"], group=command["group"])

    def finish(self) -> None:
        table = processes()
        for watched in reversed(self._watched.values()):
            watched.end(table)
        if not self._all_gone(self._grace):
            self._kill()
        for path in reversed(self._paths):
            _delete(path)

    def _alive(self, table: Mapping[int, Process]) -> set[int]:
        return set().union(*(watched.alive(table) for watched in self._watched.values()))

    def _all_gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while alive := self._alive(processes()):
            if time.monotonic() >= deadline:
                return False
            poll = select.poll()
            for pid in alive & self._watched.keys():
                if (pidfd := self._watched[pid].pidfd) is not None:
                    poll.register(pidfd, select.POLLIN)
            poll.poll(_POLL * 1000)
        return True

    def _kill(self) -> None:
        deadline = time.monotonic() + _FORCED_WITHIN
        # Those that an earlier round has orphaned are no descendants any more, but known by then.
        victims: set[Identity] = set()
        while time.monotonic() < deadline:
            table = processes()
            alive = self._alive(table)
            victims |= {table[pid].identity for pid in alive | descendants(alive, table)}
            if not kill(victims, table):
                return
            time.sleep(_POLL)


def _delete(path: str) -> None:
    # An orphan that is about to end may write into the folder while it is being emptied.
    deadline = time.monotonic() + _FORCED_WITHIN
    while True:
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path) or time.monotonic() >= deadline:
            return
        time.sleep(_POLL)


def _main() -> None:
    for number in (signals.SIGINT, signals.SIGTERM, signals.SIGHUP):
        signals.signal(number, signals.SIG_IGN)
    os.chdir("/")
    duties = _Duties(grace=float(sys.argv[1]))
    # An owner that was killed before it read its answer shows as an error instead of end-of-file.
    with contextlib.suppress(OSError):
        for line in sys.stdin.buffer:
            command = json.loads(line)
            answer = {"number": command["number"]}
            try:
                duties.take(command)
            except OSError as error:
                answer["error"] = str(error)
            os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    duties.finish()


if __name__ == "__main__":
    _main()
