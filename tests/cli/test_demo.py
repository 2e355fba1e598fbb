"""``poolguard demo`` as a user runs it: what it prints when it cannot go on, and what it leaves.

The whole story is told by ``.ci/run``, which runs the README's own command and judges its figures.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from poolguard.lab.processes import descendants, processes
from tests.support import alive, until


class Demo:
    """One run of the demo, with a temporary folder of its own to look through afterwards."""

    def __init__(self, folder: Path, *options: str, **environ: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolguard", "demo", "--quick", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **environ},
        )
        self.family: set[int] = set()

    def wait_for(self, words: str) -> None:
        """Read its progress until a line has *words*, and remember all it has started."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                self.family = descendants([self.process.pid], processes())
                return
        raise AssertionError(f"it never said {words!r}: {self.process.communicate()[1]}")

    def end(self) -> tuple[int, str]:
        """Its exit status and what it wrote to standard error."""
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors

    def left_behind(self) -> list[object]:
        """Living processes and files."""
        return [*filter(alive, self.family), *self.folder.iterdir()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A temporary folder that a server's socket path and another user could both use."""
    tmp_path.chmod(0o755)
    return tmp_path


def _postmaster(demo: Demo) -> int:
    """The pid of the private server: the one that the others of that name descend from."""
    named = {pid for pid in demo.family if _name(pid) == "postgres"}
    table = processes()
    return next(pid for pid in named if table[pid].parent not in named)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_the_database_ends_in_the_middle(folder: Path) -> None:
    """One line that says so, exit status 1, and nothing stays."""
    demo = Demo(folder)
    demo.wait_for("steady day")
    os.kill(_postmaster(demo), signal.SIGKILL)
    status, errors = demo.end()
    assert status == 1
    assert errors.startswith("poolguard: the private PostgreSQL ended in the middle of the demo")
    assert len(errors.splitlines()) == 1
    until(lambda: not demo.left_behind())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_however_it_is_ended(folder: Path, how: signal.Signals) -> None:
    """Server, proxy, gunicorn, its workers and every file are gone, without a traceback."""
    demo = Demo(folder)
    demo.wait_for("cold start")
    assert len(demo.family) > 5
    demo.process.send_signal(how)
    status, errors = demo.end()
    assert "Traceback" not in errors
    if how is signal.SIGINT:
        assert (status, errors) == (130, "poolguard: stopped\n")
    until(lambda: not demo.left_behind(), within=20)


def _run(*arguments: str, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "poolguard", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND. See poolguard --help"),
        (["dmo"], "invalid choice: 'dmo'"),
        (
            ["demo", "--quik"],
            "poolguard demo: unrecognized arguments: --quik. See poolguard demo --help",
        ),
        (["demo", "--port", "99999"], "'99999' is no port: name one from 1 to 65535"),
        (["demo", "--otlp", "backend"], "'backend' is no URL of a tracing backend: give one like"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], says: str) -> None:
    """It names the value and what to do, and exits with 2 as is the custom."""
    status, errors = _run(*arguments)
    assert status == 2
    assert says in errors
    assert len(errors.splitlines()) == 1


def test_a_port_in_use() -> None:
    """Named, with the remedy, before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, errors = _run("demo", "--port", str(port))
    assert status == 1
    assert errors.startswith(f"poolguard: port {port} on 127.0.0.1 cannot be used")
    assert "--port" in errors
    assert len(errors.splitlines()) == 1


def test_no_binaries() -> None:
    """Where PostgreSQL is looked for in vain, the remedy is in the same line."""
    status, errors = _run("demo", POOLGUARD_PG_BIN="/nowhere")
    assert status == 1
    assert "POOLGUARD_PG_BIN='/nowhere'" in errors
    assert len(errors.splitlines()) == 1


def test_a_tracing_backend_that_is_not_there() -> None:
    """Said before the story, not after it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    status, errors = _run("demo", "--otlp", f"http://127.0.0.1:{port}")
    assert status == 1
    assert f"nothing answers at 127.0.0.1:{port}" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_file_that_cannot_be_written(option: str, tmp_path: Path) -> None:
    """Said before the story, not after it."""
    status, errors = _run("demo", option, str(tmp_path / "missing" / "file"))
    assert status == 1
    assert f"there is no folder {tmp_path / 'missing'}. Make it first" in errors
    assert len(errors.splitlines()) == 1
