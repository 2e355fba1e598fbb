"""``poolguard status``: what it reads, prints and refuses, and how it draws on a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from poolguard.util import rundir
from poolguard.worker import publish as board
from tests.cli.conftest import Run, elsewhere
from tests.cli.test_status_text import worker
from tests.support import HOSTILE, obeyed, until

Publish = Callable[..., dict[str, Any]]

ON_THIS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
os.execv(sys.executable, [sys.executable, "-m", "poolguard", "status", *sys.argv[1:]])
"""
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Has this process publish a worker's status, which may be changed, until the test ends."""
    monkeypatch.setattr(board, "PUBLISHED_EVERY", 0.05)
    keys: list[object] = []

    def publish(**changed: Any) -> dict[str, Any]:
        said = worker(os.getpid(), **changed)
        key = said["name"]
        keys.append(key)
        board.publish(key, folder, lambda: dict(said))
        until(lambda: any(each["name"] == key for each in board.published(folder)))
        return said

    yield publish
    for key in keys:
        board.withdraw(key)


# -- once


def test_the_workers_of_a_folder(run: Run, publish: Publish, folder: Path) -> None:
    publish(used=1)
    ran = run("status", "--runtime-dir", str(folder))
    assert (ran.status, ran.err) == (0, "")
    head, row, empty, *_, last = ran.out.splitlines()
    assert empty == ""
    assert head.split()[:4] == ["pid", "class", "ready", "idle"]
    assert row.split()[:5] == [str(os.getpid()), "gthread", "yes", "3", "1"]
    assert last == f"folder   {folder}"


def test_for_machines(run: Run, publish: Publish, folder: Path) -> None:
    said = publish()
    told = json.loads(run("status", "--json", "--runtime-dir", str(folder)).out)
    assert told.keys() == {"runtime_dir", "workers"}
    assert told["runtime_dir"] == str(folder)
    (found,) = told["workers"]
    assert found == {**said, "at": found["at"], "due": found["due"]}


OTHERS = ("a ledger's name", "a ledger's kind", "a count", "others", "whose sessions")
SESSION = {"role": HOSTILE, "application": HOSTILE, "connections": 1}
FIELDS = sorted(worker(1).keys() - {"at", "pid", "used"})


@pytest.mark.parametrize("field", [*FIELDS, *OTHERS])
def test_what_another_program_has_written(
    run: Run, publish: Publish, folder: Path, field: str
) -> None:
    """It is shown in one line, or left out where it is no status; and no terminal obeys it."""
    ledger = {"kind": "host", "name": "shop-0011223344556677"}
    changed: dict[str, Any] = {
        "a ledger's name": {"ledger": {**ledger, "name": HOSTILE}},
        "a ledger's kind": {"ledger": {**ledger, "kind": HOSTILE}},
        "a count": {"acquires": {"acquired": HOSTILE}},
        "others": {"budget": {**worker(1)["budget"], "others": [HOSTILE]}},
        "whose sessions": {"budget": {**worker(1)["budget"], "others": [SESSION]}},
    }.get(field, {field: HOSTILE})
    publish(**changed)
    as_text = run("status", "--runtime-dir", str(folder))
    for_machines = run("status", "--json", "--runtime-dir", str(folder))
    assert as_text.status == for_machines.status
    assert as_text.status in (0, 3)
    assert obeyed(as_text.out + for_machines.out) == []
    assert not any(line.startswith("[2030") for line in as_text.out.splitlines())


