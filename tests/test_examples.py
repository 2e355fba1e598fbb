"""The examples run as they stand, under real gunicorn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from gunicorn.config import Config

from poolguard.lab.janitor import Janitor
from poolguard.lab.server import listen

from .doors.server import ASGI

EXAMPLES = Path(__file__).parent.parent / "examples"
# gunicorn has no control socket before 25.1, and refuses options that it does not know.
NO_CONTROL_SOCKET = ["--no-control-socket"] if "control_socket" in Config().settings else []


@pytest.mark.parametrize("name", ["wsgi", "asgi"])
def test_an_example_serves_from_a_warm_pool(name: str, dsn: str, tmp_path: Path) -> None:
    """Its own gunicorn.conf.py and app.py, nothing else: the first request creates nothing."""
    if name == "asgi":
        ASGI.must_exist()
    with Janitor() as janitor, listen() as listener:
        gunicorn = janitor.spawn(
            [
                sys.executable,
                *("-m", "gunicorn", *NO_CONTROL_SOCKET),
                *("--bind", f"fd://{listener.fileno()}", "app:app"),
            ],
            as_group=True,
            cwd=EXAMPLES / name,
            env={**os.environ, "DATABASE_URL": dsn, "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run")},
            pass_fds=(listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        connection = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=30)
        connection.request("GET", "/")
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        gunicorn.terminate()
        assert gunicorn.wait(10) == 0
    assert response.status == 200
    assert answer["pool"]["ready"] is True
    assert answer["pool"]["acquires"] == {"acquired": 1}
    assert answer["pool"]["created"] == {"warmup": answer["pool"]["floor"]}
