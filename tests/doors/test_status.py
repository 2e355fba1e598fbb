"""``poolguard status`` beside a real gunicorn: its workers, and who came for a dead one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import alive, until

from .conftest import Serve
from .server import GTHREAD


def status(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poolguard", "status", "--runtime-dir", str(folder)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def workers(folder: Path) -> dict[int, dict[str, Any]]:
    """What the workers publish, by pid."""
    told = json.loads(status(folder, "--json").stdout)
    assert told["runtime_dir"] == str(folder)
    return {each["pid"]: each for each in told["workers"]}


def both_ready(folder: Path) -> bool:
    return [each["ready"] for each in workers(folder).values()] == [True, True]


def test_the_workers_of_a_server(serve: Serve, dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    server = serve(
        GTHREAD, dsn, TEST_WORKERS="2", POOLGUARD_BUDGET="10", POOLGUARD_RUNTIME_DIR=str(folder)
    )
    server.get("/query")
    until(lambda: both_ready(folder), within=40)
    told = workers(folder)
    until(lambda: sum(each["acquires"].get("acquired", 0) for each in workers(folder).values()))
    assert {each["worker_class"] for each in told.values()} == {"gthread"}
    assert len({json.dumps(each["ledger"]) for each in told.values()}) == 1

    shown = status(folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [row[:5] for row in rows[1:3]] == [
        [str(pid), "gthread", "yes", "2", "0"] for pid in sorted(told)
    ]
    assert "4 of this instance's 10 slots in use, budget 10\n" in shown.stdout

    killed, survivor = sorted(told)
    os.kill(killed, signal.SIGKILL)
    until(lambda: not alive(killed))
    until(lambda: both_ready(folder), within=40)
    assert killed not in workers(folder)
    assert survivor in workers(folder)
    names = {path.name.partition("-")[0] for path in folder.glob("*.status")}
    assert names == {str(pid) for pid in workers(folder)}

    server.stop()
    shown = status(folder)
    assert (shown.returncode, shown.stderr) == (3, "")
    assert shown.stdout.startswith("no worker runs as this user")
    assert list(folder.glob("*.status")) == []


def test_a_database_that_is_away(serve: Serve, tmp_path: Path) -> None:
    """The workers run, are not ready, and say why: once for all of them."""
    folder = tmp_path / "run"
    nowhere = "postgresql://app:s3cret@127.0.0.1:1/shop"
    serve(
        GTHREAD,
        nowhere,
        TEST_WORKERS="2",
        POOLGUARD_WARMUP_TIMEOUT="0.1",
        POOLGUARD_RUNTIME_DIR=str(folder),
    )
    until(lambda: sum(each["last_error"] is not None for each in workers(folder).values()) == 2, 40)
    shown = status(folder).stdout
    rows = [line.split() for line in shown.splitlines()]
    assert [row[2] for row in rows[1:3]] == ["no", "no"]
    assert "budget   shop: not known yet, slots in use: " in shown
    pids = ", ".join(str(pid) for pid in sorted(workers(folder)))
    assert f"error    {pids}: " in shown
    assert "port 1 failed: Connection refused" in " ".join(shown.split())
    assert "s3cret" not in shown + status(folder, "--json").stdout
