"""What holds in each framework under each worker class that suits it, by the example of each.

``pytest -m matrix -n 2`` prints a table of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

import pytest

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.lab.sessions import SessionSampler

from ..doors.server import UVICORN, Door
from ..examples.applications import (
    APPLICATIONS,
    WITHIN,
    WORKERS,
    Application,
    Database,
    Running,
    insist_that_all_is_there,
    start,
)
from ..examples.conftest import DatabaseOf, database_of
from ..life.table import held
from ..life.watching import Master, Traffic
from ..support import until

__all__ = ["database_of"]

FLOOR = 2
PATIENT = MappingProxyType({"POOLGUARD_FLOOR": str(FLOOR), "POOLGUARD_CONNECT_TIMEOUT": "2"})


@dataclass(frozen=True)
class Setup:
    """An application under a worker class."""

    application: Application
    door: Door

    def __str__(self) -> str:
        return f"{self.application.name.removesuffix('_app')} {self.door}"

    @property
    def lends(self) -> str:
        """Which of the server's locks keeps :attr:`Application.page` waiting."""
        return {
            "django_app": "shop_product",
            "flask_app": "books",
            "fastapi_app": "note",
            "starlette_app": "links",
        }[self.application.name]


def _setups() -> Iterator[Setup]:
    known = {each.name: each for each in APPLICATIONS}
    for name in ("django_app", "flask_app"):
        for worker_class, threads in (("sync", 1), ("gthread", 4), ("gevent", 1)):
            yield Setup(known[name], Door(worker_class, "", threads=threads))
    for name, app in (("django_app", "config.asgi"), ("fastapi_app", ""), ("starlette_app", "")):
        yield Setup(known[name], Door("asgi", app, since=24))
        yield Setup(known[name], Door("uvicorn_worker.UvicornWorker", app))


class Stage:
    """A setup, its database behind a network of its own, and how to run it there."""

    def __init__(
        self, setup: Setup, database: Database, postgres: PrivatePostgres, folder: Path
    ) -> None:
        self.setup = setup
        self.database = database
        self.postgres = postgres
        self._folder = folder

    @contextmanager
    def running(
        self, budget: int, *, workers: int = WORKERS, url: str | None = None, **environ: str
    ) -> Iterator[Running]:
        """While the block runs; afterwards the budget was kept."""
        door = self.setup.door
        options = f"--worker-class {door.worker_class} --threads {door.threads}"
        with (
            SessionSampler(
                self.postgres.conninfo(), role=self.database.role, every=0.02
            ) as counted,
            start(
                self.setup.application,
                url or self.database.url,
                self._folder,
                options=f"{options} --workers {workers}",
                door=door,
                environ={**PATIENT, "POOLGUARD_BUDGET": str(budget), **environ},
            ) as running,
        ):
            try:
                yield running
            except AssertionError as error:
                raise AssertionError(f"{error}\n{running.server.said()}") from error
        assert counted.peak <= budget, counted.at_peak
        assert {each.application for each in counted.at_peak} == {"poolguard"}, counted.at_peak

    def logged(self, running: Running) -> str:
        """For the table: whether what poolguard answers with 503 is logged with tracebacks."""
        return ", tracebacks" if running.server.lines("Traceback") else ""

    def refused(self, traffic: Traffic) -> list[str]:
        door = UVICORN if "Uvicorn" in self.setup.door.worker_class else self.setup.door
        return traffic.refused(door)


def boot(stage: Stage) -> str:
    """The first request creates no connection and asks nothing but its own."""
    began = monotonic()
    with stage.running(FLOOR, workers=1, POOLGUARD_READY_PATH="/ready") as running:
        running.until_open(workers=1)
        assert running.ask("GET", "/ready")[0] == 200
        took = monotonic() - began
        assert len(stage.database.sessions()) == FLOOR
        insist_that_all_is_there(running, stage.database)
    return f"{took:.1f} s"


