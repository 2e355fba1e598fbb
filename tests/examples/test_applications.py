"""Each application, under real gunicorn, by its own gunicorn.conf.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.sessions import SessionSampler

from ..life.watching import Master, Traffic
from ..support import until
from .applications import APPLICATIONS, WORKERS, Application, insist_that_all_is_there, start
from .conftest import DatabaseOf

each = pytest.mark.parametrize("application", APPLICATIONS, ids=str)


@each
def test_the_first_request_finds_all_that_it_needs(
    application: Application, database_of: DatabaseOf, tmp_path: Path
) -> None:
    """It creates no connection, and asks the server nothing but its own queries: the dialect's
    questions were asked before."""
    application.door.must_exist()
    database = database_of(application)
    ready = {"POOLGUARD_READY_PATH": "/ready"}
    with start(
        application, database.url, tmp_path, options="--workers 1", environ=ready
    ) as running:
        running.until_open(workers=1)
        assert running.ask("GET", "/ready")[0] == 200  # by the middleware: the worker accepts
        insist_that_all_is_there(running, database)
        assert running.ask("GET", application.missing)[0] == 404
        assert running.write() in {201, 202}


@each
def test_no_request_fails_when_the_workers_are_renewed(
    application: Application, database_of: DatabaseOf, postgres: PrivatePostgres, tmp_path: Path
) -> None:
    """HUP under load, writes included: the budget has room for the floors of both generations, and
    not for one more."""
    application.door.must_exist()
    database = database_of(application)
    floor = 2
    budget = 2 * WORKERS * floor + application.tasks
    limits = {"POOLGUARD_BUDGET": str(budget), "POOLGUARD_FLOOR": str(floor)}
    with (
        SessionSampler(postgres.conninfo(), role=database.role, every=0.02) as counted,
        start(application, database.url, tmp_path, environ=limits) as running,
    ):
        running.until_open()
        master = Master(running.server)
        with Traffic(running.server.port, path=application.page) as traffic:
            traffic.until_more()
            old = master.workers()
            master.signal(signal.SIGHUP)
            written = []
            while not (now := master.workers()) or now & old or len(now) < WORKERS:
                written.append(running.write())
            master.until_warm(WORKERS, floor)
            traffic.until_more()
        assert traffic.failed() == [], running.server.said()
        assert set(written) <= {201, 202}, running.server.said()
        assert WORKERS * floor <= counted.peak <= budget, counted.at_peak
        assert {each.application for each in counted.at_peak} == {"poolguard"}
        assert not running.server.lines("Traceback")


def test_a_letter_is_delivered_by_a_task(database_of: DatabaseOf, tmp_path: Path) -> None:
    """Over a connection that its process held before: the budget has room for no other."""
    [application] = [each for each in APPLICATIONS if each.tasks]
    database = database_of(application)
    limits = {"POOLGUARD_BUDGET": str(WORKERS + application.tasks), "POOLGUARD_FLOOR": "1"}
    with start(application, database.url, tmp_path, environ=limits) as running:
        running.until_open()
        before = database.sessions()
        assert len(before) == WORKERS + application.tasks
        assert running.write() == 202
        until(lambda: running.list()[1]["letters"][0]["delivered"] == 1)
        assert database.sessions() == before
