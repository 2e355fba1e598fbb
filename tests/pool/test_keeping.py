"""How a pool keeps its connections: lost ones, old ones, unneeded ones, a server that is away.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import Any

import psycopg
import pytest

from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import outage
from poolguard.pool.events import (
    AcquireEnded,
    Closed,
    Connected,
    Listener,
)
from poolguard.util.clock import now as clock
from tests.pool.support import Face, Kind, eventually, in_loop, opened


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a second between two probes of a server that is away."""
    monkeypatch.setattr(outage, "RETRY_AFTER", 0.2)


@in_loop
async def test_an_idle_connection_that_the_server_ends_leaves_before_a_request_meets_it(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=3, max_size=5) as pool:
        before = pool.backends(admin)
        victim = min(before)
        admin.execute("SELECT pg_terminate_backend(%s)", [victim])
        await eventually(lambda: pool.recorder.closes == ["lost"])
        await eventually(lambda: pool.status()["idle"] == 3)
        after = pool.backends(admin)
        assert len(after) == 3
        assert before - after == {victim}
        assert pool.recorder.created == ["warmup"] * 3 + ["replace"]
        assert pool.pool.get_stats()["connections_lost"] == 1
        conns = await pool.get_all(3)
        for conn in conns:
            await pool.execute(conn, "SELECT 1")
        await pool.put(*conns)
        assert pool.recorder.outcomes == ["acquired"] * 3


@in_loop
async def test_when_all_are_ended_at_once_the_floor_is_refilled(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=4, max_size=8) as pool:
        before = pool.backends(admin)
        pool.kill(admin)
        await eventually(lambda: len(pool.recorder.created) == 8 and pool.status()["idle"] == 4)
        assert not before & pool.backends(admin)
        assert pool.status()["closed"] == {"lost": 4}
        assert pool.status()["used"] == pool.status()["opening"] == 0


