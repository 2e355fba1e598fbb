"""A private PostgreSQL server that lives as long as a ``with`` block and leaves nothing behind.

Nothing: neither after an exception, nor after Ctrl-C, nor after ``kill -9`` of the process that
uses it. No postmaster runs that a :class:`~poolguard.lab.janitor.Janitor` does not watch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import random
import secrets
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from poolguard.errors import LabError
from poolguard.lab.binaries import Binaries, find
from poolguard.lab.janitor import Janitor, descendants, processes
from poolguard.lab.proxy import PORTS

__all__ = ["PrivatePostgres"]

Mode = Literal["fast", "immediate"]

_SIGNALS: Mapping[str, int] = {"fast": SIGINT, "immediate": SIGQUIT}
# Shared memory of a server killed with SIGKILL then goes with its folder, not with the machine.
_SHARED_MEMORY = "mmap"
_DEFAULTS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_connections": "100",
    "dynamic_shared_memory_type": _SHARED_MEMORY,
}
_OURS = frozenset({"port", "listen_addresses", "unix_socket_directories", "logging_collector"})
_START_WITHIN = 20.0
_STOP_WITHIN = 20.0
_ORPHANS_WITHIN = 1.0  # for orphaned backends to notice, before they are killed as well
_KILLED_WITHIN = 5.0
_SOCKET_PATH_MOST = 103  # bytes; Linux allows 107, macOS 103


@dataclass(frozen=True, slots=True)
class _Account:
    """How PostgreSQL is made to run, which refuses to run as root."""

    bindir: Path
    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def popen_options(self) -> dict[str, Any]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Another user may not enter the folder we are in.
        options: dict[str, Any] = {"env": {**environ, "LC_ALL": "C"}, "cwd": "/"}
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options


class PrivatePostgres:
    """One server on 127.0.0.1, with a data folder, a port and a password of its own.

    A context manager: entering starts it, leaving stops it and deletes its folder. In between
    :meth:`stop` and :meth:`start` keep data and port.
    """

    def __init__(
        self,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        """``settings`` go to postgresql.conf, over the lab's own (no fsync, 100 connections).

        ``janitor`` is one that already exists, else the server starts its own. Raises
        :class:`LabError` when no PostgreSQL is found, or a setting is not the caller's to choose.
        """
        self.settings = {**_DEFAULTS, **(settings or {})}
        if taken := sorted(_OURS & self.settings.keys()):
            raise LabError(f"setting {taken[0]!r} is chosen by the lab itself: leave it out")
        self._binaries = binaries or find()
        self._password = secrets.token_hex(16)
        self._owner = os.getpid()
        self._janitor = janitor
        self._own_janitor: Janitor | None = None
        self._folder: Path | None = None
        self._account = _Account(self._binaries.bindir)
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"PrivatePostgres(version={self.version!r}, port={self._port}, {state})"

    def __enter__(self) -> PrivatePostgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def version(self) -> str:
        return self._binaries.version

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's; raises :class:`LabError` when the server is not running."""
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
        """Its private folder, which holds ``data``, ``log`` and the Unix socket."""
        if self._folder is None:
            raise LabError(f"{self!r} has no folder: call start()")
        return self._folder

    @property
    def log_path(self) -> Path:
        return self.folder / "log"

    def read_log(self) -> str:
        """All that the server has logged since it was first started."""
        return self.log_path.read_text(errors="replace")

    @property
    def dsn(self) -> str:
        """A URL with the password, for the superuser ``postgres`` and the database ``postgres``."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    def conninfo(self, **overrides: str | int) -> str:
        """The same as ``key=value`` words, with libpq parameters changed or added."""
        return make_conninfo(self.dsn, **overrides)

    def connect(self, **overrides: Any) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode; takes what :func:`psycopg.connect` takes."""
        return psycopg.connect(self.dsn, **{"autocommit": True, **overrides})

    def create_role(self, name: str, *, connection_limit: int = -1) -> str:
        """Make an ordinary login role (-1: no limit of its own) and return its conninfo."""
        password = secrets.token_hex(16)
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}").format(
            sql.Identifier(name), sql.Literal(password), sql.Literal(connection_limit)
        )
        with self.connect() as connection:
            connection.execute(statement)
        return self.conninfo(user=name, password=password)

    def start(self) -> None:
        """Start it and wait until it accepts connections; does nothing when it is running.

        Raises :class:`LabError`, with the last words of the log, when it does not come up within
        20 s or when the port it had before has been taken by another program.
        """
        if self.running:
            return
        self.stop()  # what is left of one that ended by itself
        if self._folder is None:
            self._create()
        ports = [self._port] if self._port is not None else random.sample(PORTS, 20)
        for port in ports:
            if self._launch(port):
                self._port = port
                return
        raise LabError(
            f"port {ports[-1]} on 127.0.0.1 is in use by another program: end that, or make a new "
            f"PrivatePostgres"
        )

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it, wait until all its processes are gone, and keep its data. Idempotent.

        ``fast`` ends sessions and writes a checkpoint, ``immediate`` does neither. After 20 s it
        is killed.
        """
        if mode not in _SIGNALS:
            raise ValueError(f"mode={mode!r} is neither 'fast' nor 'immediate'")
        if self._process is None or os.getpid() != self._owner:
            return
        self._process.send_signal(_SIGNALS[mode])
        if not self._gone_within(_STOP_WITHIN):
            self.kill()
        self._bury()

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start again, on the same port with the same data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster, and return when its backends are gone too: start() works then.

        Backends end when they notice; one that is too busy to notice within 1 s is killed.
        """
        if self._process is None or os.getpid() != self._owner:
            return
        table = processes()
        family = {table[pid] for pid in descendants([self._process.pid], table)}
        self._process.kill()
        if not self._gone_within(_ORPHANS_WITHIN):
            table = processes()
            for backend in family:
                now = table.get(backend.pid)
                if now is not None and now.started == backend.started:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(backend.pid, SIGKILL)
            if not self._gone_within(_KILLED_WITHIN):
                raise LabError(
                    f"processes of {self!r} survived SIGKILL for {_KILLED_WITHIN:g} s: "
                    f"look for them with ps, and make a new PrivatePostgres"
                )
        self._bury()

    def close(self) -> None:
        """Stop it and delete its folder. Idempotent; a forked child's call does nothing."""
        if os.getpid() != self._owner:
            return
        try:
            self.stop()
        finally:
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

    def _create(self) -> None:
        self._folder = folder = self._watcher().folder(_parent())
        self._account = _account(self._binaries, folder)
        password_file = folder / "password"
        password_file.write_text(self._password)
        if self._account.uid is not None:
            for path in (folder, password_file):
                shutil.chown(path, self._account.uid, self._account.gid)
        self._initdb(folder, password_file)
        password_file.unlink()
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            for name, value in self.settings.items():
                conf.write(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n")

    def _initdb(self, folder: Path, password_file: Path) -> None:
        options = ["--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8"]
        options += ["--auth=scram-sha-256", "--username=postgres", f"--pwfile={password_file}"]
        if int(self.version.split(".")[0]) >= 16:
            # The servers that initdb runs leave theirs behind, too, when they are killed. Before
            # PostgreSQL 16 they could not be told.
            options += ["--set", f"dynamic_shared_memory_type={_SHARED_MEMORY}"]
        process = self._watcher().spawn(
            [*self._account.prefix, self._account.bindir / "initdb", *options, folder / "data"],
            signal=SIGTERM,
            as_group=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self._account.popen_options(),
        )
        with process:
            try:
                output, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, SIGKILL)
                raise LabError(
                    "initdb did not end within 60 s: is the disk full or slow?"
                ) from None
            except BaseException:
                os.killpg(process.pid, SIGKILL)
                raise
        self._watcher().forget(process.pid)
        if process.returncode != 0:
            raise LabError(
                f"{self._account.bindir / 'initdb'} failed with {process.returncode} "
                f"({_last_words(output.decode(errors='replace'))}): mend that, or choose another "
                f"PostgreSQL with POOLGUARD_PG_BIN"
            )

    def _launch(self, port: int) -> bool:
        """Start the postmaster; false when the port was taken."""
        socket_path = f"{self.folder}/.s.PGSQL.{port}"
        socket_folder = self.folder if len(os.fsencode(socket_path)) <= _SOCKET_PATH_MOST else ""
        arguments: list[str | Path] = ["-D", self.folder / "data", "-p", str(port)]
        arguments += ["-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off"]
        arguments += ["-c", f"unix_socket_directories={socket_folder}"]
        # Every backend inherits the writing end: end-of-file means that the last of them is gone.
        self._lifeline, theirs = os.pipe()
        try:
            with self.log_path.open("ab") as log:
                logged_before = log.tell()
                self._process = self._watcher().spawn(
                    [*self._account.prefix, self._account.bindir / "postgres", *arguments],
                    signal=SIGINT,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    **self._account.popen_options(),
                )
        finally:
            os.close(theirs)
            if self._process is None:
                self._drop_lifeline()
        if self._ready_within(_START_WITHIN):
            return True
        running = self.running
        self.stop("immediate")
        words = self.log_path.read_bytes()[logged_before:].decode(errors="replace")
        if running:
            raise LabError(
                f"PostgreSQL {self.version} was not ready within {_START_WITHIN:g} s "
                f"({_last_words(words)}): is this machine overloaded?"
            )
        if "Address already in use" in words:
            return False
        raise LabError(
            f"PostgreSQL {self.version} ended while starting ({_last_words(words)}): correct what "
            f"it complains about, most likely in settings={self.settings}"
        )

    def _ready_within(self, timeout: float) -> bool:
        # What pg_ctl does: the postmaster writes its state to the last line of its pid file. Trying
        # to connect instead would leave failed connections in the log.
        deadline = time.monotonic() + timeout
        pause = 0.002
        while self.running and time.monotonic() < deadline:
            lines = self._pid_file_lines()
            if len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready":
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return False

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _gone_within(self, timeout: float) -> bool:
        """Wait for the postmaster and for all of its backends."""
        deadline = time.monotonic() + timeout
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if self._lifeline is None:
            return True
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _bury(self) -> None:
        """Forget a server whose processes are all gone, and free what a killed one left."""
        if self._process is None:
            return
        lines = self._pid_file_lines()
        if len(lines) >= 7 and not self._account.prefix:
            # A few bytes of System V memory, of which some systems have 32 pieces in all. With a
            # prefix it was in a namespace of its own, and here its number would mean another's.
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)
        # Its pid may be somebody else's when the next server asks whether this one still lives.
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        self._watcher().forget(self._process.pid)
        self._process = None
        self._drop_lifeline()

    def _drop_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _parent() -> Path:
    """Where folders are made: the temporary directory, or one that other users can enter, too."""
    chosen = Path(tempfile.gettempdir())
    if os.geteuid() != 0 or _namespace_prefix():
        return chosen
    places = (chosen, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
    for place in places:
        path = place.resolve()
        if all(step.is_dir() and step.stat().st_mode & 0o001 for step in (path, *path.parents)):
            return path
    raise LabError(
        f"PostgreSQL refuses to run as root, and another user cannot enter {chosen}: set TMPDIR to "
        f"a folder that everybody can enter, or run this as an ordinary user"
    )


def _account(binaries: Binaries, folder: Path) -> _Account:
    prefix = _namespace_prefix() if _must_change_user() else ()
    if prefix or os.geteuid() != 0:
        return _Account(binaries.bindir, prefix)
    nobody = pwd.getpwnam("nobody")
    account = _Account(binaries.bindir, (), nobody.pw_uid, nobody.pw_gid)
    if not _runs(account):
        shutil.chown(folder, nobody.pw_uid, nobody.pw_gid)
        account = _Account(_copy(binaries, folder), (), nobody.pw_uid, nobody.pw_gid)
        if not _runs(account):
            raise LabError(
                f"{binaries.postgres} refuses to run as root, and 'nobody' cannot run it: "
                f"run this as an ordinary user"
            )
    return account


def _must_change_user() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        # initdb insists on the user's name; containers run under numbers that have none.
        return True
    return False


def _namespace_prefix() -> tuple[str, ...]:
    """What in front of a command makes it run as nobody in a user namespace; empty where blocked.

    Our own files stay our own there, so binaries and folders may be private. The IPC namespace
    takes with it the System V memory of a killed server.
    """
    try:
        nobody = pwd.getpwnam("nobody")
        ids = [f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
        prefix = ("unshare", "--user", "--ipc", *ids)
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except (KeyError, OSError):
        return ()
    return prefix if tried.returncode == 0 else ()


def _runs(account: _Account) -> bool:
    # Both are asked, since they are linked against different libraries.
    commands = [(account.bindir / name, "--version") for name in ("postgres", "initdb")]
    options = account.popen_options()
    try:
        ran = [subprocess.run(c, capture_output=True, check=False, **options) for c in commands]
    except PermissionError:
        return False
    return all(one.returncode == 0 for one in ran)


def _copy(binaries: Binaries, folder: Path) -> Path:
    """Copy an installation to where others may read it; PostgreSQL finds its files relatively."""
    install = binaries.bindir.parent
    site = folder / "copy"
    copy = site / install.parent.name / install.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install / part, copy / part, symlinks=True)
    # The wheel keeps the libraries that its programs need in a folder beside the package.
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, site / libraries.name, symlinks=True)
    return copy / "bin"


def _last_words(text: str) -> str:
    """The line that says what went wrong, for a message of one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1]
