"""The examples run as they stand, under real gunicorn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from gunicorn.config import Config

from poolguard.lab.janitor import Janitor
from poolguard.lab.server import listen
from tests.backend import tracing_backend

from .doors.server import ASGI

EXAMPLES = Path(__file__).parent.parent / "examples"
# gunicorn has no control socket before 25.1, and refuses options that it does not know.
NO_CONTROL_SOCKET = ["--no-control-socket"] if "control_socket" in Config().settings else []


@contextmanager
def serving(name: str, **environ: str) -> Iterator[int]:
    """An example's own gunicorn.conf.py and app.py, nothing else; yields the port."""
    with Janitor() as janitor, listen() as listener:
        gunicorn = janitor.spawn(
            [
                sys.executable,
                *("-m", "gunicorn", *NO_CONTROL_SOCKET),
                *("--bind", f"fd://{listener.fileno()}", "app:app"),
            ],
            as_group=True,
            cwd=EXAMPLES / name,
            env={**os.environ, **environ},
            pass_fds=(listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield listener.getsockname()[1]
        gunicorn.terminate()
        assert gunicorn.wait(10) == 0


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


@pytest.mark.parametrize("name", ["wsgi", "asgi"])
def test_an_example_serves_from_a_warm_pool(name: str, dsn: str, tmp_path: Path) -> None:
    """The first request creates nothing."""
    if name == "asgi":
        ASGI.must_exist()
    with serving(name, DATABASE_URL=dsn, POOLGUARD_RUNTIME_DIR=str(tmp_path / "run")) as port:
        status, body = get(port, "/")
    answer = json.loads(body)
    assert status == 200
    assert answer["pool"]["ready"] is True
    assert answer["pool"]["acquires"] == {"acquired": 1}
    assert answer["pool"]["created"] == {"warmup": answer["pool"]["floor"]}


def test_the_tracing_example_tells_who_waited(slow_dsn: str, tmp_path: Path) -> None:
    """Its spans reach files, which ``poolguard trace`` reads, and a backend that is named."""
    with (
        tracing_backend() as backend,
        serving(
            "tracing",
            DATABASE_URL=slow_dsn,
            POOLGUARD_RUNTIME_DIR=str(tmp_path / "run"),
            POOLGUARD_FLOOR="1",
            POOLGUARD_MAX_SIZE="3",
            SPANS=str(tmp_path),
            OTEL_EXPORTER_OTLP_ENDPOINT=backend.url,
        ) as port,
        ThreadPoolExecutor(20) as crowd,
    ):
        assert get(port, "/")[0] == 200
        answers = list(crowd.map(lambda _: get(port, "/report")[0], range(20)))
    assert answers == [200] * 20
    files = sorted(map(str, tmp_path.glob("spans-*.jsonl")))
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "poolguard", "trace", "--json", "--slowest", "30", *files],
        capture_output=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["services"] == ["reports"]
    assert told["requests"] == sum(told["outcomes"].values()) == 21
    assert told["outcomes"]["waited"] > 0
    assert told["outcomes"]["created"] > 0
    assert 0 < told["share"] < 1
    assert [route["route"] for route in told["routes"]] == ["/report", "/"]
    for request in told["slowest"]:
        names = [span["name"] for span in request["spans"]]
        assert names[:2] == ["GET", "pool.acquire"]
        assert ("pool.connect" in names) == (request["outcome"] == "created")
    assert len(backend.span_ids) == told["read"]["spans"]
    assert backend.services == {"reports"}