def reload(stage: Stage) -> str:
    """HUP under load: no request fails."""
    with stage.running(2 * WORKERS * FLOOR) as running:
        running.until_open()
        master = Master(running.server)
        with Traffic(running.server.port, path=stage.setup.application.page) as traffic:
            traffic.until_more()
            old = master.workers()
            master.signal(signal.SIGHUP)
            written = []
            until(lambda: master.workers() - old, within=WITHIN)
            while master.workers() & old or len(master.workers()) < WORKERS:
                written.append(running.write())
            master.until_warm(WORKERS, FLOOR)
            traffic.until_more()
        assert stage.refused(traffic) == []
        assert set(written) <= {201}
        assert not running.server.lines("Traceback")
    return f"stall {traffic.stall():.1f} s"


def away(stage: Stage) -> str:
    """The database is away for a while: requests fail, then go on in the same workers."""
    target = ("127.0.0.1", stage.postgres.port)
    with SlowProxy(target, connect_delay=0) as proxy:
        url = stage.database.url.replace(f":{stage.postgres.port}/", f":{proxy.port}/")
        with stage.running(WORKERS * FLOOR, url=url, POOLGUARD_ACQUIRE_TIMEOUT="1") as running:
            running.until_open()
            master = Master(running.server)
            workers = master.workers()
            assert running.list()[0] == 200
            proxy.refuse()
            proxy.reset_all()
            failed = {running.list()[0] for _ in range(4)}
            assert failed <= {500, 503}
            assert 503 in failed
            proxy.resume()
            began = monotonic()
            until(lambda: running.list()[0] == 200, within=WITHIN)
            took = monotonic() - began
            assert {running.list()[0] for _ in range(8)} == {200}
            assert master.workers() == workers
            logged = stage.logged(running)
    return f"{' '.join(map(str, sorted(failed)))}, back in {took:.1f} s{logged}"


def overload(stage: Stage) -> str:
    """More requests than connections: 503, and when to come again."""
    if stage.setup.door.worker_class == "sync":
        return "one at a time"
    limits = {"POOLGUARD_FLOOR": "1", "POOLGUARD_MAX_SIZE": "1"}
    limits["POOLGUARD_ACQUIRE_TIMEOUT"] = "0.3"
    with (
        stage.running(1, workers=1, **limits) as running,
        stage.postgres.connect(dbname=stage.database.role) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        running.until_open(workers=1)
        assert running.list()[0] == 200
        with admin.transaction():
            admin.execute(f"LOCK TABLE {stage.setup.lends}")
            held_up = pool.submit(running.list)
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            until(lambda: admin.execute(waits).fetchone() == (1,))
            status, _, headers = running.answer("GET", stage.setup.application.page)
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        assert held_up.result()[0] == 200
        assert running.list()[0] == 200
        logged = stage.logged(running)
    return f"503{logged}"


def killed(stage: Stage) -> str:
    """``kill -9`` of a worker under load: the next one has its slots, since no others are left."""
    with stage.running(WORKERS * FLOOR) as running:
        running.until_open()
        master = Master(running.server)
        with Traffic(running.server.port, path=stage.setup.application.page) as traffic:
            traffic.until_more()
            old = min(master.workers())
            os.kill(old, signal.SIGKILL)
            began = monotonic()
            until(lambda: len(master.workers() - {old}) == WORKERS, within=WITHIN)
            master.until_warm(WORKERS, FLOOR)
            took = monotonic() - began
            traffic.until_more()
        failed = len(traffic.failed())
        assert failed <= 2, traffic.failed()  # those that it was answering, or had accepted
        assert not running.server.lines("Traceback")
    return f"warm in {took:.1f} s, {failed} cut"


EVENTS: list[Callable[[Stage], str]] = [boot, reload, away, overload, killed]


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("setup", [*_setups()], ids=lambda setup: str(setup).replace(" ", "-"))
def test_each_framework_holds_what_is_promised(
    setup: Setup,
    event: Callable[[Stage], str],
    database_of: Any,
    postgres: PrivatePostgres,
    tmp_path: Path,
) -> None:
    """See the function of that name."""
    setup.door.must_exist()
    if setup.door.worker_class == "gevent":
        pytest.importorskip("gevent")
    find: DatabaseOf = database_of
    key = (str(setup), event.__name__)
    held[key] = "FAILED"
    held[key] = event(Stage(setup, find(setup.application), postgres, tmp_path))