def test_where_the_environment_says(
    run: Run, publish: Publish, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    assert run("status").status == 3
    monkeypatch.setenv("POOLGUARD_RUNTIME_DIR", str(folder))
    assert run("status").status == 0
    assert run("status", "--runtime-dir", "/nowhere").status == 3


def test_a_folder_by_its_relative_name(
    run: Run, publish: Publish, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    monkeypatch.chdir(folder.parent)
    assert run("status", "--runtime-dir", "run").out.endswith(f"folder   {folder}\n")


def test_nothing_is_running(run: Run, folder: Path) -> None:
    """One line that says where it looked and what to do; and looking makes no folder."""
    ran = run("status", "--runtime-dir", str(folder))
    assert (ran.status, ran.err) == (3, "")
    assert ran.out == (
        f"no worker runs as this user (uid {os.geteuid()}): looked in {folder}, which does not "
        f"exist. Run this as the workers' user, and with their runtime_dir "
        f"(POOLGUARD_RUNTIME_DIR or --runtime-dir)\n"
    )
    assert not folder.exists()
    folder.mkdir(0o700)
    assert f"looked in {folder}. Run" in run("status", "--runtime-dir", str(folder)).out
    ran = run("status", "--runtime-dir", str(folder), "--json")
    assert (ran.status, json.loads(ran.out)) == (3, {"runtime_dir": str(folder), "workers": []})


def test_the_default_folder(run: Run) -> None:
    assert f"looked in {rundir.default_path()}, which" in run("status").out
    assert not rundir.default_path().exists()


# -- what goes wrong


def test_a_folder_that_cannot_be_trusted(run: Run, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    ran = run("status", "--runtime-dir", str(folder))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"poolguard: the runtime folder {folder} cannot be trusted: others")
    assert len(ran.err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(run: Run, folder: Path) -> None:
    """Another user is not advised to remove a folder that a service lives by."""
    folder.mkdir(0o700)
    os.chown(folder, 65534, -1)
    ran = run("status", "--runtime-dir", str(folder))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"poolguard: the runtime folder {folder} belongs to uid 65534, and this command runs as "
        f"uid 0: run it as that user\n"
    )


def test_no_folder_at_all(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        ran = run("status", "--runtime-dir", str(path))
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"poolguard: the runtime folder {path} cannot be used (")
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--watch"], "--watch draws on a terminal, and standard output is none"),
        (["--watch", "0"], "argument --watch: '0' is no number of seconds from 0.1 to a day"),
        (["--watch", "nan"], "argument --watch: 'nan' is no number"),
        (["--runtime-dir", ""], "argument --runtime-dir: '' is no folder"),
        (["--wach"], "unrecognized arguments: --wach. See poolguard status --help"),
    ],
)
def test_a_mistake_is_one_line(run: Run, options: list[str], says: str) -> None:
    ran = run("status", *options)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_setting_that_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLGUARD_RUNTIME_DIR", "relative")
    ran = run("status")
    assert ran.status == 1
    assert ran.err.startswith("poolguard: variable POOLGUARD_RUNTIME_DIR='relative': it takes")


# -- where it runs


def test_it_needs_neither_rich_nor_psycopg_nor_unicode(publish: Publish, folder: Path) -> None:
    publish(last_error="höher → weiter")
    modules = "rich,psycopg,psycopg_pool,termios"
    done = elsewhere(modules, "status", "--runtime-dir", str(folder), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b": h?her > weiter\n" in done.stdout


def test_whoever_reads_may_go_away(publish: Publish, folder: Path) -> None:
    publish()
    for options in (["--json"], ["--json", "--watch", "0.1"], []):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "poolguard", "status", *options, "--runtime-dir", str(folder)],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")


def test_watching_for_machines(publish: Publish, folder: Path) -> None:
    """A line of JSON each time, also into a pipe; Ctrl-C is the ordinary end."""
    said = publish()
    command = ["-m", "poolguard", "status", "--json", "--watch", "0.1"]
    command += ["--runtime-dir", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["workers"][0]["used"] == 0
        said["used"] = 1
        while json.loads(process.stdout.readline())["workers"][0]["used"] == 0:
            pass
        process.send_signal(signal.SIGINT)
        assert (process.wait(20), process.stderr.read()) == (0, b"")


# -- on a terminal


class Terminal:
    """``poolguard status`` on a pseudo-terminal of its own."""

    def __init__(
        self, *options: str, columns: int = 100, lines: int = 20, term: str = "xterm"
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.slave)
        self.text = ""
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_THIS_TERMINAL, *options],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env={**inherited, "TERM": term, "PYTHONIOENCODING": "utf-8"},
        )

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, words: str) -> str:
        """Read on until *words* come; what came before them since the last time."""
        deadline = monotonic() + 20
        while words not in self.text:
            left = deadline - monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"{words!r} never came: {self.text[-2000:]!r}")
            self.text += os.read(self.master, 65536).decode()
        before, _, self.text = self.text.partition(words)
        return before

    @property
    def echoes(self) -> bool:
        flags = termios.tcgetattr(self.slave)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)

    def end(self) -> int:
        """Its exit status, once it has ended of itself and restored all that it had changed."""
        self.read_until(LEAVE)
        ended = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.modes
        return ended

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def watch(folder: Path) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def watch(*options: str, **how: Any) -> Terminal:
        terminals.append(Terminal("--runtime-dir", str(folder), "--watch", *options, **how))
        return terminals[-1]

    yield watch
    for terminal in terminals:
        terminal.close()


