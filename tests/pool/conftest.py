"""Both kinds of pool, a way to the server that a test can close, and sockets that are watched."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from poolguard.pool.sockets import Watch

if TYPE_CHECKING:  # psycopg, for which the tests of pure functions shall not wait
    from poolguard.lab.postgres import PrivatePostgres
    from poolguard.lab.proxy import SlowProxy
    from tests.pool.support import Kind, Pair


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """A test that asks for this runs once with each of the two pools."""
    return cast("Kind", request.param)


@pytest.fixture(scope="session")
def _gate(postgres: PrivatePostgres) -> Iterator[SlowProxy]:
    from poolguard.lab.proxy import SlowProxy

    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0) as proxy:
        yield proxy


@pytest.fixture
def gate(_gate: SlowProxy) -> Iterator[SlowProxy]:
    """A proxy before the server: ``blackhole()`` holds connects, ``refuse()`` fails them."""
    yield _gate
    _gate.resume()
    _gate.set(latency=0)


@pytest.fixture
def gate_dsn(postgres: PrivatePostgres, gate: SlowProxy) -> str:
    """The way to the server through the gate."""
    return postgres.conninfo(host=gate.host, port=gate.port)


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A client's socket and its peer's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector rests: what is freed is freed since nothing refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
