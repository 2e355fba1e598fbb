"""Connections that die, grow old or lead to the wrong server, and what requests notice of it.

Each scenario runs with the sync and with the async pool. Where psycopg_pool's own class has a trap,
the same scenario shows that it is one: the pool is :class:`Plain` then.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, TypeAlias

import psycopg
import psycopg_pool
import pytest
from psycopg import errors

from poolguard.budget.static import StaticLedger
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import entry, sockets
from poolguard.pool.events import Connected
from poolguard.util.clock import now
from tests.pool.support import Face, Guarded, Kind, eventually, expire, in_loop, opened
from tests.support import until as waited_until

NEVER = 1e6
"""A check_interval that leaves it to the acquires to find out who is dead."""
CONNECT = 0.3
"""What a connect waits at the proxies, besides its round trips."""


class Plain(Face):
    """psycopg_pool's own class behind the same face."""

    def __init__(self, kind: Kind, conninfo: Any, **arguments: Any) -> None:
        self.kind = kind
        self.name = f"plain-{os.getpid()}-{id(self)}"
        cls: Any = (
            psycopg_pool.ConnectionPool if kind == "sync" else psycopg_pool.AsyncConnectionPool
        )
        kwargs = {"application_name": self.name}
        self.pool: Guarded = cls(
            conninfo,
            **{"name": self.name, "kwargs": kwargs, "open": False, "timeout": 10.0, **arguments},
        )

    async def open(self, *, warm: bool = True) -> None:
        await self.call("open")
        if warm:
            await self.call("wait", 10)


@asynccontextmanager
async def plain(
    kind: Kind, conninfo: Any, *, warm: bool = True, **arguments: Any
) -> AsyncIterator[Plain]:
    pool = Plain(kind, conninfo, **arguments)
    await pool.open(warm=warm)
    try:
        yield pool
    finally:
        await pool.close()


class Route:
    """A way to the server that can be lost in silence, while another one leads there.

    As when a firewall forgets its connections, or a standby takes an address over.
    """

    def __init__(self, server: PrivatePostgres) -> None:
        target = ("127.0.0.1", server.port)
        self._server = server
        self._ways = [SlowProxy(target, connect_delay=CONNECT) for _ in range(2)]
        self._lost = False

    @property
    def first(self) -> SlowProxy:
        return self._ways[0]

    def __call__(self) -> str:
        """Where new connections are made: the conninfo of a pool may be a callable."""
        way = self._ways[self._lost]
        return self._server.conninfo(host=way.host, port=way.port)

    def lose(self) -> None:
        """From now on nothing comes back over the connections that exist."""
        self.first.blackhole()
        self._lost = True

    def restore(self) -> None:
        self._lost = False
        self.first.resume()
        self.first.set(connect_delay=CONNECT, latency=0)

    def close(self) -> None:
        for way in self._ways:
            way.close()


@pytest.fixture(scope="module")
def _route(postgres: PrivatePostgres) -> Iterator[Route]:
    route = Route(postgres)
    yield route
    route.close()


@pytest.fixture
def route(_route: Route) -> Iterator[Route]:
    yield _route
    _route.restore()


@pytest.fixture(scope="module")
def fragile() -> Iterator[PrivatePostgres]:
    """A server that tests may restart."""
    with PrivatePostgres() as server:
        yield server


def idle_ones(pool: Face) -> list[entry.Entry]:
    return [*pool.pool._core.idle]


def age(pool: Face, *, all_but: int = 0, by: float = 60.0) -> None:
    """As if the idle ones had been idle for that long; *all_but* spares those last in the row."""
    ones = idle_ones(pool)
    for one in ones[: len(ones) - all_but]:
        one.proved_at -= by


def connect_time(pool: Face) -> float:
    took: list[float] = [event.ended - event.began for event in pool.recorder.of(Connected)]
    return sum(took) / len(took)


def add_up(pool: Face) -> bool:
    """What was created and has not ended is here, and nothing is under way."""
    status = pool.status()
    here = sum(status["created"].values()) - sum(status["closed"].values())
    return (
        here == pool.size == pool.pool.counts().size
        and not status["used"]
        and not [*pool.pool._core.those("checking")]
    )


