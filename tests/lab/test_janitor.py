"""The janitor keeps its promises however its owner ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.processes import descendants, processes
from tests.support import alive, until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)",
]
# A gunicorn in small: a master that dies of SIGTERM and a worker that does not.
FAMILY = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "signal.signal(signal.SIGTERM, signal.SIG_DFL);"
    "print(worker.pid, flush=True); time.sleep(600)",
]


@contextlib.contextmanager
def started(argv: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process of our own and its first line; killed at the end, in case the janitor failed."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().decode().strip()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def test_ends_what_it_watches_and_deletes_what_it_was_told(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "file").write_text("x")
    with started(SLEEPER) as (process, _):
        with Janitor() as janitor:
            janitor.watch(process.pid)
            janitor.remove(folder)
            assert process.poll() is None
            assert folder.exists()
        assert process.wait(1) == -signal.SIGTERM
        assert not folder.exists()


def test_sends_the_signal_that_was_asked_for() -> None:
    with started(SLEEPER) as (process, _):
        with Janitor() as janitor:
            janitor.watch(process.pid, signal=signal.SIGUSR1)
        assert process.wait(1) == -signal.SIGUSR1


def test_what_is_forgotten_lives_on() -> None:
    with started(SLEEPER) as (process, _):
        with Janitor() as janitor:
            janitor.watch(process.pid)
            janitor.forget(process.pid)
            janitor.forget(process.pid)
        assert process.poll() is None


def test_kills_what_ignores_its_signal_only_after_the_grace() -> None:
    with started(STUBBORN) as (process, _):
        began = time.monotonic()
        with Janitor(grace=0.3) as janitor:
            janitor.watch(process.pid)
        assert process.wait(1) == -signal.SIGKILL
        assert time.monotonic() - began >= 0.3


def test_a_group_is_ended_to_its_last_member() -> None:
    with started(FAMILY) as (process, worker):
        with Janitor(grace=0.3) as janitor:
            janitor.watch(process.pid, group=True)
        assert process.wait(1) == -signal.SIGTERM
        assert not alive(int(worker))


def test_a_group_whose_leader_is_dead_is_ended_all_the_same() -> None:
    with started(FAMILY) as (process, worker):
        with Janitor(grace=0.3) as janitor:
            janitor.watch(process.pid, group=True)
            process.kill()
            process.wait(5)
            assert alive(int(worker))
        assert not alive(int(worker))


def test_a_process_that_took_a_dead_ones_pid_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    from poolguard.lab import janitor as module

    with started(SLEEPER) as (process, _):
        watched = module._Watched(process.pid, signal.SIGTERM, group=True)
        table = processes()
        later = table[process.pid]._replace(started="later")
        watched.end({**table, process.pid: later})
        assert watched.alive({**table, process.pid: later}) == set()
        watched.close()
        assert process.poll() is None


def test_a_spawned_program_runs_with_its_output_and_ends_with_the_janitor() -> None:
    with Janitor() as janitor:
        short = janitor.spawn(["/bin/echo", "two  words"], stdout=subprocess.PIPE)
        with short:
            assert short.communicate(timeout=5)[0] == b"two  words\n"
        process = janitor.spawn(["/bin/sleep", "600"])
        until(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0])
    assert process.wait(1) == -signal.SIGTERM


def test_folder_is_private_and_goes_at_the_end(tmp_path: Path) -> None:
    with Janitor() as janitor:
        folder = janitor.folder(tmp_path)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.parent == tmp_path
    assert not folder.exists()


def test_signals_do_not_stop_it(tmp_path: Path) -> None:
    with Janitor() as janitor:
        janitor.remove(tmp_path / "a")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(janitor.pid, number)
        janitor.remove(tmp_path / "b")


def test_holds_no_descriptor_but_its_own_and_no_folder() -> None:
    with Janitor() as janitor:
        janitor.forget(0)
        assert os.readlink(f"/proc/{janitor.pid}/cwd") == "/"
        assert {int(fd) for fd in os.listdir(f"/proc/{janitor.pid}/fd")} == {0, 1, 2}


def test_a_dead_janitor_is_reported() -> None:
    with Janitor() as janitor:
        os.kill(janitor.pid, signal.SIGKILL)
        until(lambda: not alive(janitor.pid))
        with pytest.raises(LabError, match="start another"):
            janitor.watch(os.getpid())


def test_a_forked_child_neither_keeps_it_alive_nor_uses_it() -> None:
    with started(SLEEPER) as (process, _):
        reader, writer = os.pipe()
        janitor = Janitor()
        janitor.watch(process.pid)
        child = os.fork()
        if child == 0:
            try:
                janitor.forget(process.pid)
            except LabError:
                os.write(writer, b"refused")
            signal.pause()
            os._exit(0)
        assert os.read(reader, 100) == b"refused"
        janitor.close()
        assert process.wait(1) == -signal.SIGTERM
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_owners_death_is_enough(tmp_path: Path, number: signal.Signals) -> None:
    owner = (
        "import signal, sys, time\n"
        "from poolguard.lab.janitor import Janitor\n"
        "janitor = Janitor()\n"
        "folder = janitor.folder(sys.argv[1])\n"
        "process = janitor.spawn(['/bin/sleep', '600'])\n"
        "print(janitor.pid, process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    argv = [sys.executable, "-c", owner, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        janitor, sleeper = map(int, process.stdout.readline().split())
        assert alive(sleeper)
        assert list(tmp_path.iterdir())
        process.send_signal(number)
    until(lambda: not alive(janitor))
    assert not alive(sleeper)
    assert not list(tmp_path.iterdir())


def test_an_owner_that_died_before_it_read_its_answer_is_dead_too(tmp_path: Path) -> None:
    """The kernel then reports a broken connection and not its end."""
    folder = tmp_path / "folder"
    folder.mkdir()
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-m", "poolguard.lab.janitor", "5"]
    with subprocess.Popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno()) as process:
        theirs.close()
        ours.sendall(
            json.dumps({"number": 0, "do": "remove", "path": str(folder)}).encode() + b"\n"
        )
        assert ours.recv(1, socket.MSG_PEEK)
        ours.close()
        assert process.wait(10) == 0
    assert not folder.exists()


def test_descendants_are_found_at_any_depth() -> None:
    with started(FAMILY) as (process, worker):
        table = processes()
        assert descendants([process.pid], table) == {int(worker)}
        assert {process.pid, int(worker)} <= descendants([os.getpid()], table)
