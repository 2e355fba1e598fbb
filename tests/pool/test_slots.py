"""Slots: leased before a connect, given back when the server has ended the connection, never lost.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from poolguard.budget.slots import Slot
from poolguard.budget.static import StaticLedger
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import entry, sockets
from poolguard.pool.status import state_of
from poolguard.util.clock import now as clock
from tests.pool.support import Face, Kind, descriptors, eventually, in_loop, opened


class Witness(StaticLedger):
    """A ledger that looks, at the moment of each release, at what the server still has."""

    def __init__(self, limit: int | None, admin: psycopg.Connection[Any]) -> None:
        super().__init__(limit)
        self.pool: Face | None = None
        self.most = 0
        self.released = 0
        self.too_early: list[str] = []
        self._admin = admin

    def lease(self, n: int) -> list[Slot]:
        leased = super().lease(n)
        self.most = max(self.most, self.in_use)
        return leased

    def release(self, slot: Slot) -> None:
        assert self.pool is not None
        backends = len(self.pool.backends(self._admin))
        # With its slot gone, every session must still be covered by another one.
        if backends > self.in_use - 1:
            self.too_early.append(f"{slot}: {backends} sessions on {self.in_use} slots")
        self.released += 1
        super().release(slot)


@pytest.fixture
def looking(postgres: PrivatePostgres) -> Iterator[psycopg.Connection[Any]]:
    """The witness' own connection: it looks from the pools' threads."""
    with postgres.connect() as conn:
        yield conn


def witnessed(
    kind: Kind,
    dsn: str,
    looking: psycopg.Connection[Any],
    limit: int | None = None,
    **arguments: Any,
) -> tuple[Face, Witness]:
    ledger = Witness(limit, looking)
    pool = Face(kind, dsn, ledger=ledger, **arguments)
    ledger.pool = pool
    return pool, ledger


@in_loop
async def test_a_slot_is_leased_before_the_connect(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    ledger = StaticLedger(5)
    gate.blackhole()
    async with opened(kind, gate_dsn, warm=False, min_size=2, ledger=ledger) as pool:
        await eventually(lambda: pool.status()["opening"] == 2)
        assert pool.recorder.created == []
        assert ledger.in_use == 2
        gate.resume()
        assert await pool.call("wait_warm", 10)
        assert ledger.in_use == 2


@in_loop
async def test_without_a_free_slot_only_a_return_helps(
    kind: Kind, dsn: str, looking: psycopg.Connection[Any]
) -> None:
    pool, ledger = witnessed(kind, dsn, looking, limit=2, min_size=0, max_size=5)
    await pool.open()
    lent = await pool.get_all(2)
    waiting = asyncio.create_task(pool.get())
    await eventually(lambda: pool.status()["waiting"] == 1)
    text = await starved(pool)
    assert "The budget has no free slot" in text
    assert len(pool.backends(looking)) == ledger.most == 2
    await pool.put(lent[0])
    assert await waiting is lent[0]
    assert pool.recorder.outcomes[-1] == "waited"
    await pool.put(*lent)
    await pool.close()


async def starved(pool: Face) -> str:
    with pytest.raises(Exception, match=pool.name) as caught:
        await pool.get(timeout=0.05)
    return str(caught.value)


@in_loop
async def test_a_slot_that_another_pool_gives_back_is_taken_at_once(kind: Kind, dsn: str) -> None:
    """The ledger rings; neither pool asks it again and again."""

    class Counting(StaticLedger):
        asked = 0

        def lease(self, n: int) -> list[Slot]:
            self.asked += 1
            return super().lease(n)

    ledger = Counting(1)
    async with opened(kind, dsn, min_size=0, max_size=1, ledger=ledger) as pool:
        async with opened(kind, dsn, min_size=1, ledger=ledger):
            waiting = asyncio.create_task(pool.get())
            await eventually(lambda: ledger.asked == 2)
            await eventually(lambda: "no free slot" in state_of(pool.pool._keeper, clock()))
            assert ledger.asked == 2
        await pool.put(await waiting)
        assert pool.recorder.outcomes == ["created"]


@in_loop
async def test_a_slot_freed_while_the_ledger_answers_is_not_missed(kind: Kind, dsn: str) -> None:
    """The ring comes before the answer that there is none."""

    class Late(StaticLedger):
        def lease(self, n: int) -> list[Slot]:
            leased = super().lease(n)
            if not leased:
                self.release(taken.pop())
            return leased

    ledger = Late(1)
    taken = StaticLedger.lease(ledger, 1)
    async with opened(kind, dsn, min_size=0, max_size=1, ledger=ledger) as pool:
        await pool.put(await pool.get(timeout=5))


@pytest.mark.parametrize("how", ["idle", "discard", "drain", "kill", "close", "close lent"])
@in_loop
async def test_a_slot_is_given_back_when_the_server_has_ended_the_connection(
    *, kind: Kind, gate: SlowProxy, gate_dsn: str, admin: Any, looking: Any, how: str
) -> None:
    """Asked of the server, from within the release, for each way in which connections end.

    The server hears of a close with a delay: giving the slot back at the close would be too early.
    """
    pool, ledger = witnessed(kind, gate_dsn, looking, min_size=0, max_size=4, max_idle=0.3)
    await pool.open()
    conns = await pool.get_all(4)
    gate.set(latency=0.05)
    if how == "discard":
        for conn in conns:
            conn.pgconn.send_query(b"SELECT 1")  # returned in mid-query: psycopg_pool closes it
    if how != "close lent":
        await pool.put(*conns)
    if how == "drain":
        await pool.call("drain")
    if how == "kill":
        pool.kill(admin)
    if how.startswith("close"):
        await pool.close()
    if how == "close lent":
        await pool.put(*conns)
    await eventually(lambda: ledger.released == 4)
    assert ledger.too_early == []
    assert ledger.in_use == 0
    await eventually(lambda: len(pool.recorder.closes) == 4)
    await pool.close()


@in_loop
async def test_no_slot_is_lost_through_kills_and_failures(
    kind: Kind, gate: SlowProxy, gate_dsn: str, admin: psycopg.Connection, looking: Any
) -> None:
    pool, ledger = witnessed(kind, gate_dsn, looking, limit=6, min_size=2, max_size=8)
    await pool.open()
    broken = 0

    async def request() -> None:
        nonlocal broken
        for _ in range(30):
            try:
                conn = await pool.get(timeout=5)
                try:
                    await pool.execute(conn, "SELECT pg_sleep(0.005)")
                finally:
                    await pool.put(conn)
            except psycopg.OperationalError:
                broken += 1

    requests = asyncio.gather(*(request() for _ in range(8)))
    for _ in range(5):
        await asyncio.sleep(0.02)  # in the midst of it, wherever that is
        pool.kill(admin)
        gate.refuse()
        gate.resume()
    await requests
    assert broken
    assert ledger.most <= 6
    assert ledger.too_early == []
    await eventually(lambda: pool.status()["opening"] == 0 and ledger.in_use == pool.size)
    assert pool.status()["idle"] == pool.size == len(pool.backends(admin))
    status = pool.status()
    assert sum(status["created"].values()) - sum(status["closed"].values()) == pool.size
    await pool.close()
    assert ledger.in_use == 0


@pytest.mark.parametrize("failing", ["connect", "configure", "status"])
@in_loop
async def test_a_failed_connect_gives_its_slot_back(kind: Kind, dsn: str, failing: str) -> None:
    kept: list[Any] = []

    def configure(conn: Any) -> None:
        if failing == "configure":
            kept.append(conn)  # as a traceback in a log might
            raise ValueError("from configure")
        conn.pgconn.exec_(b"BEGIN")

    async def aconfigure(conn: Any) -> None:
        configure(conn)

    arguments: dict[str, Any] = {"configure": configure if kind == "sync" else aconfigure}
    if failing == "connect":
        arguments, dsn = {}, "host=127.0.0.1 port=1"
    ledger = StaticLedger(1)
    async with opened(kind, dsn, warm=False, min_size=1, ledger=ledger, **arguments) as pool:
        await eventually(lambda: pool.recorder.failures)
        await eventually(lambda: ledger.in_use == 0)
        if failing == "configure":
            assert pool.recorder.failures[0].error == "ValueError: from configure"
        if failing == "status":
            assert "left in status INTRANS by configure" in pool.recorder.failures[0].error


@in_loop
async def test_without_a_watch_on_sockets_the_slots_come_back_too(
    kind: Kind, dsn: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside Linux: closed, broken and dropped connections, and at the end all of them."""
    monkeypatch.setattr(sockets, "WATCHES", False)
    monkeypatch.setattr(entry, "WATCHES", False)
    ledger = StaticLedger(3)
    async with opened(kind, dsn, min_size=1, max_size=3, max_idle=0.2, ledger=ledger) as pool:
        conns = await pool.get_all(3)
        await pool.put(conns.pop())
        pool.kill(admin)
        for conn in conns:
            with pytest.raises(psycopg.OperationalError):
                await pool.execute(conn, "SELECT 1")
            await pool.put(conn)
        del conn, conns
        await eventually(lambda: pool.status()["used"] == 0)
        await pool.call("check")
        await eventually(lambda: pool.size == ledger.in_use == 1)
        conn = await pool.get()
    assert ledger.in_use == 1
    del conn  # without a word
    await eventually(lambda: gc.collect() is not None and ledger.in_use == 0)