def spy_on_verifications(pool: Face, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were under way each time that one more began."""
    core, seen = pool.pool._core, []
    check = core.check

    def spy(*args: Any, **kwargs: Any) -> Any:
        conn = check(*args, **kwargs)
        seen.append(core.counts().checking)
        return conn

    monkeypatch.setattr(core, "check", spy)
    return seen


async def settled(value: Any) -> Any:
    """What a method of either pool returns, without a thread: what is being raised is seen."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def block(pool: Face) -> AsyncIterator[Any]:
    """``with pool.connection()``, or ``async with``."""
    made: Any = pool.pool.connection()
    if pool.kind == "sync":
        with made as conn:
            yield conn
    else:
        async with made as conn:
            yield conn


async def request(pool: Face) -> None:
    """One that fails if its connection does."""

    def in_thread() -> None:
        with pool.pool.connection() as conn:  # type: ignore[union-attr]
            conn.execute("SELECT 1")

    if pool.kind == "sync":
        await asyncio.to_thread(in_thread)
    else:
        async with block(pool) as conn:
            await conn.execute("SELECT 1")


async def failures_of(pool: Face, requests: int) -> list[BaseException]:
    done = await asyncio.gather(*(request(pool) for _ in range(requests)), return_exceptions=True)
    return [error for error in done if isinstance(error, BaseException)]


async def end_in_block(pool: Face, admin: psycopg.Connection, seen: Callable[[], object]) -> None:
    """The server ends the session of a connection that somebody has in a block; *seen* is called
    when a query has failed of it, and the block has not."""
    async with block(pool) as conn:
        admin.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
        try:
            await settled(conn.execute("SELECT 1"))
        finally:
            seen()


# -- the server goes away, and says so


@in_loop
async def test_after_a_restart_of_the_server_no_request_fails(
    kind: Kind, fragile: PrivatePostgres
) -> None:
    async with opened(kind, fragile.conninfo(), min_size=8, max_size=10) as pool:
        await asyncio.to_thread(fragile.restart, "fast")
        assert await failures_of(pool, 50) == []
        assert pool.recorder.closes == ["lost"] * 8
        await eventually(lambda: add_up(pool) and pool.size >= 8)


@in_loop
async def test_after_a_restart_psycopg_pools_own_class_fails_one_request_for_each_idle_one(
    kind: Kind, fragile: PrivatePostgres
) -> None:
    async with plain(kind, fragile.conninfo(), min_size=8, max_size=10) as pool:
        await asyncio.to_thread(fragile.restart, "fast")
        assert len(await failures_of(pool, 50)) == 8


@in_loop
async def test_idle_connections_that_are_reset_are_replaced_before_anybody_asks(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    ledger = StaticLedger(8)
    async with opened(kind, gate_dsn, min_size=4, max_size=8, ledger=ledger) as pool:
        gate.reset_all()
        await eventually(lambda: pool.recorder.closes == ["lost"] * 4)
        await eventually(lambda: pool.status()["idle"] == 4)
        assert await failures_of(pool, 8) == []
        await eventually(lambda: add_up(pool))
        assert ledger.in_use == pool.size


@in_loop
async def test_one_that_dies_in_a_block_casts_doubt_on_those_that_lie_idle(
    kind: Kind,
    gate: SlowProxy,
    gate_dsn: str,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are asked all at once, before any of them can answer, and none is closed."""
    # The gate is shut for as long as it takes to see all questions, on any machine.
    patient: dict[str, Any] = {"check_interval": NEVER, "check_timeout": 60.0}
    async with opened(kind, gate_dsn, min_size=5, max_size=5, **patient) as pool:
        at_once = spy_on_verifications(pool, monkeypatch)
        with pytest.raises(psycopg.OperationalError):
            await end_in_block(pool, admin, seen=gate.blackhole)
        await eventually(lambda: at_once == [1, 2, 3, 4])
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 5 and add_up(pool))
        assert at_once == [1, 2, 3, 4]
        assert pool.recorder.closes == ["lost"]


# -- the server goes away, and says nothing


@in_loop
async def test_after_a_silent_loss_the_next_acquire_has_a_new_one_soon(
    kind: Kind, route: Route
) -> None:
    """However many lie idle: half a connect is waited for the first one's answer, not for each's.

    And when that one is given up, the others are asked at once, not one after the other.
    """
    ledger = StaticLedger(20)
    async with opened(
        kind,
        route,
        min_size=8,
        max_size=20,
        check_interval=NEVER,
        check_timeout=0.8,
        ledger=ledger,
    ) as pool:
        route.lose()
        age(pool)
        began = monotonic()
        conn = await pool.get()
        took = monotonic() - began
        await pool.execute(conn, "SELECT 1")
        assert took < 2.3 * connect_time(pool)
        assert pool.recorder.outcomes == ["created"]
        assert pool.recorder.created == ["warmup"] * 8 + ["growth"]
        await pool.put(conn)
        await eventually(lambda: pool.recorder.closes == ["lost"] * 8, within=4 * 0.8)
        await eventually(lambda: pool.status()["idle"] >= 8 and add_up(pool))
        assert ledger.in_use == pool.size
        assert pool.status()["acquires"] == {"created": 1}


@in_loop
async def test_after_a_silent_loss_a_full_pool_has_a_new_one_after_one_verification(
    kind: Kind, route: Route
) -> None:
    async with opened(
        kind, route, min_size=6, max_size=6, check_interval=NEVER, check_timeout=0.5
    ) as pool:
        route.lose()
        age(pool)
        began = monotonic()
        conn = await pool.get()
        took = monotonic() - began
        await pool.execute(conn, "SELECT 1")
        assert 0.5 <= took < 0.5 + 2 * connect_time(pool)
        assert pool.recorder.outcomes == ["created"]
        await pool.put(conn)
        await eventually(lambda: pool.recorder.closes == ["lost"] * 6, within=4 * 0.5)
        await eventually(lambda: pool.status()["idle"] == 6 and add_up(pool))


@in_loop
async def test_after_a_silent_loss_many_acquires_are_served_at_once(
    kind: Kind, route: Route
) -> None:
    async with opened(
        kind, route, min_size=4, max_size=8, check_interval=NEVER, check_timeout=0.5
    ) as pool:
        route.lose()
        age(pool)
        began = monotonic()
        assert await failures_of(pool, 20) == []
        assert monotonic() - began < 0.5 + 3 * connect_time(pool)
        assert "acquired" not in pool.recorder.outcomes[:4]
        await eventually(lambda: pool.recorder.closes == ["lost"] * 4 and add_up(pool))


@in_loop
async def test_after_a_silent_loss_psycopg_pools_own_class_hands_the_dead_one_out(
    kind: Kind, route: Route
) -> None:
    async with plain(kind, route, min_size=2, max_size=4) as pool:
        route.lose()
        conn = await pool.get()
        asked = asyncio.create_task(pool.execute(conn, "SELECT 1"))
        _, hanging = await asyncio.wait({asked}, timeout=1.0)
        assert hanging
        route.restore()
        await asked
        await pool.put(conn)


# -- idle for long, and alive


@in_loop
async def test_a_long_idle_one_that_lives_costs_a_round_trip_and_no_connect(
    kind: Kind, route: Route
) -> None:
    route.first.set(latency=0.03)
    async with opened(kind, route, min_size=3, max_size=9, check_interval=NEVER) as pool:
        accepted = route.first.stats()["accepted"]
        age(pool)
        began = monotonic()
        acquire = asyncio.create_task(pool.get())
        await eventually(lambda: [*pool.pool._core.those("checking")])
        pool.pool._ring()  # whatever else may happen meanwhile
        conn = await acquire
        took = monotonic() - began
        assert 0.06 <= took < connect_time(pool) / 2
        assert pool.recorder.outcomes == ["acquired"]
        assert pool.status()["acquires"] == {"acquired": 1}
        await pool.put(conn)
        assert route.first.stats()["accepted"] == accepted
        assert add_up(pool)


@in_loop
async def test_one_that_was_verified_for_a_waiter_may_be_waited_for_later(
    kind: Kind, dsn: str
) -> None:
    """What makes an acquire of it one that has just acquired is not for the next one."""
    async with opened(kind, dsn, min_size=1, max_size=1, check_interval=NEVER) as pool:
        age(pool)
        conn = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        await pool.put(conn)
        await pool.put(await waiting)
        assert pool.recorder.outcomes == ["acquired", "waited"]
        assert pool.status()["acquires"] == {"acquired": 1, "waited": 1}


@in_loop
async def test_one_that_is_not_idle_for_long_is_handed_out_without_a_word_to_the_server(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """Also before those that have been idle for longer."""
    async with opened(kind, gate_dsn, min_size=4, check_interval=NEVER) as pool:
        age(pool, all_but=2)
        fresh = [one.conn for one in idle_ones(pool)[2:]]
        gate.blackhole()
        conns = [await pool.get(), await pool.get()]
        assert conns == fresh
        assert pool.recorder.outcomes == ["acquired"] * 2
        assert not [*pool.pool._core.those("checking")]
        gate.resume()
        await pool.put(*conns)


@in_loop
async def test_as_many_as_ask_are_verified_at_once(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(kind, gate_dsn, min_size=6, max_size=6, check_interval=NEVER) as pool:
        gate.set(latency=0.1)
        age(pool)
        began = monotonic()
        conns = await pool.get_all(6)
        assert monotonic() - began < 3 * 0.2
        assert pool.recorder.outcomes == ["acquired"] * 6
        await pool.put(*conns)
        assert len(pool.recorder.created) == 6


@in_loop
async def test_one_that_was_given_up_is_not_lent_though_its_answer_has_come(
    kind: Kind, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process, or its loop, has stood still: the answer is there, and so is the end of
    the time for it. Upkeep cuts the connection before, or after, the answer is read."""
    async with opened(kind, dsn, min_size=1, max_size=1, check_interval=NEVER) as pool:
        check = pool.pool.check_connection

        def late(conn: Any) -> None:
            check(conn)
            conn._poolguard_entry.cut()

        async def alate(conn: Any) -> None:
            await settled(check(conn))
            conn._poolguard_entry.cut()

        monkeypatch.setattr(pool.pool, "check_connection", late if kind == "sync" else alate)
        age(pool)
        await request(pool)
        assert pool.recorder.outcomes == ["created"]
        await eventually(lambda: pool.status()["closed"] == {"lost": 1} and add_up(pool))


# -- who waits for a verification waits like anybody


@in_loop
async def test_the_time_of_an_acquire_is_kept_though_a_verification_takes_longer(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(
        kind, gate_dsn, min_size=2, max_size=2, check_interval=NEVER, check_timeout=60.0
    ) as pool:
        age(pool)
        gate.blackhole()
        began = monotonic()
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get(timeout=0.2)
        assert 0.2 <= monotonic() - began < 5
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 2 and add_up(pool))
        conn = await pool.get()
        await pool.put(conn)
        assert pool.status()["acquires"] == {"timeout": 1, "acquired": 1}
        assert len(pool.recorder.created) == 2


@in_loop
async def test_an_acquire_cancelled_in_a_verification_loses_nothing(
    gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(
        "async", gate_dsn, min_size=2, max_size=2, check_interval=NEVER, check_timeout=60.0
    ) as pool:
        age(pool)
        gate.blackhole()
        acquires = [asyncio.create_task(pool.get()) for _ in range(2)]
        await eventually(lambda: len([*pool.pool._core.those("checking")]) == 2)
        for acquire in acquires:
            acquire.cancel()
        await asyncio.wait(acquires)
        assert pool.status()["acquires"] == {"error": 2}
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 2 and add_up(pool))
        assert await failures_of(pool, 4) == []
        assert len(pool.recorder.created) == 2


@in_loop
async def test_a_pool_closed_in_a_verification_ends_it(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(
        kind, gate_dsn, min_size=2, max_size=2, check_interval=NEVER, check_timeout=0.5
    ) as pool:
        age(pool)
        gate.blackhole()
        acquire = asyncio.create_task(pool.get())
        await eventually(lambda: len([*pool.pool._core.those("checking")]) == 1)
        await pool.call("close", 0.1)
        with pytest.raises(psycopg_pool.PoolClosed):
            await acquire
        gate.resume()
        await eventually(lambda: pool.pool._watch.closed)


@in_loop
async def test_who_waits_for_a_verification_may_find_the_queue_full(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """Where nothing more can be verified for him."""
    async with opened(
        kind,
        gate_dsn,
        min_size=1,
        max_size=1,
        max_waiting=1,
        check_interval=NEVER,
        check_timeout=60.0,
    ) as pool:
        age(pool)
        gate.blackhole()
        requests = [asyncio.create_task(request(pool)) for _ in range(5)]
        await eventually(lambda: sum(one.done() for one in requests) >= 3)
        gate.resume()
        ended = await asyncio.gather(*requests, return_exceptions=True)
        rejected = [one for one in ended if isinstance(one, psycopg_pool.TooManyRequests)]
        assert 3 <= len(rejected) <= 4
        assert [one for one in ended if one not in rejected] == [None] * (5 - len(rejected))
        assert pool.status()["acquires"]["rejected"] == len(rejected)
        assert add_up(pool)


@in_loop
async def test_who_waits_for_a_verification_only_is_not_rejected(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """max_waiting bounds those for whom there is no connection, as before: here is one for each."""
    async with opened(
        kind, gate_dsn, min_size=4, max_size=4, max_waiting=1, check_interval=NEVER
    ) as pool:
        gate.set(latency=0.05)
        age(pool)
        first = asyncio.create_task(pool.get())
        await eventually(lambda: [*pool.pool._core.those("checking")])
        conns = [*await pool.get_all(3), await first]
        assert pool.status()["acquires"] == {"acquired": 4}
        await pool.put(*conns)


# -- the check callback


def checks(kind: Kind, callback: Callable[[Any], Any]) -> Any:
    """A ``check`` callback of the kind's own colour."""

    async def coloured(conn: Any) -> None:
        await settled(callback(conn))

    return callback if kind == "sync" else coloured


def refuse(conn: Any) -> None:
    raise ValueError("from the callback")


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: who has been ended by the server is found when it is asked."""
    monkeypatch.setattr(sockets, "WATCHES", False)
    monkeypatch.setattr(entry, "WATCHES", False)


@in_loop
async def test_a_check_that_refuses_one_connection_has_the_next_tried_at_once(
    kind: Kind, dsn: str
) -> None:
    """As with psycopg_pool's own class, which pauses from the second on."""
    asked = 0

    def check(conn: Any) -> None:
        nonlocal asked
        asked += 1
        if asked % 2:
            refuse(conn)

    arguments: dict[str, Any] = {"min_size": 2, "max_size": 2, "check": checks(kind, check)}
    async with opened(kind, dsn, **arguments) as pool, plain(kind, dsn, **arguments) as other:
        for one in (pool, other):
            began = monotonic()
            await request(one)
            assert monotonic() - began < 0.7
        assert pool.recorder.closes == []
        assert pool.status()["acquires"] == {"waited": 1}


@pytest.mark.usefixtures("unwatched")
@in_loop
async def test_a_check_that_finds_dead_ones_makes_no_pause(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    cls: Any = psycopg_pool.ConnectionPool if kind == "sync" else psycopg_pool.AsyncConnectionPool
    async with opened(
        kind, dsn, min_size=4, max_size=8, check_interval=NEVER, check=cls.check_connection
    ) as pool:
        pool.kill(admin)
        await eventually(lambda: not pool.backends(admin))
        began = monotonic()
        await request(pool)
        assert monotonic() - began < 0.8
        await eventually(lambda: pool.status()["idle"] >= 4 and add_up(pool))
        (outcome,) = pool.status()["acquires"]
        assert outcome in ("created", "waited")
        assert pool.recorder.outcomes == [outcome]
        assert pool.status()["closed"] == {"lost": 4}


@in_loop
async def test_a_check_that_finds_dead_ones_makes_psycopg_pools_own_class_pause_for_each(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    cls: Any = psycopg_pool.ConnectionPool if kind == "sync" else psycopg_pool.AsyncConnectionPool
    async with plain(kind, dsn, min_size=2, check=cls.check_connection) as pool:
        pool.kill(admin)
        await eventually(lambda: not pool.backends(admin))
        began = monotonic()
        await request(pool)
        assert monotonic() - began > 0.85


@in_loop
async def test_a_check_that_refuses_everything_is_not_asked_again_and_again(
    kind: Kind, dsn: str
) -> None:
    asked = 0

    def check(conn: Any) -> None:
        nonlocal asked
        asked += 1
        refuse(conn)

    async with opened(kind, dsn, min_size=2, max_size=4, check=checks(kind, check)) as pool:
        began = monotonic()
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get(timeout=1.5)
        assert 1.5 <= monotonic() - began < 5
        assert 2 <= asked <= 3
        assert pool.status()["acquires"] == {"timeout": 1}
        assert pool.recorder.outcomes == ["timeout"]
        assert add_up(pool)


@in_loop
async def test_a_check_that_no_connection_survives_does_not_lead_to_a_storm_of_connects(
    kind: Kind, dsn: str
) -> None:
    """Such as behind a pooler that greets everybody, and has lost its server."""

    def check(conn: Any) -> Any:
        return conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async with opened(kind, dsn, min_size=8, max_size=10, check=checks(kind, check)) as pool:
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get(timeout=1.5)
        # A successor for each old one, and few more: there is a pause after each that was new.
        assert len(pool.recorder.created) <= 8 + 8 + 3
        assert pool.status()["acquires"] == {"timeout": 1}
        await eventually(lambda: pool.status()["idle"] >= 8 and add_up(pool))


@in_loop
async def test_an_acquire_that_a_check_is_broken_off_in_is_counted_once(
    kind: Kind, dsn: str
) -> None:
    class BrokenOff(BaseException):
        pass

    def check(conn: Any) -> None:
        raise BrokenOff

    async with opened(kind, dsn, min_size=1, check=checks(kind, check)) as pool:
        with pytest.raises(BrokenOff):
            await settled(pool.pool.getconn())
        assert pool.status()["acquires"] == {"error": 1}
        assert pool.recorder.outcomes == ["error"]
        assert pool.status()["idle"] == pool.size == 1


# -- errors that tell of the server

Way: TypeAlias = "Callable[[Face, str], Any]"


def says(sqlstate: str) -> str:
    """A query that the server answers with that error, as a pooler before it would."""
    return f"DO $$ BEGIN RAISE 'as from a pooler' USING ERRCODE = '{sqlstate}'; END $$"


async def leaving_the_block(pool: Face, query: str) -> None:
    async with block(pool) as conn:
        await settled(conn.execute(query))


async def wrapped(pool: Face, query: str) -> None:
    """As SQLAlchemy and Django do."""
    async with block(pool) as conn:
        try:
            await settled(conn.execute(query))
        except Exception as caught:
            raise RuntimeError("from a framework") from caught


async def handled_before(pool: Face, query: str) -> None:
    """As frameworks do that return the connection when the response has been made."""
    async with block(pool) as conn:
        with suppress(psycopg.Error):
            await settled(conn.execute(query))
        await settled(conn.rollback())
    raise RuntimeError("after the return")


async def returned_in_a_finally(pool: Face, query: str) -> None:
    conn = await settled(pool.pool.getconn())
    try:
        await settled(conn.execute(query))
    finally:
        await settled(pool.pool.putconn(conn))


async def closed_in_a_finally(pool: Face, query: str) -> None:
    """``close_returns``: SQLAlchemy's recipe."""
    conn = await settled(pool.pool.getconn())
    try:
        await settled(conn.execute(query))
    finally:
        await settled(conn.close())


WAYS: list[Way] = [
    leaving_the_block,
    wrapped,
    handled_before,
    returned_in_a_finally,
    closed_in_a_finally,
]


@pytest.mark.parametrize("way", WAYS)
@in_loop
async def test_an_error_that_tells_of_an_ending_server_evicts_its_connection(
    kind: Kind, dsn: str, way: Way
) -> None:
    """And the others may end, too."""
    async with opened(kind, dsn, min_size=2, max_size=2, close_returns=True) as pool:
        for n, sqlstate in enumerate(("57P01", "57P02", "57P03"), 1):
            victim = idle_ones(pool)[0]
            with pytest.raises((psycopg.Error, RuntimeError)):
                await way(pool, says(sqlstate))
            await eventually(lambda n=n: pool.recorder.closes == ["discarded"] * n)  # type: ignore[misc]
            await eventually(lambda: pool.status()["idle"] == 2 and add_up(pool))
            assert victim not in idle_ones(pool)
            assert pool.pool._core.doubted_at > 0
        assert pool.recorder.created == ["warmup"] * 2 + ["replace"] * 3
        assert pool.status()["acquires"] == {"acquired": 3}


@pytest.mark.parametrize("way", WAYS)
@in_loop
async def test_an_ordinary_error_evicts_nothing(kind: Kind, dsn: str, way: Way) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1, close_returns=True) as pool:
        (kept,) = idle_ones(pool)
        for query in (says("23505"), says("57014"), "SELECT 1 / 0", "NO SQL AT ALL"):
            with pytest.raises((psycopg.Error, RuntimeError)):
                await way(pool, query)
        await eventually(lambda: pool.status()["idle"] == 1)
        assert idle_ones(pool) == [kept]
        assert pool.recorder.closes == []
        assert pool.pool._core.doubted_at == 0.0


WRITE = "CREATE TEMPORARY TABLE IF NOT EXISTS scratch (n int); CREATE TABLE IF NOT EXISTS t (n int)"
WISHES = {
    "transaction": ("SELECT 1", "SET TRANSACTION READ ONLY; "),
    "session": ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", ""),
    "default": ("SET default_transaction_read_only = on", ""),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@in_loop
async def test_a_read_only_transaction_that_the_application_wants_evicts_nothing(
    kind: Kind, dsn: str, way: Way, wish: tuple[str, str]
) -> None:
    async with opened(kind, dsn, min_size=2, max_size=2, close_returns=True) as pool:
        before = {*idle_ones(pool)}
        for _ in range(2):
            await leaving_the_block(pool, wish[0])
        for _ in range(2):
            with pytest.raises((errors.ReadOnlySqlTransaction, RuntimeError)):
                await way(pool, wish[1] + WRITE)
        await eventually(lambda: pool.status()["idle"] == 2)
        assert {*idle_ones(pool)} == before
        assert pool.recorder.closes == []


@pytest.fixture
def read_only(fragile: PrivatePostgres) -> Iterator[Callable[[], None]]:
    """Turns the server read-only, as a failover may, and back at the end."""

    def turn(how: str) -> None:
        with fragile.connect() as admin:
            admin.execute(f"ALTER SYSTEM {how}")
            admin.execute("SELECT pg_reload_conf()")
            waited_until(
                lambda: (
                    admin.execute("SHOW default_transaction_read_only").fetchone()
                    == ("on" if "SET" in how.split() else "off",)
                )
            )

    yield lambda: turn("SET default_transaction_read_only = on")
    turn("RESET default_transaction_read_only")


async def all_turned(pool: Face) -> None:
    """Each session hears of it when it is told next."""
    conns = await pool.get_all(pool.pool.max_size)
    for conn in conns:
        while True:
            cursor = await pool.execute(conn, "SHOW default_transaction_read_only")
            told = await settled(cursor.fetchone())
            await settled(conn.rollback())
            if told == ("on",):
                break
    await pool.put(*conns)


@pytest.mark.parametrize("way", WAYS)
@in_loop
async def test_of_a_server_that_turned_read_only_all_are_replaced_after_one_refused_write(
    kind: Kind, fragile: PrivatePostgres, read_only: Callable[[], None], way: Way
) -> None:
    """They lead to what was the primary. Those that replace them may lead elsewhere."""
    arguments: dict[str, Any] = {"min_size": 3, "max_size": 3, "close_returns": True}
    async with opened(kind, fragile.conninfo(), **arguments) as pool:
        await asyncio.to_thread(read_only)
        await all_turned(pool)
        lent = await pool.get()
        with pytest.raises((errors.ReadOnlySqlTransaction, RuntimeError)):
            await way(pool, WRITE)
        await pool.put(lent)
        await eventually(lambda: pool.recorder.closes == ["discarded"] * 3)
        await eventually(lambda: pool.status()["idle"] == 3 and add_up(pool))


@in_loop
async def test_a_server_that_stays_read_only_is_not_asked_at_each_refused_write(
    kind: Kind, fragile: PrivatePostgres, read_only: Callable[[], None]
) -> None:
    """Of those that were opened since, only the one that failed is closed each time."""
    async with opened(kind, fragile.conninfo(), min_size=3, max_size=3) as pool:
        await asyncio.to_thread(read_only)
        await all_turned(pool)
        for n in range(3):
            with pytest.raises(errors.ReadOnlySqlTransaction):
                await leaving_the_block(pool, WRITE)
            await eventually(lambda n=n: len(pool.recorder.closes) == 3 + n)  # type: ignore[misc]
            await eventually(lambda: pool.status()["idle"] == 3 and add_up(pool))


@in_loop
async def test_psycopg_pools_own_class_hands_the_read_only_one_out_again(
    kind: Kind, fragile: PrivatePostgres, read_only: Callable[[], None]
) -> None:
    async with plain(kind, fragile.conninfo(), min_size=1, max_size=1) as pool:
        await asyncio.to_thread(read_only)
        await all_turned(pool)
        with pytest.raises(errors.ReadOnlySqlTransaction):
            async with block(pool) as first:
                await settled(first.execute(WRITE))
        async with block(pool) as second:
            assert second is first


@in_loop
async def test_who_tries_again_while_he_handles_the_error_loses_one_connection_not_two(
    kind: Kind, route: Route
) -> None:
    """The error of the first block is being handled when the second one ends."""
    async with opened(kind, route, min_size=2, max_size=2, check_interval=NEVER) as pool:
        _, kept = idle_ones(pool)
        try:
            await leaving_the_block(pool, says("57P01"))
        except errors.AdminShutdown:
            async with block(pool) as conn:
                assert conn._poolguard_entry is kept
                await settled(conn.execute("SELECT 1"))
            with pytest.raises(errors.DivisionByZero):
                await leaving_the_block(pool, "SELECT 1 / 0")
        await eventually(lambda: pool.status()["idle"] == 2 and add_up(pool))
        assert kept in idle_ones(pool)
        assert pool.recorder.closes == ["discarded"]


@in_loop
async def test_nobody_waits_for_the_successor_of_an_evicted_one(kind: Kind, route: Route) -> None:
    async with opened(kind, route, min_size=2, max_size=2, check_interval=NEVER) as pool:
        began = monotonic()
        with pytest.raises(errors.AdminShutdown):
            await leaving_the_block(pool, says("57P01"))
        async with block(pool):
            pass
        assert monotonic() - began < CONNECT
        await eventually(lambda: pool.status()["idle"] == 2)
        assert pool.recorder.created == ["warmup", "warmup", "replace"]


async def close_in_block(pool: Face) -> None:
    async with block(pool) as conn:
        await pool.close()
        await settled(conn.execute(says("57P01")))


@in_loop
async def test_a_closed_pool_books_a_connection_that_comes_back_with_such_an_error(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=1) as pool:
        with pytest.raises(errors.AdminShutdown):
            await close_in_block(pool)
        await eventually(lambda: pool.recorder.closes == ["shutdown"])
        assert pool.status()["used"] == pool.size == 0


# -- age


@in_loop
async def test_no_request_is_given_a_connection_that_is_too_old_and_none_waits_for_it(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=3, max_size=6, max_lifetime=2.0) as pool:
        oldest = 0.0
        until = monotonic() + 4.5
        while monotonic() < until:
            conn = await pool.get()
            oldest = max(oldest, now() - conn._poolguard_entry.connected_at)
            await asyncio.sleep(0.01)
            await pool.put(conn)
        assert 1.0 < oldest < 2.0
        assert set(pool.recorder.outcomes) == {"acquired"}
        assert set(pool.recorder.closes) == {"lifetime"}
        assert len(pool.recorder.closes) >= 6
        assert set(pool.recorder.created[3:]) == {"lifetime"}


@in_loop
async def test_psycopg_pools_own_class_hands_out_one_that_is_too_old(kind: Kind, dsn: str) -> None:
    async with plain(kind, dsn, min_size=1, max_size=2, max_lifetime=0.2) as pool:
        (conn,) = pool.pool._pool
        await eventually(lambda: conn._expire_at < monotonic())
        assert await pool.get() is conn
        await pool.put(conn)


@in_loop
async def test_one_that_was_held_for_longer_than_its_life_is_closed_as_it_comes_back(
    kind: Kind, dsn: str
) -> None:
    """Also where somebody waits for it: he is given its successor."""
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        expire(conn._poolguard_entry, now() - 1)
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        await pool.put(conn)
        await pool.put(await waiting)
        assert pool.recorder.outcomes == ["acquired", "created"]
        assert pool.recorder.closes == ["lifetime"]
        await eventually(lambda: add_up(pool))


@in_loop
async def test_of_many_that_were_held_for_too_long_one_is_closed_at_a_time(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=4, max_size=4) as pool:
        conns = await pool.get_all(4)
        for conn in conns:
            expire(conn._poolguard_entry, now() - 1)
        await pool.put(*conns)
        await eventually(lambda: pool.status()["idle"] == 4 and len(pool.recorder.created) == 5)
        await eventually(lambda: pool.recorder.closes)  # told by another thread, maybe later
        assert pool.recorder.closes == ["lifetime"]
        assert add_up(pool)


# -- time that passes unseen


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets the clock of the pools jump, as when a machine wakes up."""
    ahead = 0.0

    def clock() -> float:
        return now() + ahead

    def leap(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    for name, module in list(sys.modules.items()):
        if name.startswith("poolguard.pool.") and hasattr(module, "clock"):
            monkeypatch.setattr(module, "clock", clock)
    return leap


@pytest.mark.parametrize("max_size", [8, 16])
@in_loop
async def test_after_an_hours_sleep_requests_go_on_and_no_herd_connects(
    kind: Kind, dsn: str, jump: Callable[[float], None], max_size: int
) -> None:
    """The machine slept, and the sessions have outlived it: all are old, none is dead."""
    async with opened(kind, dsn, min_size=8, max_size=max_size) as pool:
        jump(3600.0)
        until = monotonic() + 1.0
        while monotonic() < until:
            assert await failures_of(pool, 4) == []
        assert set(pool.recorder.outcomes) <= {"acquired", "waited", "created"}
        made = Counter(pool.recorder.created) - Counter(warmup=8)
        # One whose verification takes as long as half a connect, on a machine that is busy, gets a
        # connect beside it.
        assert made.pop("growth", 0) <= 4
        assert 1 <= sum(made.values()) <= 2
        assert set(pool.recorder.closes) == {"lifetime"}
        assert len(pool.recorder.closes) <= 2


PAUSED = """
import asyncio, json, sys, threading
from poolguard import AsyncGuardedPool, GuardedPool
import psycopg_pool

kind, which, conninfo, name = sys.argv[1:]
arguments = dict(min_size=8, max_size=8, kwargs={"application_name": name}, open=False)
if which == "guarded":
    arguments |= dict(check_after_idle=0.3, check_interval=1e6, check_timeout=1.0)

def threads():
    cls = GuardedPool if which == "guarded" else psycopg_pool.ConnectionPool
    with cls(conninfo, **arguments) as pool:
        pool.wait()
        print("ready", flush=True)
        sys.stdin.readline()
        failed = []
        def request():
            try:
                with pool.connection() as conn:
                    conn.execute("SELECT 1")
            except Exception as error:
                failed.append(repr(error))
        jobs = [threading.Thread(target=request) for _ in range(20)]
        for job in jobs: job.start()
        for job in jobs: job.join()
        print(json.dumps(failed), flush=True)

async def tasks():
    cls = AsyncGuardedPool if which == "guarded" else psycopg_pool.AsyncConnectionPool
    async with cls(conninfo, **arguments) as pool:
        await pool.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        failed = []
        async def request():
            try:
                async with pool.connection() as conn:
                    await conn.execute("SELECT 1")
            except Exception as error:
                failed.append(repr(error))
        await asyncio.gather(*(request() for _ in range(20)))
        print(json.dumps(failed), flush=True)

threads() if kind == "sync" else asyncio.run(tasks())
"""


@pytest.mark.parametrize("which", ["guarded", "plain"])
def test_a_process_that_was_stopped_meets_no_session_that_has_ended_meanwhile(
    kind: Kind, dsn: str, admin: psycopg.Connection, which: str
) -> None:
    """Its first requests come with the signal that lets it go on."""
    name = f"paused-{os.getpid()}-{kind}-{which}"
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"

    def sessions() -> int:
        return int(admin.execute(query, [name]).fetchone()[0])  # type: ignore[index]

    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, kind, which, dsn, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        until = now() + 0.5
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [name],
        )
        waited_until(lambda: now() > until and not sessions())
        process.stdin.write("go\n")
        process.stdin.flush()
        process.send_signal(signal.SIGCONT)
        failed = json.loads(process.stdout.readline())
        assert len(failed) == (0 if which == "guarded" else 8)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


# -- upkeep


@in_loop
async def test_nobody_waits_for_a_refresh(
    kind: Kind, gate: SlowProxy, gate_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 50 ms to the server and back, and one verification after the other."""
    async with opened(kind, gate_dsn, min_size=4, check_interval=0.01) as pool:
        gate.set(latency=0.025)
        verifications = spy_on_verifications(pool, monkeypatch)
        until = monotonic() + 1.0
        while monotonic() < until:
            conn = await pool.get()
            await asyncio.sleep(0.003)
            await pool.put(conn)
        assert len(verifications) >= 5
        assert set(verifications) == {1}
        assert set(pool.recorder.outcomes) == {"acquired"}
        assert pool.pool.get_stats().get("requests_queued", 0) == 0


@in_loop
async def test_check_of_psycopg_pools_own_class_lets_them_wait(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with plain(kind, gate_dsn, min_size=4, max_size=4) as pool:
        gate.set(latency=0.025)
        checking = asyncio.create_task(pool.call("check"))
        await eventually(lambda: len(pool.pool._pool) < 4)
        await request(pool)
        await checking
        assert pool.pool.get_stats()["requests_queued"] == 1


@in_loop
async def test_the_floor_is_back_after_an_outage_of_any_length(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """With nobody asking; longer than reconnect_timeout, after which psycopg_pool's own class stays
    empty."""
    gave_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    def failed(pool: Any) -> None:
        loop.call_soon_threadsafe(gave_up.set)

    gate.refuse()
    arguments: dict[str, Any] = {"min_size": 3, "max_size": 3, "reconnect_timeout": 0.3}
    async with (
        plain(kind, gate_dsn, warm=False, **arguments) as empty,
        opened(kind, gate_dsn, warm=False, reconnect_failed=failed, **arguments) as pool,
    ):
        await asyncio.wait_for(gave_up.wait(), 10)
        await eventually(lambda: empty.pool.get_stats()["pool_size"] == 0)
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 3, within=2.5)
        assert empty.pool.get_stats()["pool_size"] == 0
