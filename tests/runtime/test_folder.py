"""A guard whose runtime folder cannot be trusted, or used: it serves alone, and says so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from poolguard import Guard
from poolguard.errors import RuntimeDirError
from poolguard.lab.janitor import Janitor
from poolguard.pool.errors import PoolTimeout
from poolguard.util import rundir
from poolguard.util.conninfo_location import ledger_name

from ..doors.server import (
    ASGI,
    GTHREAD,
    Door,
    Server,
)
from ..support import until


def _too_open(path: Path, ledger: str) -> None:
    path.mkdir()
    path.chmod(0o777)


def _file(path: Path, ledger: str) -> None:
    path.write_text("")


def _link_to_nowhere(path: Path, ledger: str) -> None:
    path.symlink_to(path / "nowhere")


def _directory_for_a_ledger(path: Path, ledger: str) -> None:
    (path / ledger).mkdir(0o700, parents=True)
    path.chmod(0o700)


def _link_for_a_ledger(path: Path, ledger: str) -> None:
    path.mkdir(0o700)
    (path / ledger).symlink_to("/etc/passwd")


Put = Callable[[Path, str], None]


async def lent(guard: Guard) -> int:
    """Open it; how many connections it lends at once."""
    held: list[object] = []
    async with AsyncExitStack() as stack:
        with suppress(PoolTimeout):
            if guard.mode == "async":
                stack.push_async_callback(guard.aclose)
                assert await guard.aopen(wait=10)
                while True:
                    held.append(await stack.enter_async_context(guard.aconnection(timeout=0.5)))
            stack.callback(guard.close)
            assert guard.open(wait=10)
            while True:
                held.append(stack.enter_context(guard.connection(timeout=0.5)))
    return len(held)


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        ((_too_open, "others may enter it"), "sync"),
        ((_too_open, "others may enter it"), "async"),
        ((_file, "File exists"), "sync"),
        ((_link_to_nowhere, "File exists"), "async"),
        ((_directory_for_a_ledger, "Is a directory"), "sync"),
        ((_link_for_a_ledger, "Too many levels of symbolic links"), "async"),
    ],
    ids=lambda each: each if isinstance(each, str) else each[0].__name__,
)
def test_it_serves_with_an_equal_part_of_the_budget_and_says_why(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, put: tuple[Put, str], kind: str
) -> None:
    path = tmp_path / "run"
    put_there, said = put
    put_there(path, f"{ledger_name(dsn, 'default')}.ledger")
    guard = Guard(dsn, mode=kind, budget=6, workers=2, runtime_dir=path)
    assert asyncio.run(lent(guard)) == 3
    (warning,) = [each for each in caplog.records if str(path) in each.getMessage()]
    assert said in warning.getMessage()
    assert "POOLGUARD_RUNTIME_DIR" in warning.getMessage()
    assert "\n" not in warning.getMessage()


def test_what_is_no_ledger_is_made_anew(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = rundir.RuntimeDir()
    os.close(folder.file(f"{ledger_name(dsn, 'default')}.ledger"))
    (folder.path / f"{ledger_name(dsn, 'default')}.ledger").write_text("something else")
    folder.close()
    assert asyncio.run(lent(Guard(dsn, mode="sync", budget=4))) == 4
    assert "was no ledger of this version" in caplog.text


def test_without_a_temporary_directory_the_variable_is_named(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeDirError("there is none: set runtime_dir (POOLGUARD_RUNTIME_DIR)")

    monkeypatch.setattr(rundir, "default_path", nowhere)
    with Guard(dsn, mode="sync", budget=4, workers=2) as guard:
        assert guard.ready
    assert "POOLGUARD_RUNTIME_DIR" in caplog.text
    caplog.clear()
    with Guard(dsn, name="static", ledger="static", mode="sync", budget=4, workers=2) as guard:
        assert guard.ready


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_a_folder_that_goes_bad_while_a_worker_is_replaced_costs_a_warning(
    door: Door, dsn: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with Janitor() as janitor:
        server = Server(
            door,
            {"POOLGUARD_RUNTIME_DIR": str(folder), "POOLGUARD_BUDGET": "4"},
            janitor=janitor,
            folder=tmp_path,
            dsn=dsn,
        )
        try:
            until(lambda: server.get("/query").status == 200)
            first = server.processes()
            folder.chmod(0o755)
            for pid in first[1:]:
                os.kill(pid, signal.SIGKILL)
            until(lambda: not set(server.processes()[1:]) & set(first[1:]))
            until(lambda: server.lines("cannot be trusted: others may enter it"))
            assert server.get("/query").status == 200
            assert len(server.lines("cannot be trusted: others may enter it")) == 1
            assert "Traceback" not in server.said()
        finally:
            server.close()