@in_loop
async def test_closing_leaves_nothing_behind(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """No thread, no descriptor, no session, no slot; and once more changes nothing."""

    class Counting(StaticLedger):
        subscribed = 0

        def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
            self.subscribed += 1
            end = super().on_change(callback)

            def unsubscribe() -> None:
                self.subscribed -= 1
                end()

            return unsubscribe

    ledger = Counting()
    for _ in range(3):
        open_before = len(descriptors())
        pool = Face(kind, dsn, min_size=3, max_size=5, ledger=ledger)
        await pool.open()
        await pool.put(*await pool.get_all(5))
        await pool.close()
        await pool.close()
        assert pool.threads() == []
        assert pool.backends(admin) == set()
        assert ledger.in_use == 0
        assert pool.status()["idle"] == pool.status()["used"] == 0
        assert set(pool.recorder.closes) == {"shutdown"}
        assert len(pool.recorder.closes) == 5
        assert ledger.subscribed == 0
        assert len(descriptors()) == open_before


@in_loop
async def test_closing_while_connecting_leaves_nothing_behind(
    kind: Kind, slow_dsn: str, admin: psycopg.Connection
) -> None:
    """The connects end, or are given up; what they bring closes itself."""
    ledger = StaticLedger()
    open_before = len(descriptors())
    pool = Face(kind, slow_dsn, min_size=5, ledger=ledger)
    await pool.open(warm=False)
    await eventually(lambda: pool.status()["opening"] == 5)
    await pool.close()
    assert pool.threads() == []
    assert ledger.in_use == 0
    assert pool.status()["opening"] == 0
    assert len(descriptors()) == open_before
    await eventually(lambda: pool.backends(admin) == set())


@in_loop
async def test_closing_with_one_lent_and_others_connecting(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """The one goes on, the others do not."""
    ledger = StaticLedger()
    pool = Face(kind, gate_dsn, min_size=1, ledger=ledger)
    await pool.open()
    lent = await pool.get()
    gate.set(latency=0.05)
    await pool.call("resize", 4, 4)
    await eventually(lambda: pool.status()["opening"] == 3)
    await pool.close()
    assert pool.status()["opening"] == 0
    assert ledger.in_use == 1
    await pool.execute(lent, "SELECT 1")
    await pool.put(lent)
    await eventually(lambda: ledger.in_use == 0)


@in_loop
async def test_a_lent_connection_outlives_the_close_until_it_is_returned(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    ledger = StaticLedger()
    open_before = len(descriptors())
    pool = Face(kind, dsn, min_size=2, ledger=ledger)
    await pool.open()
    lent = await pool.get()
    await pool.close()
    assert ledger.in_use == len(pool.backends(admin)) == 1
    await pool.execute(lent, "SELECT 1")
    await pool.put(lent)
    await eventually(lambda: ledger.in_use == 0)
    await eventually(lambda: len(descriptors()) == open_before)
    assert pool.backends(admin) == set()
    assert pool.recorder.closes == ["shutdown", "shutdown"]
    await eventually(lambda: pool.threads() == [])


@in_loop
async def test_a_pool_that_nobody_refers_to_ends(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """Also while a connection of it is still in use; that one keeps its slot."""
    ledger = StaticLedger()
    open_before = len(descriptors())
    pool = Face(kind, dsn, min_size=2, ledger=ledger)
    await pool.open()
    lent = await pool.get()
    name = pool.name
    lent._pool = None  # the only reference to the pool, by psycopg_pool's own doing
    pool.pool = None  # type: ignore[assignment]
    gc.collect()
    await eventually(lambda: gc.collect() is not None and ledger.in_use == 1)
    assert len(pool.backends(admin)) == 1
    await pool.execute(lent, "SELECT 1")
    del lent
    await eventually(lambda: gc.collect() is not None and ledger.in_use == 0)
    await eventually(lambda: len(descriptors()) == open_before)
    threads = [thread.name for thread in threading.enumerate() if name in thread.name]
    assert threads == []
    assert pool.backends(admin) == set()


@in_loop
async def test_an_empty_pool_that_nobody_refers_to_ends(kind: Kind, dsn: str) -> None:
    """It has no connection whose end would wake it."""
    open_before = len(descriptors())
    pool = Face(kind, dsn, min_size=0, max_size=1)
    await pool.open()
    pool.pool = None  # type: ignore[assignment]
    await eventually(lambda: gc.collect() is not None and len(descriptors()) == open_before)
    await eventually(lambda: pool.threads() == [])
