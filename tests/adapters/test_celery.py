"""Celery beside a service: its tasks' connections are in the same budget.

The ledger is the host's, and a process needs no more than ``with Guard(…)``, or ``open()`` and
``close()``, to take part.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.processes import processes
from tests.doors.conftest import Serve, backends, janitor, serve
from tests.doors.server import GTHREAD, ROOT, SYNC, Server
from tests.support import until

__all__ = ["backends", "janitor", "serve"]

Start = Callable[..., Any]
Backends = Callable[[str], list[int]]


def end(worker: subprocess.Popen[bytes]) -> None:
    """End what the test has left of it, without ceremony."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


@pytest.fixture
def start(
    janitor: Janitor, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts Celery's worker beside a service; returns the task, as a client sees it."""
    with ExitStack() as ending:

        def start(service: Server, pool: str, concurrency: int, budget: int) -> Any:
            environ = {
                "TEST_CELERY": str(tmp_path / "celery"),
                "TEST_CELERY_POOL": pool,
                "DATABASE_URL": dsn,
                "POOLGUARD_RUNTIME_DIR": str(service.runtime_dir),
                "POOLGUARD_BUDGET": str(budget),
            }
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            log = ending.enter_context((tmp_path / "celery.log").open("wb"))
            worker = janitor.spawn(
                [
                    sys.executable,
                    *("-m", "celery", "-A", "tests.adapters.celery_app", "--quiet", "worker"),
                    *("--pool", pool, "--concurrency", str(concurrency), "--loglevel", "WARNING"),
                    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
                ],
                as_group=True,
                cwd=ROOT,
                env=dict(os.environ),
                stdout=log,
                stderr=log,
            )
            ending.callback(end, worker)
            monkeypatch.delitem(sys.modules, "tests.adapters.celery_app", raising=False)
            tasks: Any = import_module("tests.adapters.celery_app")
            tasks.worker = worker
            return tasks

        yield start


def children(pid: int) -> list[int]:
    """The processes that it has forked and not lost."""
    return [row.pid for row in processes().values() if row.parent == pid and not row.zombie]


def asleep(admin: psycopg.Connection) -> list[Any]:
    """The server's processes that are at a task's query now."""
    admin.autocommit = True
    return admin.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'celery' AND state = 'active' "
        "AND query LIKE '%pg_sleep%'"
    ).fetchall()


def test_a_child_that_is_killed_gives_back_what_it_had(
    serve: Serve, start: Start, dsn: str, admin: psycopg.Connection
) -> None:
    """The server ends its query, and the child in its place finds room for a connection."""
    service = serve(SYNC, dsn, POOLGUARD_BUDGET="2", POOLGUARD_FLOOR="1")
    service.get("/query")
    tasks = start(service, "prefork", concurrency=1, budget=2)
    tasks.ask(60)
    until(lambda: asleep(admin), within=20)  # it is at its task: Celery cannot lose others
    assert service.status()["budget"]["in_use"] == 2
    [child] = children(tasks.worker.pid)
    os.kill(child, signal.SIGKILL)
    until(lambda: not asleep(admin))
    after = tasks.ask(0).get(timeout=20, interval=0.05)
    assert after["pid"] != child
    assert after["in_use"] <= 2


@pytest.mark.matrix
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_all_that_stands_is_within_the_budget(
    serve: Serve, start: Start, dsn: str, backends: Backends, pool: str
) -> None:
    """Under load from both sides, which each alone would take all of it; and none is left."""
    environ = {"POOLGUARD_BUDGET": "4", "POOLGUARD_ACQUIRE_TIMEOUT": "30"}
    service = serve(GTHREAD, dsn, TEST_SLEEP="0.1", **environ)
    tasks = start(service, pool, concurrency=4, budget=4)
    peak: Counter[str] = Counter()
    tasks.ask(0).get(timeout=30, interval=0.05)
    with ThreadPoolExecutor(8) as requests:
        answers = [requests.submit(service.get, "/sleep") for _ in range(40)]
        asked = [tasks.ask(0.1) for _ in range(20)]
        while not all(each.ready() for each in asked):
            standing = Counter({name: len(backends(name)) for name in ("celery", "poolguard")})
            peak |= standing + Counter(all=standing.total())
    assert {each.result().status for each in answers} == {200}
    assert all(each.get()["in_use"] <= 4 for each in asked)
    assert peak["celery"] >= 1
    assert peak["poolguard"] >= 1
    assert peak["all"] <= 4
    tasks.worker.send_signal(signal.SIGTERM)
    assert tasks.worker.wait(30) == 0
    until(lambda: not backends("celery"))
