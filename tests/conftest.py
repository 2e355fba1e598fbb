"""One private PostgreSQL for the whole run, and what stands in front of it.

Every test pays for what this file imports, and one that needs no server shall end within a second:
psycopg, the lab and the guards are imported by the fixtures that use them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from poolguard.util import rundir

if TYPE_CHECKING:
    import psycopg

    from poolguard.lab.postgres import PrivatePostgres
    from poolguard.lab.proxy import SlowProxy

    from .support import StartPgBouncer

pytest_plugins = ["tests.forks", "tests.life.table", "tests.together"]

CONNECT_DELAY = 0.1
PGBOUNCER_REQUIRED = "CI_REQUIRES_PGBOUNCER"
HYPOTHESIS = "_hypothesis_pytestplugin"


def pytest_configure() -> None:
    """Whoever starts the tests in the background has SIGINT ignored, and so would all programs that
    the tests start and end with Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Before it prints its summary, Hypothesis' plugin imports Hypothesis (half a second), used or
    not. Where several processes ran the tests, the one that prints cannot know whether it was."""
    plugins = session.config.pluginmanager
    alone = session.config.getoption("dist", "no") == "no"
    if alone and "hypothesis" not in sys.modules and plugins.has_plugin(HYPOTHESIS):
        plugins.unregister(name=HYPOTHESIS)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """A real server. A test that restarts it or fills it makes one of its own."""
    from poolguard.lab.postgres import PrivatePostgres

    with PrivatePostgres() as server:
        yield server


@pytest.fixture(scope="session")
def slow(postgres: PrivatePostgres) -> Iterator[SlowProxy]:
    """The same server, where each connect takes about 100 ms."""
    from poolguard.lab.proxy import SlowProxy

    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=CONNECT_DELAY) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def pgbouncer() -> None:
    """Skips what cannot be tested without the program; fails where it must be there."""
    from poolguard.errors import LabError
    from poolguard.lab.pgbouncer import find_pgbouncer

    try:
        find_pgbouncer()
    except LabError as error:
        if os.environ.get(PGBOUNCER_REQUIRED) == "1":
            pytest.fail(f"{PGBOUNCER_REQUIRED}=1, but {error}")
        pytest.skip(f"{error} ({PGBOUNCER_REQUIRED}=1 makes this a failure)")


@pytest.fixture
def basebackup(postgres: PrivatePostgres) -> None:
    """Skips what cannot be tested without the program that makes a standby."""
    if not (postgres.binaries.bindir / "pg_basebackup").is_file():
        pytest.skip(f"{postgres.binaries.bindir} has no pg_basebackup")


@pytest.fixture
def start_pgbouncer(postgres: PrivatePostgres, pgbouncer: None) -> Iterator[StartPgBouncer]:
    """Starts a PgBouncer that ends with the test."""
    from poolguard.lab.janitor import Janitor
    from poolguard.lab.pgbouncer import PgBouncer

    with ExitStack() as stack:
        janitor = stack.enter_context(Janitor())

        def start(pool_mode: Any, **settings: str) -> PgBouncer:
            bouncer = PgBouncer(
                postgres.dsn, pool_mode=pool_mode, settings=settings, janitor=janitor
            )
            return stack.enter_context(bouncer)

        yield start


@pytest.fixture
def dsn(postgres: PrivatePostgres) -> str:
    """Where the server is."""
    return postgres.conninfo()


@pytest.fixture
def slow_dsn(postgres: PrivatePostgres, slow: SlowProxy) -> str:
    """The way to the server on which connects are slow."""
    return postgres.conninfo(host=slow.host, port=slow.port)


@pytest.fixture
def admin(postgres: PrivatePostgres) -> Iterator[psycopg.Connection]:
    """A connection of the tests' own, straight to the server."""
    with postgres.connect() as conn:
        yield conn


@pytest.fixture(autouse=True)
def _no_guards() -> Iterator[None]:
    """Guards are registered by name for the whole process: each test begins without any."""
    _forget_guards()
    yield
    _forget_guards()


def _forget_guards() -> None:
    """Close all guards; where nothing has imported the registry there are none."""
    if "poolguard.worker.registry" in sys.modules:
        from poolguard.worker import registry

        for guard in registry.guards():
            guard.shut()
        registry.forget_all()


@pytest.fixture(autouse=True)
def _own_runtime_dir(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test begins with no ledger, and leaves none where the user's are. (A setting would show
    in every repr.)"""
    path = tmp_path_factory.mktemp("run") / "poolguard"
    monkeypatch.setattr(rundir, "default_path", lambda: path)


@pytest.fixture(autouse=True)
def _provider_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test just before, in the same process, may have asked for one in vain."""
    if "poolguard.telemetry.api" in sys.modules:
        from poolguard.telemetry import api

        monkeypatch.setattr(api, "LOOK_AGAIN", 0.0)
