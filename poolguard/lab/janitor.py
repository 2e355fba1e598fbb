"""A process that outlives its owner by a moment and tidies up after it, even after ``kill -9``.

Owner and helper share one socket. The kernel closes the owner's end however the owner ends; the
helper reads end-of-file, ends what it was told to watch, deletes what it was told to remove, and
exits. :class:`Helper`, the owner's half of such a socket, serves the proxy too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import shutil
import signal as signals
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poolguard.errors import LabError

__all__ = ["Helper", "Janitor", "Process", "descendants", "processes"]

_ANSWER_WITHIN = 10.0
_POLL = 0.05
_FORCED_WITHIN = 5.0  # for killed processes to go, and for a folder they may still write to


class Helper:
    """A child process ``python -m MODULE`` that obeys JSON lines and ends when its owner does.

    It runs in a session of its own, so Ctrl-C in the owner's terminal does not reach it. A forked
    child of the owner drops its copy of the socket: only the owner keeps the helper alive.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(_ANSWER_WITHIN)
        self._socket: socket.socket | None = ours
        self._answers = ours.makefile("rb")
        _helpers.add(self)

    def __repr__(self) -> str:
        return f"Helper({self._module!r}, pid={self.pid})"

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        """Send one command and return its answer, once the helper has carried it out.

        Raises :class:`LabError` when the helper refuses, is gone, or is silent for 10 s.
        """
        with self._lock:
            if self._socket is None:
                raise LabError(f"{self!r} is closed, or is the parent process's own: start another")
            number = next(self._numbers)
            command = {"number": number, "do": do, **arguments}
            try:
                self._socket.sendall(json.dumps(command).encode() + b"\n")
                answer = self._answer_to(number)
            except OSError as error:
                raise LabError(
                    f"{self!r} did not answer {do!r} ({error!r}): start another"
                ) from None
        if "error" in answer:
            raise LabError(f"{self!r} could not {do!r}: {answer['error']}")
        return answer

    def _answer_to(self, number: int) -> dict[str, Any]:
        for line in self._answers:
            answer: dict[str, Any] = json.loads(line)
            # Ctrl-C may have left behind the answer to an earlier question that nobody read.
            if answer.pop("number") == number:
                return answer
        raise ConnectionResetError("it has ended")

    def close(self, timeout: float = 20.0) -> None:
        """Let the helper finish, and wait for that; after ``timeout`` seconds it is killed."""
        if self._socket is None:
            return
        self._drop_socket()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._answers.close()
            self._socket.close()
            self._socket = None


_helpers: weakref.WeakSet[Helper] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for helper in list(_helpers):
        helper._drop_socket()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Janitor:
    """Ends processes and deletes folders when this process ends, in whichever way it ends.

    A context manager: leaving it does the same at once. Everything it promises is promised when
    the method returns; there is no moment at which a ``kill -9`` leaves something behind.
    """

    def __init__(self, *, grace: float = 5.0) -> None:
        """``grace`` is for how many seconds a signalled process may take before it is killed."""
        self._helper = Helper("poolguard.lab.janitor", str(grace))
        # The grace, then a bound each for killing and for deleting.
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
        """End this process at the end: ``signal`` first, SIGKILL for it and its descendants later.

        ``group`` is for a process started with ``start_new_session``: its whole process group is
        signalled, and counts as alive while any of its members is.
        """
        self._helper.ask("watch", pid=pid, signal=int(signal), group=group)

    def forget(self, pid: int) -> None:
        """Watch this process no longer; no error where it was never watched."""
        self._helper.ask("forget", pid=pid)

    def remove(self, path: Path | str) -> None:
        """Delete this folder and all that is in it at the end; it need not exist yet."""
        self._helper.ask("remove", path=os.path.abspath(path))

    def folder(self, parent: Path | str | None = None) -> Path:
        """Make a private folder (0700) in ``parent``, else where temporary ones are; remove it."""
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
        # The shell waits for our word and becomes the program. Should this process be killed in
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
        """Do now what was promised for the end, and wait until it is done. Idempotent."""
        self._helper.close(self._patience)


class Process(NamedTuple):
    """One row of the system's process table."""

    pid: int
    parent: int
    group: int
    zombie: bool
    started: str
    """Together with the pid, this process and no later one."""


def processes() -> dict[int, Process]:
    """All processes that can be seen, by pid: from /proc, else from ``ps``."""
    if os.path.exists("/proc/self/stat"):
        return {row.pid: row for row in map(_from_proc, os.listdir("/proc")) if row is not None}
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,lstart="],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    rows = (line.split(maxsplit=4) for line in listing.stdout.splitlines())
    return {
        int(pid): Process(int(pid), int(parent), int(group), state.startswith("Z"), started)
        for pid, parent, group, state, started in rows
    }


def _from_proc(name: str) -> Process | None:
    if not name.isdecimal():
        return None
    try:
        stat = Path("/proc", name, "stat").read_text(errors="replace")
    except OSError:
        return None
    # The program's name stands in parentheses and may hold blanks and parentheses itself.
    state, parent, group, *rest = stat.rpartition(")")[2].split()
    return Process(int(name), int(parent), int(group), state in "ZX", rest[16])


def descendants(roots: Iterable[int], table: Mapping[int, Process]) -> set[int]:
    """The pids of these processes' children, their children's and so on, without the roots."""
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    known = set(roots)
    found: set[int] = set()
    queue = list(known)
    while queue:
        new = [pid for pid in children.get(queue.pop(), ()) if pid not in known]
        known.update(new)
        found.update(new)
        queue += new
    return found


class _Watched:
    """One process, or process group, to be ended; holds a pidfd where the system has them."""

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
        """Who is still to end: the process and, for a group, its members."""
        leader = table.get(self.pid)
        # A pid is not given out again while a group bears it, so another process under our pid
        # means that the whole group is gone, too.
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
        # ESRCH: it is gone already. ENOSYS, EPERM: a kernel or a sandbox without pidfds; then the
        # time at which the process started tells it from a later one.
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


class _Duties:
    """What the janitor process has to do at the end."""

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
        victims: set[Process] = set()
        while time.monotonic() < deadline:
            table = processes()
            alive = self._alive(table)
            victims |= {table[pid] for pid in alive | descendants(alive, table)}
            # Orphaned by a parent killed in an earlier round, they are found by their start.
            left = {row for row in table.values() if not row.zombie and _among(row, victims)}
            if not left:
                return
            for row in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row.pid, signals.SIGKILL)
            time.sleep(_POLL)


def _among(row: Process, victims: Iterable[Process]) -> bool:
    return any(row.pid == other.pid and row.started == other.started for other in victims)


def _delete(path: str) -> None:
    # An orphan that is still on its way out may write into the folder while it is being emptied.
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
