"""Names of hosts: an async pool has them looked up without the application's threads."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.hosts import addresses
from poolguard.util.conninfo import connects_its_own_way

from .support import eventually, opened

BOOK = {
    "one.test": ["127.0.0.1"],
    "two.test": ["127.0.0.9", "127.0.0.1"],
    "slow.test": ["127.0.0.1"],
}


class Resolver:
    """A resolver of our own, in the place of the system's."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host if isinstance(host, str) else bytes(host).decode()
        self.asked.append(name)
        if name == "slow.test":
            self.go_on.wait(20)
        if name not in BOOK:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, int(port))) for a in BOOK[name]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.go_on.set()


def test_a_burst_leaves_the_applications_threads_alone(
    postgres: PrivatePostgres, resolver: Resolver
) -> None:
    """Though names resolve slowly: psycopg would take the loop's default executor for that."""

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        dsn = postgres.conninfo(host="slow.test")
        async with opened("async", dsn, warm=False, min_size=0, max_size=4) as pool:
            waiting = [asyncio.create_task(pool.get()) for _ in range(4)]
            await eventually(lambda: len(resolver.asked) >= 4)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 5) == "served"
            resolver.go_on.set()
            conns = await asyncio.gather(*waiting)
            assert {conn.info.host for conn in conns} == {"slow.test"}
            await pool.put(*conns)

    asyncio.run(run())


def test_the_next_address_of_a_name_is_tried(postgres: PrivatePostgres, resolver: Resolver) -> None:
    async def run() -> None:
        dsn = postgres.conninfo(host="nobody.test,two.test")
        async with opened("async", dsn, min_size=1) as pool:
            conn = await pool.get()
            assert (conn.info.host, conn.info.hostaddr) == ("two.test", "127.0.0.1")
            await pool.put(conn)
        assert resolver.asked == ["nobody.test", "two.test"]

    asyncio.run(run())


def test_a_name_that_nobody_knows_is_a_failed_connect(
    postgres: PrivatePostgres, resolver: Resolver
) -> None:
    async def run() -> None:
        dsn = postgres.conninfo(host="nobody.test")
        async with opened("async", dsn, warm=False, min_size=1) as pool:
            await eventually(lambda: pool.recorder.failures)
            assert "failed to resolve host 'nobody.test'" in pool.status()["last_error"]
            assert pool.pool.get_stats()["connections_errors"] >= 1
            assert {*resolver.asked} == {"nobody.test"}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("host=one.test", ("one.test", "127.0.0.1", "5432")),
        (
            "host=two.test,one.test port=1,2",
            ("two.test,two.test,one.test", "127.0.0.9,127.0.0.1,127.0.0.1", "1,1,2"),
        ),
        ("host=nobody.test,one.test port=7", ("one.test", "127.0.0.1", "7")),
        ("host=/tmp,one.test", ("/tmp,one.test", ",127.0.0.1", "5432,5432")),
        ("host=10.0.0.1,one.test", ("10.0.0.1,one.test", "10.0.0.1,127.0.0.1", "5432,5432")),
        (
            "host=other.test,one.test hostaddr=10.0.0.1,",
            ("other.test,one.test", "10.0.0.1,127.0.0.1", "5432,5432"),
        ),
        ("host=/tmp", None),
        ("host=::1", None),
        ("host=one.test hostaddr=10.0.0.1", None),
        ("hostaddr=10.0.0.1", None),
        ("", None),
        ("host=one.test,two.test hostaddr=10.0.0.1", None),
        ("host=one.test port=1,2", None),
    ],
)
@pytest.mark.usefixtures("resolver")
def test_what_is_to_be_tried(
    place: str, found: tuple[str, str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is said; where nothing is to be looked up, or psycopg refuses it, nothing."""
    monkeypatch.delenv("PGHOST", raising=False)
    expected = dict(zip(("host", "hostaddr", "port"), found or (), strict=False))
    assert asyncio.run(addresses(place, {"autocommit": True})) == expected
    assert asyncio.run(addresses("dbname=shop", conninfo_to_dict(place))) == expected


@pytest.mark.usefixtures("resolver")
def test_a_variable_may_name_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "one.test")
    assert asyncio.run(addresses("", {}))["hostaddr"] == "127.0.0.1"


def test_a_class_that_finds_its_hosts_itself_is_left_to_it(
    postgres: PrivatePostgres, resolver: Resolver
) -> None:
    class Plain(psycopg.AsyncConnection[Any]):
        pass

    class Asking(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            return await super().connect(conninfo, **{**kwargs, "hostaddr": "127.0.0.1"})

    assert not connects_its_own_way(Plain)
    assert connects_its_own_way(Asking)

    async def run() -> None:
        dsn = postgres.conninfo(host="_postgres._tcp.test")
        pool = AsyncGuardedPool(dsn, min_size=1, connection_class=Asking, open=False)
        async with pool, pool.connection() as conn:
            assert conn.info.host == "_postgres._tcp.test"

    asyncio.run(run())
    assert resolver.asked == []