@in_loop
async def test_a_lent_connection_that_the_server_ends_does_not_come_back(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """Neither when its user has noticed, nor when he has not."""
    async with opened(kind, dsn, min_size=2, max_size=2) as pool:
        noticed, unnoticed = await pool.get_all(2)
        pool.kill(admin)
        with pytest.raises(psycopg.OperationalError):
            await pool.execute(noticed, "SELECT 1")
        await eventually(lambda: pool.recorder.closes == ["lost", "lost"])
        await pool.put(noticed, unnoticed)
        await eventually(lambda: pool.status()["idle"] == 2)
        conns = await pool.get_all(2)
        for conn in conns:
            assert conn not in (noticed, unnoticed)
            await pool.execute(conn, "SELECT 1")
        await pool.put(*conns)
        assert pool.size == 2


@in_loop
async def test_a_dead_connection_is_not_handed_on_to_a_waiter(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        unnoticed = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        pool.kill(admin)
        await eventually(lambda: pool.recorder.closes == ["lost"])
        await pool.put(unnoticed)
        conn = await waiting
        await pool.execute(conn, "SELECT 1")
        assert pool.recorder.outcomes == ["acquired", "created"]
        await pool.put(conn)


@in_loop
async def test_a_connection_that_its_user_has_closed_is_replaced(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        await asyncio.to_thread(conn.close) if kind == "sync" else await conn.close()
        await pool.put(conn)
        await eventually(lambda: pool.status()["idle"] == 1)
        assert len(pool.backends(admin)) == 1
        assert pool.pool.get_stats()["returns_bad"] == 1


@in_loop
async def test_idle_connections_are_verified_one_after_the_other(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """Seen from the server: each session gets something to do, with no request about."""
    async with opened(kind, dsn, min_size=3, check_interval=0.05) as pool:
        query = "SELECT pid, state_change FROM pg_stat_activity WHERE application_name = %s"

        def seen() -> dict[int, Any]:
            return dict(admin.execute(query, [pool.name]).fetchall())

        first = seen()
        await eventually(lambda: all(at > first[pid] for pid, at in seen().items()))
        second = seen()
        await eventually(lambda: all(at > second[pid] for pid, at in seen().items()))
        assert pool.recorder.created == ["warmup"] * 3
        assert pool.recorder.closes == []


@in_loop
async def test_those_that_are_due_together_are_verified_by_one_job(
    kind: Kind, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(kind, dsn, min_size=4) as pool:
        jobs: list[str] = []
        begin = pool.pool._begin

        def noted(what: str, job: Any) -> Any:
            jobs.append(what)
            return begin(what, job)

        monkeypatch.setattr(pool.pool, "_begin", noted)
        entries, now = [*pool.pool._core.idle], clock()
        for entry in entries:
            entry.proved_at = now - 30
        pool.pool._ring()
        await eventually(lambda: all(entry.proved_at >= now for entry in entries))
        assert jobs == ["verify"]


@in_loop
async def test_a_silent_connection_fails_its_verification_in_bounded_time(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """No packet comes back, as behind a firewall that has forgotten the connection."""
    async with opened(kind, gate_dsn, min_size=1, check_interval=0.3, check_timeout=0.2) as pool:
        gate.blackhole()
        await eventually(lambda: pool.recorder.closes == ["lost"])
        assert pool.status()["idle"] == 0
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 1)
        assert pool.recorder.created == ["warmup", "replace"]


@in_loop
async def test_a_connection_is_replaced_before_it_gets_too_old(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=2, max_size=3, max_lifetime=3.0) as pool:
        fewest = 2

        def replaced() -> bool:
            nonlocal fewest
            fewest = min(fewest, pool.status()["idle"])
            return len(pool.recorder.closes) == 2

        await eventually(replaced)
        closed = pool.recorder.of(Closed)
        assert [event.reason for event in closed] == ["lifetime", "lifetime"]
        assert max(event.age for event in closed) < 3.0
        assert fewest == 2
        events = [type(e) for e in pool.recorder.events if isinstance(e, (Connected, Closed))]
        # Each successor was there first, and the two were replaced one after the other.
        assert events == [Connected, Connected, Connected, Closed, Connected, Closed]
        assert pool.recorder.created[2:] == ["lifetime", "lifetime"]


@in_loop
async def test_a_full_pool_gives_the_old_one_up_first(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1, max_lifetime=0.5) as pool:
        await eventually(lambda: len(pool.recorder.created) == 2)
        assert pool.recorder.closes[:1] == ["lifetime"]


@in_loop
async def test_those_above_the_floor_are_closed_when_nobody_needs_them(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(kind, dsn, min_size=1, max_size=4, max_idle=0.3) as pool:
        await pool.put(*await pool.get_all(4))
        assert pool.size == 4
        await eventually(lambda: pool.recorder.closes == ["idle"] * 3)
        assert pool.status()["idle"] == pool.size == 1
        assert len(pool.backends(admin)) == 1


@in_loop
async def test_a_pool_without_a_floor_becomes_empty(kind: Kind, dsn: str) -> None:
    """Also while its idle connections are verified all the time: that is no use."""
    async with opened(kind, dsn, min_size=0, max_size=3, max_idle=0.3, check_interval=0.02) as pool:
        await pool.put(*await pool.get_all(3))
        await eventually(lambda: len(pool.recorder.closes) == 3)
        assert pool.recorder.closes == ["idle"] * 3
        assert pool.size == 0


@in_loop
async def test_shrinking_copes_with_a_check_that_has_the_idle_ones_out(
    kind: Kind, dsn: str
) -> None:
    """``check()`` and ``drain()`` take out more than they count."""
    held = threading.Event()

    class Slow(psycopg.Connection[Any]):
        def wait(self, *args: Any, **kwargs: Any) -> Any:
            held.wait(10)
            return super().wait(*args, **kwargs)

    class AsyncSlow(psycopg.AsyncConnection[Any]):
        async def wait(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.to_thread(held.wait, 10)
            return await super().wait(*args, **kwargs)

    cls = Slow if kind == "sync" else AsyncSlow
    async with opened(
        kind, dsn, min_size=0, max_size=2, max_idle=0.2, connection_class=cls
    ) as pool:
        await pool.put(*await pool.get_all(2))
        await eventually(lambda: pool.pool._core.idle_low == 2)
        began = monotonic()
        checking = asyncio.create_task(pool.call("check"))
        await eventually(lambda: pool.pool.counts().checking == 1)
        await eventually(lambda: pool.pool._keeper._idle_low_since > began + 0.2)
        held.set()
        await checking
        await eventually(lambda: pool.size == 0)
        assert pool.status()["opening"] == 0


@in_loop
async def test_with_the_database_away_it_keeps_trying_and_becomes_warm(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    gate.refuse()
    async with opened(kind, gate_dsn, warm=False, min_size=3) as pool:
        await eventually(lambda: len(pool.recorder.failures) > 3)
        assert not pool.pool.warm
        # Mostly "Connection refused", but another test's server may have the port meanwhile.
        assert "OperationalError: connection failed" in pool.status()["last_error"]
        gate.resume()
        assert await pool.call("wait_warm", 10)
        assert pool.status()["idle"] == 3
        assert pool.status()["last_error"] is None
        (warmed,) = pool.recorder.warmups
        assert warmed.opened == 3


@in_loop
async def test_while_connecting_fails_it_probes_one_at_a_time(kind: Kind) -> None:
    """After the first attempts, which went out together."""
    async with opened(kind, "host=127.0.0.1 port=1", warm=False, min_size=5) as pool:
        await eventually(lambda: len(pool.recorder.failures) >= 7)
        probes = pool.recorder.failures[5:]
        for earlier, later in zip(pool.recorder.failures[4:], probes, strict=False):
            assert later.began >= earlier.ended + 0.1


@in_loop
async def test_it_outlives_a_restart_of_the_server(kind: Kind) -> None:
    with PrivatePostgres() as server:
        async with opened(kind, server.conninfo(), min_size=2, max_size=4) as pool:
            lent = await pool.get()
            await asyncio.to_thread(server.restart, "immediate")
            await pool.put(lent)
            await eventually(lambda: pool.status()["idle"] == 2)
            conn = await pool.get()
            await pool.execute(conn, "SELECT 1")
            await pool.put(conn)
            assert pool.size == 2


@in_loop
async def test_reconnect_failed_is_called_while_it_goes_on_trying(
    kind: Kind, gate: SlowProxy, gate_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it raises is logged."""
    called: list[Any] = []

    def failed(pool: Any) -> None:
        called.append(pool)
        raise ValueError("from the callback")

    gate.refuse()
    pool = Face(kind, gate_dsn, min_size=1, reconnect_timeout=0.0, reconnect_failed=failed)
    await pool.open(warm=False)
    await eventually(lambda: called == [pool.pool] * 2)
    gate.resume()
    assert await pool.call("wait_warm", 10)
    await pool.close()
    assert "callback reconnect_failed failed: ValueError: from the callback" in caplog.text


@in_loop
async def test_reconnect_failed_may_close_the_pool(kind: Kind) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def failed(pool: Any) -> None:
        pool.close()
        loop.call_soon_threadsafe(closed.set)

    async def afailed(pool: Any) -> None:
        await pool.close()
        closed.set()

    pool = Face(
        kind,
        "host=127.0.0.1 port=1",
        min_size=1,
        reconnect_timeout=0.0,
        reconnect_failed=failed if kind == "sync" else afailed,
    )
    await pool.open(warm=False)
    await asyncio.wait_for(closed.wait(), 10)
    assert pool.pool.closed


@in_loop
async def test_a_listener_that_raises_costs_nobody_his_connection(kind: Kind, dsn: str) -> None:
    class Broken(Listener):
        def _raise(self, event: Any, /) -> None:
            raise ValueError("from the listener")

        acquire_ended = connected = connect_failed = closed = warmed = _raise

    async with opened(kind, dsn, min_size=1, max_size=1, listener=Broken()) as pool:
        for _ in range(3):
            await pool.put(await pool.get(timeout=5))
        assert pool.status()["acquires"] == {"acquired": 3}


@in_loop
async def test_the_upkeep_outlives_an_error_of_its_own(
    kind: Kind, dsn: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of a ledger; it looks again after a second."""
    async with opened(kind, dsn, min_size=1) as pool:
        raised: list[int] = []
        look = pool.pool._keeper.look

        def broken(*args: Any) -> Any:
            if not raised:
                raised.append(1)
                raise OSError("from a ledger")
            return look(*args)

        monkeypatch.setattr(pool.pool._keeper, "look", broken)
        pool.kill(admin)
        await eventually(lambda: raised)
        await eventually(lambda: pool.status()["idle"] == 1)


@in_loop
async def test_the_events_of_an_acquire_are_told_before_it_returns(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as pool:
        conn = await pool.get()
        (ended,) = pool.recorder.of(AcquireEnded)
        assert ended.began <= ended.ended
        await pool.put(conn)