def test_once_it_fits_the_terminal(publish: Publish, folder: Path) -> None:
    publish()
    terminal = Terminal("--runtime-dir", str(folder), columns=80)
    try:
        text = terminal.read_until("folder")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()
    assert "\x1b" not in text
    assert "class" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_it_draws_in_place(publish: Publish, watch: Callable[..., Terminal], folder: Path) -> None:
    said = publish()
    terminal = watch("0.1")
    assert terminal.read_until(ENTER) == ""
    assert not terminal.echoes
    first = terminal.read_until(f"folder   {folder}")
    assert first.startswith("\x1b[H\x1b[2K")
    assert "1 worker: 1 ready" in first
    terminal.read_until("acquires/s")
    terminal.read_until("0.0      0")  # a rate, and so the second look
    said["used"] = 77
    terminal.read_until("   77 ")
    publish(name="replica", ready=False)
    terminal.read_until("1 worker: 1 not ready")
    board.withdraw("replica")
    terminal.read_until("1 worker: 1 ready  ")
    board.withdraw("default")
    terminal.read_until("no worker runs as this user")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert terminal.text == ""


def test_it_follows_the_size_of_the_terminal(
    publish: Publish, watch: Callable[..., Terminal]
) -> None:
    """At once, however long it was to wait."""
    publish()
    terminal = watch("3600", columns=300)
    terminal.read_until("folder")
    terminal.resize(columns=40, lines=10)
    narrow = terminal.read_until("…")
    assert "class" not in narrow.rpartition("\x1b[H")[2]
    terminal.resize(columns=140, lines=10)
    assert "class" in terminal.read_until("failed")


@pytest.mark.parametrize(
    ("end", "ended"), [(b"q", 0), (b"\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_however_it_ends_the_terminal_is_restored(
    publish: Publish, watch: Callable[..., Terminal], end: bytes | signal.Signals, ended: int
) -> None:
    publish()
    terminal = watch("3600")
    terminal.read_until("folder")
    if isinstance(end, bytes):
        terminal.type(end)
    else:
        terminal.process.send_signal(end)
    assert terminal.end() == ended
    assert terminal.text == ""


def test_an_error_is_said_after_the_terminal_is_restored(
    publish: Publish, watch: Callable[..., Terminal], folder: Path
) -> None:
    publish()
    terminal = watch("0.1")
    terminal.read_until("folder")
    folder.chmod(0o755)
    assert terminal.end() == 1
    assert terminal.read_until("\r\n").startswith("poolguard: the runtime folder")


def test_suspended_it_gives_the_terminal_back(
    publish: Publish, watch: Callable[..., Terminal]
) -> None:
    """No shell is there to stop it for, so it goes on at once; and takes the terminal again."""
    publish()
    terminal = watch("3600")
    terminal.read_until("folder")
    terminal.type(b"\x1a")
    terminal.read_until(LEAVE)
    assert terminal.read_until(ENTER) == ""
    terminal.read_until("folder")
    terminal.type(b"q")
    assert terminal.end() == 0


def test_a_terminal_that_cannot_be_drawn_on(watch: Callable[..., Terminal]) -> None:
    terminal = watch(term="dumb")
    terminal.read_until("poolguard status: --watch draws on a terminal")
    assert terminal.process.wait(20) == 2
