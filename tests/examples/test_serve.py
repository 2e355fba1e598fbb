"""``python examples/serve.py NAME``: one command that runs an example and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from time import sleep

import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.processes import Identity, descendants, processes
from poolguard.lab.server import listen

from ..doors.server import ROOT
from ..life.watching import free_port
from ..support import until
from .applications import APPLICATIONS, WITHIN, Application
from .conftest import DatabaseOf

SERVE = ROOT / "examples" / "serve.py"
[STARLETTE] = [each for each in APPLICATIONS if each.name == "starlette_app"]
APART = [
    pytest.param(each, marks=[] if each is STARLETTE else pytest.mark.long, id=each.name)
    for each in APPLICATIONS
]


class Command:
    """The command, being run."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def said(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> int:
        """The status; waits for a worker to answer."""
        for _ in range(int(WITHIN / 0.1)):
            assert self.process.poll() is None, self.said()
            connection = HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
            with closing(connection), suppress(ConnectionError):
                connection.request("GET", path)
                return connection.getresponse().status
            sleep(0.1)
        raise AssertionError(f"no answer\n{self.said()}")

    def its(self) -> set[Identity]:
        """All processes that it has begun, and those that they have."""
        table = processes()
        return {table[pid].identity for pid in descendants([self.process.pid], table)}


@contextmanager
def serving(name: str, folder: Path, **environ: str) -> Iterator[Command]:
    """Runs it while the block runs, with *folder* for temporary files."""
    port = free_port()
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("POOLGUARD_R", "GUNICORN_")) and key != "DATABASE_URL"
    }
    log = folder.with_name("said")
    with Janitor() as janitor, log.open("wb") as out:
        process = janitor.spawn(
            [sys.executable, SERVE, name, "--port", str(port)],
            as_group=True,
            cwd=folder,
            env={**inherited, "TMPDIR": str(folder), "HOME": str(folder), **environ},
            stdout=out,
            stderr=out,
        )
        yield Command(process, port, log)
        process.kill()
        process.wait()


@pytest.mark.parametrize("application", APART)
def test_one_command_runs_it_and_ctrl_c_leaves_nothing(
    application: Application, tmp_path: Path
) -> None:
    """No process, and no file: neither the database's, nor the broker's, nor gunicorn's."""
    application.door.must_exist()
    folder = tmp_path / "tmp"
    folder.mkdir()
    with serving(application.name, folder) as command:
        assert command.get(application.page) == 200
        begun = command.its()
        folders = {Path(os.readlink(f"/proc/{pid}/cwd")) for pid, _ in begun}
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(WITHIN) == 0, command.said()
        said = command.said()
        # The janitor of what was started is a process of the command's as well.
        until(lambda: not begun & {row.identity for row in processes().values()})
    assert f"http://127.0.0.1:{command.port}{application.page}" in said
    assert "Traceback" not in said
    assert [*folder.iterdir()] == []
    data = [each for each in folders if each.name == "data"]
    assert data
    assert not any(each.exists() for each in data)
    assert len(re.findall("Starting gunicorn", said)) == 1


def test_a_database_that_is_named_is_used(database_of: DatabaseOf, tmp_path: Path) -> None:
    """What was written into it stays there, and SIGTERM ends the command as Ctrl-C does."""
    database = database_of(STARLETTE)
    folder = tmp_path / "tmp"
    folder.mkdir()
    with serving(STARLETTE.name, folder, DATABASE_URL=database.url) as command:
        assert command.get(STARLETTE.page) == 200
        assert database.sessions()
        command.process.terminate()
        assert command.process.wait(WITHIN) == 0, command.said()
    assert database.sessions() == set()
    assert [*folder.iterdir()] == []


def test_a_worker_that_cannot_boot_ends_the_command(tmp_path: Path) -> None:
    """And all that it had started, with a status that says so."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    with serving(STARLETTE.name, folder, POOLGUARD_BUDGET="none") as command:
        assert command.process.wait(WITHIN) == 1
    assert "POOLGUARD_BUDGET" in command.said()
    assert "serve.py: it has ended" in command.said()
    assert [*folder.iterdir()] == []


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, and without what leads to the tests' own poolguard."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN,
    )


def test_a_port_that_is_taken_is_one_line() -> None:
    """Before anything is started."""
    with listen() as listener:
        port = str(listener.getsockname()[1])
        done = run(SERVE, "starlette_app", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"serve.py: port {port} on 127.0.0.1 is in use: name another with --port\n"
    )


@pytest.mark.parametrize("application", APPLICATIONS, ids=str)
def test_what_is_not_installed_is_one_line_that_says_what_to_install(
    application: Application,
) -> None:
    """As its README has it."""
    done = run("-S", SERVE, application.name)  # no site-packages: nothing is installed
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    found = re.fullmatch(r"serve.py: poolguard, .* cannot be imported: pip install (.*)", line)
    assert found is not None
    readme = (application.folder / "README.md").read_text()
    assert f"pip install {found[1]} &&" in readme
    assert f"examples/serve.py {application.name}`" in readme
    assert len(readme.splitlines()) == 5
