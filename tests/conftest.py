"""One private PostgreSQL for the whole run, and what stands in front of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg
import pytest

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.runtime.lookup import guards
from poolguard.telemetry import api
from poolguard.util import rundir
from poolguard.worker import registry

pytest_plugins = ["tests.life.table"]

CONNECT_DELAY = 0.1


def pytest_configure() -> None:
    """Whoever starts the tests in the background has SIGINT ignored, and so would all programs that
    the tests start and end with Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """A real server. A test that restarts it or fills it makes one of its own."""
    with PrivatePostgres() as server:
        yield server


@pytest.fixture(scope="session")
def slow(postgres: PrivatePostgres) -> Iterator[SlowProxy]:
    """The same server, where each connect takes about 100 ms."""
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=CONNECT_DELAY) as proxy:
        yield proxy


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
    registry.forget_all()
    yield
    for guard in guards():
        guard.close()
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
    monkeypatch.setattr(api, "LOOK_AGAIN", 0.0)
