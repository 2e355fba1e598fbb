"""A guard whose runtime folder cannot be trusted, or used: one clear error, wherever it opens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from poolguard import Guard, rundir
from poolguard.conninfo import ledger_name
from poolguard.errors import RuntimeDirError
from poolguard.lab.janitor import Janitor

from .doors.server import ASGI, GTHREAD, Door, Server


async def opening(guard: Guard) -> None:
    """Open it, and wait for what comes of it."""
    if guard.mode == "async":
        await guard.aopen(wait=10)
    else:
        guard.open(wait=10)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder that others may enter."""
    path = tmp_path / "hostile"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hostile_folder_is_one_clear_error(dsn: str, hostile: Path, kind: str) -> None:
    guard = Guard(dsn, mode=kind, budget=4, runtime_dir=hostile)
    with pytest.raises(RuntimeDirError, match=r"cannot be trusted: others may enter it"):
        asyncio.run(opening(guard))
    assert not guard.ready


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_is_no_ledger_is_one_clear_error_and_leaves_nothing_open(dsn: str, kind: str) -> None:
    folder = rundir.RuntimeDir()
    os.close(folder.file(f"{ledger_name(dsn, 'default')}.ledger"))
    (folder.path / f"{ledger_name(dsn, 'default')}.ledger").write_text("something else")
    folder.close()
    guard = Guard(dsn, mode=kind, budget=4)

    def fail() -> None:
        with pytest.raises(RuntimeDirError, match="is no ledger of this version"):
            asyncio.run(opening(guard))
        guard.close()

    fail()
    before = os.listdir("/dev/fd")
    for _ in range(3):
        fail()
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("door", [GTHREAD, ASGI], ids=str)
def test_a_hostile_folder_ends_gunicorn_with_one_line(
    door: Door, dsn: str, hostile: Path, tmp_path: Path
) -> None:
    with Janitor() as janitor:
        server = Server(
            door,
            {"POOLGUARD_RUNTIME_DIR": str(hostile)},
            janitor=janitor,
            folder=tmp_path,
            dsn=dsn,
        )
        try:
            assert server.wait() != 0
            assert len(server.lines("cannot be trusted: others may enter it")) == 1
            assert "Traceback" not in server.said()
        finally:
            server.close()
