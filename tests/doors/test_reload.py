"""SIGHUP has gunicorn run its file again: what that makes of the guards, and of a broken file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poolguard.lab.janitor import Janitor

from ..support import until
from .server import ASGI, GTHREAD, Door, Server

CONF = """
from tests.doors.gunicorn_conf import *
import os, poolguard, poolguard.gunicorn

def dsn():
    return os.environ["DATABASE_URL"]

poolguard.Guard(dsn, budget=8, floor={floor})
{more}
poolguard.gunicorn.install(globals())
"""
REPLICA = "poolguard.Guard(os.environ['REPLICA'], name='replica', budget=2, floor=1)"
MIGRATES = """
def on_starting(server):
    with poolguard.Guard(os.environ["REPLICA"], name="migrations", budget=2, mode="sync") as guard:
        with guard.connection() as conn:
            conn.execute("SELECT 1")
"""


class Reloaded:
    """gunicorn with a file of its own, that a test writes anew."""

    def __init__(self, door: Door, janitor: Janitor, folder: Path, dsn: str, replica: str) -> None:
        self.file = folder / "gunicorn.conf.py"
        self._seen: set[int] = set()
        self._floor: Any = 1
        self._more = MIGRATES + REPLICA
        self._write()
        self.server = Server(
            door,
            {"REPLICA": replica},
            janitor=janitor,
            folder=folder,
            dsn=dsn,
            config=str(self.file),
        )

    def _write(self) -> None:
        self.file.write_text(CONF.format(floor=self._floor, more=self._more))

    def reload(self, *, floor: Any = None, more: str | None = None) -> dict[str, Any]:
        """Change the file, send SIGHUP, and wait for another worker: its status."""
        self._floor = self._floor if floor is None else floor
        self._more = self._more if more is None else more
        self._write()
        self._seen.add(self.server.status()["pid"])
        ended = len(self.server.lines("Worker exiting"))
        self.server.process.send_signal(signal.SIGHUP)
        if gunicorn.version_info < (24,):  # its gthread resets what it accepts as it ends
            until(lambda: len(self.server.lines("Worker exiting")) > ended, within=30)
        status: dict[str, Any] = {}

        def renewed() -> bool:
            status.update(self.server.status())
            assert self.server.get("/query").status == 200
            return status["pid"] not in self._seen

        until(renewed, within=30)
        self._seen.add(status["pid"])
        return status


@pytest.fixture(params=[GTHREAD, ASGI], ids=str)
def reloaded(
    request: pytest.FixtureRequest, janitor: Janitor, tmp_path: Path, dsn: str
) -> Iterator[Reloaded]:
    replica = make_conninfo(dsn, application_name="replica")
    found = Reloaded(request.param, janitor, tmp_path, dsn, replica)
    yield found
    found.server.close()


def test_the_guards_are_those_of_the_file_as_it_is_now(
    reloaded: Reloaded, admin: psycopg.Connection
) -> None:
    """Unchanged, edited, with one less, and broken in three ways: the service goes on."""

    def replicas() -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'replica'"
        row = admin.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    assert reloaded.server.get("/query").status == 200
    until(lambda: replicas() == 1 or reloaded.server.door.is_async)
    assert reloaded.reload()["floor"] == 1
    assert reloaded.reload(floor=2, more="")["floor"] == 2
    until(lambda: replicas() == 0)
    assert reloaded.reload(floor=3)["floor"] == 3
    for floor in ("3, no_such_setting=1", "3, 4", "9"):  # of ours, of Python's, of arithmetic's
        assert reloaded.reload(floor=floor)["floor"] == 3
    assert len(reloaded.server.lines("the new configuration is not used")) >= 3
    assert reloaded.reload(floor=1)["floor"] == 1
    assert reloaded.server.process.poll() is None
