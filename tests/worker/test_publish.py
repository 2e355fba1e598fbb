"""What a process publishes of its guards, who reads it, and how the files of the dead go."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

import poolguard.status
from poolguard import Guard
from poolguard.errors import RuntimeDirError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.util import rundir
from poolguard.util.rundir import RuntimeDir
from poolguard.worker import publish as board

from ..support import until

ALIVE = """
import sys
from pathlib import Path
from poolguard.worker import publish as board
board.publish(1, Path(sys.argv[1]), lambda: {"name": "other", "pid": 1})
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def publish(folder: Path) -> Iterator[Callable[..., None]]:
    """Publishes until the test ends."""
    keys: list[object] = []

    def publish(key: object, **said: Any) -> None:
        keys.append(key)
        board.publish(key, folder, lambda: {"name": "n", "pid": os.getpid(), **said})
        until(lambda: any(said.items() <= each.items() for each in board.published(folder)))

    yield publish
    for key in keys:
        board.withdraw(key)


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that publishes."""
    command = [sys.executable, "-c", ALIVE, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        until(lambda: board.published(folder))
        yield process
        process.kill()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "poolguard-status"]


def test_it_is_there_while_the_guard_is_open(dsn: str) -> None:
    guard = Guard(dsn, budget=3, floor=2)
    assert board.published() == []
    with guard:
        until(lambda: [each["idle"] for each in board.published()] == [2])
        (published,) = board.published()
        at = published.pop("at")
        assert 0 <= time() - at < 30
        assert at < published.pop("due") <= at + board.PUBLISHED_AT_REST
        assert published.pop("worker_class") is None
        assert published.pop("ledger")["kind"] == "host"
        assert published == json.loads(json.dumps(guard.status()))
        with guard.connection():
            until(lambda: board.published()[0]["used"] == 1)
    assert board.published() == []
    assert writers() == []


def test_a_program_reads_the_folder_that_the_workers_are_told_of(
    publish: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1, idle=2)
    assert poolguard.status.published() == []
    monkeypatch.setenv("POOLGUARD_RUNTIME_DIR", str(folder))
    assert [each["idle"] for each in poolguard.status.published()] == [2]


def test_reading_makes_no_folder(folder: Path) -> None:
    assert board.published(folder) == []
    assert not folder.exists()


def test_whose_the_budgets_slots_are_is_told(dsn: str, postgres: PrivatePostgres) -> None:
    """Guards of one database have one ledger, whatever their names; static ones each their own."""
    settings: list[tuple[str, str | Callable[[], str], str]] = [
        ("a", dsn, "host"),
        ("b", postgres.dsn, "host"),
        ("c", dsn, "static"),
        ("d", lambda: dsn, "host"),
    ]
    with ExitStack() as stack:
        for name, where, ledger in settings:
            stack.enter_context(Guard(where, name=name, budget=9, ledger=ledger))
        until(lambda: [bool(each["ledger"]) for each in board.published()] == [True] * 4)
        ledgers = [each["ledger"] for each in board.published()]
    assert [ledger["kind"] for ledger in ledgers] == ["host", "host", "static", "host"]
    assert len({ledger["name"] for ledger in ledgers[:3]}) == 1
    assert ledgers[0]["name"].startswith("postgres-")
    assert ledgers[3]["name"].startswith("d-")


def test_one_thread_writes_for_all_guards(publish: Callable[..., None], folder: Path) -> None:
    publish("a", name="a")
    publish("b", name="b")
    assert [each["name"] for each in board.published(folder)] == ["a", "b"]
    assert len(writers()) == 1
    board.withdraw("a")
    assert [each["name"] for each in board.published(folder)] == ["b"]
    assert len(writers()) == 1
    board.withdraw("b")
    assert files(folder) == []
    assert writers() == []


def test_what_is_published_again_is_published_once(
    publish: Callable[..., None], folder: Path
) -> None:
    publish("a", floor=1)
    publish("a", floor=2)
    assert [each["floor"] for each in board.published(folder)] == [2]


def test_a_shorter_status_leaves_nothing_of_a_longer_one(folder: Path) -> None:
    said = {"last_error": "x" * 5000}
    board.publish("a", folder, lambda: dict(said))
    try:
        until(lambda: board.published(folder))
        said["last_error"] = "y"
        until(lambda: board.published(folder)[0]["last_error"] == "y")
    finally:
        board.withdraw("a")


def test_the_files_of_a_killed_process_are_swept(
    publish: Callable[..., None], folder: Path, other: subprocess.Popen[str]
) -> None:
    publish("a", name="mine")
    assert [each["name"] for each in board.published(folder)] == ["other", "mine"]
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert len(files(folder)) == 2
    assert [each["name"] for each in board.published(folder)] == ["mine"]
    assert len(files(folder)) == 1


def test_what_does_not_change_is_written_ever_more_rarely(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it does; what another guard has to say is written meanwhile."""
    pauses: list[float] = []
    now = 0.0
    turn, turns = threading.Semaphore(0), threading.Semaphore(0)
    said = {"name": "mine", "used": 0}

    class Told(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            if threading.current_thread().name != "poolguard-status":
                return super().wait(timeout)
            assert timeout is not None
            pauses.append(timeout)
            turns.release()
            assert turn.acquire(timeout=10)
            now += 0 if self.is_set() else timeout
            return self.is_set()

    monkeypatch.setattr(threading, "Event", Told)
    clocks = SimpleNamespace(monotonic=lambda: now, time=lambda: 1e9 + now)
    monkeypatch.setattr(board, "time", clocks)

    def rounds(n: int) -> list[float]:
        for _ in range(n):
            turn.release()
            assert turns.acquire(timeout=10)
        return pauses[-n:]

    board.publish("a", folder, lambda: dict(said))
    try:
        assert turns.acquire(timeout=10)
        assert pauses == [1]
        assert rounds(5) == [2, 4, 8, 10, 10]
        (mine,) = board.published(folder)
        assert mine["due"] == mine["at"] + 10
        said["used"] = 1
        assert rounds(3) == [1, 2, 4]
        board.publish("b", folder, lambda: {"name": "other"})
        assert rounds(4) == [1, 2, 1, 3]  # the other's, twice; its own; the other's
        assert {each["name"] for each in board.published(folder)} == {"mine", "other"}
    finally:
        monkeypatch.undo()
        board.withdraw("a")
        board.withdraw("b")
        for _ in range(3):
            turn.release()


def test_they_are_swept_though_nobody_reads_them(
    publish: Callable[..., None],
    folder: Path,
    other: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board, "PUBLISHED_EVERY", 0.01)
    monkeypatch.setattr(board, "SWEPT_EVERY", 0.01)
    publish("a", name="mine")
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    until(lambda: len(files(folder)) == 1)


def test_who_looks_whether_it_is_locked_hinders_no_publication(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader holds the file, just made, when its owner wants to lock it."""
    make, readers = RuntimeDir.file, []

    def looked_at(self: RuntimeDir, name: str) -> int:
        fd = make(self, name)
        monkeypatch.setattr(RuntimeDir, "file", make)
        readers.append(os.open(folder / name, os.O_RDONLY))
        fcntl.flock(readers[0], fcntl.LOCK_SH)
        return fd

    monkeypatch.setattr(RuntimeDir, "file", looked_at)
    monkeypatch.setattr(board, "PUBLISHED_EVERY", 0.01)
    board.publish("a", folder, lambda: {"name": "mine"})
    try:
        until(lambda: readers)
        os.close(readers[0])
        until(lambda: board.published(folder))
    finally:
        board.withdraw("a")
    assert caplog.records == []


def test_what_a_cleaner_has_deleted_is_published_again(
    publish: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "PUBLISHED_EVERY", 0.01)
    publish("a", name="mine")
    shutil.rmtree(folder)
    until(lambda: board.published(folder))


def test_a_file_that_never_got_its_name_is_swept_once_it_is_old(
    publish: Callable[..., None], folder: Path
) -> None:
    publish("a", name="mine")
    young, old = folder / "1-00000001.status.new", folder / "1-00000002.status.new"
    for path in (young, old):
        path.touch(mode=0o600)
    os.utime(old, (1, 1))
    assert [each["name"] for each in board.published(folder)] == ["mine"]
    assert (young.exists(), old.exists()) == (True, False)


def test_one_who_stopped_is_shown_as_of_when_it_wrote(
    folder: Path, other: subprocess.Popen[str]
) -> None:
    """A worker that hangs still holds its file: how old that is, the reader sees."""
    os.kill(other.pid, signal.SIGSTOP)
    try:
        (first,) = board.published(folder)
        assert board.published(folder) == [first]
    finally:
        os.kill(other.pid, signal.SIGCONT)
    until(lambda: board.published(folder)[0]["at"] > first["at"])


def test_half_a_file_is_not_read(
    publish: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is being written it is read again; whoever died in the middle says nothing."""
    publish("a", name="mine")
    (path,) = folder.iterdir()
    pread = os.pread
    torn = [True]

    def half(fd: int, size: int, offset: int) -> bytes:
        return pread(fd, size // 2 if torn.pop() else size, offset) if torn else b"no"

    monkeypatch.setattr(os, "pread", half)
    torn[:] = [False, True]
    assert [each["name"] for each in board.published(folder)] == ["mine"]
    torn.clear()
    assert board.published(folder) == []
    assert path.exists()


def test_a_forked_child_neither_removes_nor_keeps_what_is_its_parents(
    publish: Callable[..., None], folder: Path
) -> None:
    publish("a", name="mine")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        board.withdraw("a")
        os.write(told, b"%d" % len(board.published(folder)))
        signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"1"
        board.withdraw("a")
        assert files(folder) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_what_others_have_put_there_is_left_alone(
    publish: Callable[..., None], folder: Path, tmp_path: Path
) -> None:
    publish("a", name="mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    (folder / "1-00000000.status").symlink_to(elsewhere)
    (folder / "notes.status").write_text("kept")
    assert [each["name"] for each in board.published(folder)] == ["mine"]
    assert elsewhere.read_text() == "kept"
    assert "notes.status" in files(folder)


def test_a_folder_that_cannot_be_trusted_is_no_reason_not_to_serve(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RuntimeDirError, match="others may enter"):
        board.published(folder)
    with Guard(dsn, ledger="static", budget=2, runtime_dir=folder) as guard:
        assert guard.ready
    assert "a status is not published: the runtime folder" in caplog.text


def test_a_disk_that_is_full_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Semaphore(0)

    def full(*_: object) -> int:
        tried.release()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(board, "PUBLISHED_EVERY", 0.01)
    with caplog.at_level(logging.WARNING):
        board.publish("a", folder, dict)
        for _ in range(3):
            assert tried.acquire(timeout=10)
        board.withdraw("a")
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_the_default_folder_is_the_guards(dsn: str) -> None:
    with Guard(dsn, budget=2):
        until(board.published)
    assert files(rundir.default_path()) != []
