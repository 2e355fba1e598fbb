"""The network loses connections without a word while commands are under way, on a real server.

And what is alive all the same, however silent it is, is never cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from inspect import isawaitable
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from poolguard.budget.static import StaticLedger
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import checking, suspects
from poolguard.pool.command import command_of
from poolguard.util.clock import now
from tests.pool.support import Face, Kind, eventually, in_loop, opened

NEVER = 1e6
"""A check_interval that verifies nothing by itself."""
TIMEOUT = 0.4
"""A check_timeout. A command that the server never had is given up in less than 2 seconds then."""
ALIVE = 2.0
"""Seconds for which commands of these tests are silent: longer than any that is lost."""


@pytest.fixture(autouse=True)
def _no_session_stays(gate: SlowProxy) -> Iterator[None]:
    yield
    gate.reset_all()


async def done(what: Any) -> Any:
    return await what if isawaitable(what) else what


def cuts(pool: Face) -> int:
    return pool.recorder.closes.count("lost")


async def hang(pool: Face, gate: SlowProxy, n: int) -> list[asyncio.Task[Any]]:
    """The network loses all connections, and *n* commands go out over them."""
    conns = await pool.get_all(n)
    gate.silence_all()

    async def use(conn: Any) -> None:
        try:
            await pool.execute(conn, "SELECT 1")
        finally:
            await pool.put(conn)

    tasks = [asyncio.create_task(use(conn)) for conn in conns]
    await asyncio.sleep(0)
    return tasks


@in_loop
async def test_a_command_that_the_network_has_lost_ends_with_an_error(
    kind: Kind, gate: SlowProxy, gate_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In seconds, and not in a quarter of an hour; and its slot comes back."""
    ledger = StaticLedger(9)
    async with opened(
        kind,
        gate_dsn,
        min_size=4,
        max_size=9,
        ledger=ledger,
        check_interval=NEVER,
        check_timeout=TIMEOUT,
    ) as pool:
        hung = await hang(pool, gate, 2)
        for task in hung:
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(task, 8.0)
        await eventually(lambda: pool.status()["idle"] >= 4 and ledger.in_use == pool.size)
        assert cuts(pool) == 4
        assert [*pool.pool._core.those("lent")] == []
        await eventually(lambda: caplog.text.count("has cut a connection") == 2)
        assert "the server has waited for a command itself" in caplog.text


@in_loop
async def test_where_the_server_does_not_reply_the_others_are_verified_before_they_are_lent(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """So acquires are given new ones long before anything is found dead."""
    async with opened(
        kind, gate_dsn, min_size=4, max_size=9, check_interval=NEVER, check_timeout=60.0
    ) as pool:
        hung = await hang(pool, gate, 1)
        await eventually(lambda: pool.pool._core.doubted_at > 0)
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")
        await pool.put(conn)
        assert pool.recorder.outcomes == ["acquired", "created"]
        assert cuts(pool) == 0
        gate.reset_all()
        await asyncio.wait(hung)


@in_loop
async def test_a_session_that_the_server_has_ended_is_cut_at_once(
    kind: Kind,
    gate: SlowProxy,
    gate_dsn: str,
    admin: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of its end, too, the network lets nothing through."""
    async with opened(
        kind, gate_dsn, min_size=1, max_size=2, check_interval=NEVER, check_timeout=60.0
    ) as pool:
        [hung] = await hang(pool, gate, 1)
        fresh = await pool.get()  # is asked about it as it is opened, or lies idle then
        await pool.put(fresh)
        known = pool.pool._keeper.suspects
        await eventually(lambda: any(s.evidence for s in known._known.values()))
        [lent] = pool.pool._core.those("lent")
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [lent.conn.info.backend_pid])
        [suspect] = known._known.values()
        suspect.evidence, suspect.ask_at = None, now()
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(hung, 5.0)
        await eventually(lambda: "the server has no such session any more" in caplog.text)
        gate.reset_all()


@in_loop
async def test_the_first_one_that_is_opened_asks_where_all_are_lent(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    async with opened(
        kind, gate_dsn, min_size=2, max_size=3, check_interval=NEVER, check_timeout=TIMEOUT
    ) as pool:
        hung = await hang(pool, gate, 2)
        await eventually(lambda: pool.pool._keeper.suspects.due)
        conn = await pool.get()
        known = pool.pool._keeper.suspects
        assert all(suspect.evidence for suspect in known._known.values())
        await pool.put(conn)
        for task in hung:
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(task, 8.0)


# -- what is alive


async def sleeps(pool: Face, conn: Any, _: Any) -> None:
    sleeping = asyncio.create_task(pool.execute(conn, f"SELECT pg_sleep({ALIVE})"))
    await eventually(lambda: command_of(conn._poolguard_entry))
    await sleeping


async def waits_for_a_lock(pool: Face, conn: Any, admin: psycopg.Connection[Any]) -> None:
    waiting = asyncio.create_task(pool.execute(conn, "SELECT pg_advisory_lock(2201)"))
    await asyncio.sleep(ALIVE)
    await asyncio.to_thread(admin.execute, "SELECT pg_advisory_unlock(2201)")
    await waiting


async def listens(pool: Face, conn: Any, _: Any) -> None:
    await pool.execute(conn, "LISTEN silence")
    await done(conn.commit())
    if pool.kind == "sync":
        await asyncio.to_thread(lambda: [*conn.notifies(timeout=ALIVE)])
    else:
        assert [each async for each in conn.notifies(timeout=ALIVE)] == []


async def thinks_between_two_statements(pool: Face, conn: Any, _: Any) -> None:
    await pool.execute(conn, "SELECT 1")
    await asyncio.sleep(ALIVE)
    await pool.execute(conn, "SELECT 1")


async def reads_slowly(pool: Face, conn: Any, _: Any) -> None:
    """All has arrived, and the server is idle: but the application is not done with it."""
    rows = conn.cursor().stream("SELECT generate_series(0, 1)")

    def read() -> None:
        for (n,) in rows:
            sleep(n * ALIVE)

    if pool.kind == "sync":
        await asyncio.to_thread(read)
    else:
        async for (n,) in rows:
            await asyncio.sleep(n * ALIVE)


async def copies_slowly(pool: Face, conn: Any, _: Any) -> None:
    await pool.execute(conn, "CREATE TEMP TABLE copied (n int)")

    def write() -> None:
        with conn.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write("1\n")
            sleep(ALIVE)

    if pool.kind == "sync":
        await asyncio.to_thread(write)
    else:
        async with conn.cursor().copy("COPY copied FROM STDIN") as copy:
            await copy.write("1\n")
            await asyncio.sleep(ALIVE)


async def waits_in_a_pipeline(pool: Face, conn: Any, _: Any) -> None:
    waiting = asyncio.create_task(in_pipeline(pool, conn, f"SELECT pg_sleep({ALIVE})", 0))
    await asyncio.sleep(ALIVE / 2)
    assert conn._poolguard_entry.waits_since
    assert command_of(conn._poolguard_entry) is None
    await waiting


async def fills_a_pipeline_slowly(pool: Face, conn: Any, _: Any) -> None:
    await in_pipeline(pool, conn, "SELECT 1", ALIVE)


async def in_pipeline(pool: Face, conn: Any, query: str, thinks: float) -> None:
    def run() -> None:
        with conn.pipeline():
            conn.execute(query)
            sleep(thinks)

    if pool.kind == "sync":
        await asyncio.to_thread(run)
    else:
        async with conn.pipeline():
            await conn.execute(query)
            await asyncio.sleep(thinks)


LIVELY: list[Callable[[Face, Any, Any], Any]] = [
    sleeps,
    waits_for_a_lock,
    listens,
    thinks_between_two_statements,
    reads_slowly,
    copies_slowly,
    waits_in_a_pipeline,
    fills_a_pipeline_slowly,
]


@in_loop
async def test_what_is_alive_is_not_cut_however_silent_it_is(
    kind: Kind, dsn: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once, each on a connection of its own; the pool asks about them."""
    questions: list[int] = []
    heard = suspects.Suspects.heard

    def note(self: Any, at: float, question: Any, reply: Any) -> None:
        questions.append(len(question))
        heard(self, at, question, reply)

    monkeypatch.setattr(suspects.Suspects, "heard", note)
    admin.execute("SELECT pg_advisory_lock(2201)")
    async with opened(
        kind,
        dsn,
        min_size=len(LIVELY) + 1,
        max_size=12,
        check_interval=NEVER,
        check_timeout=TIMEOUT,
    ) as pool:
        conns = await pool.get_all(len(LIVELY))
        await asyncio.gather(
            *(does(pool, conn, admin) for does, conn in zip(LIVELY, conns, strict=True))
        )
        await pool.put(*conns)
        assert cuts(pool) == 0
        assert questions


@in_loop
async def test_what_has_come_and_was_not_read_yet_is_no_silence(kind: Kind, dsn: str) -> None:
    """The application's thread may have no turn."""
    async with opened(kind, dsn, min_size=1, max_size=1, check_interval=NEVER) as pool:
        conn = await pool.get()
        entry = conn._poolguard_entry
        entry.waits_since = now()
        conn.pgconn.send_query(b"SELECT pg_sleep(0.5)")
        assert command_of(entry) is not None
        await eventually(lambda: command_of(entry) is None)
        entry.waits_since = 0.0
        await pool.put(conn)


@in_loop
async def test_a_server_that_cannot_say_what_sessions_do_is_not_asked_again(
    kind: Kind, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others than PostgreSQL speak its protocol. Its connections are as good as any."""
    monkeypatch.setattr(checking, "ASK_STATES", "SELECT what_no_server_has()")
    async with opened(
        kind, dsn, min_size=2, max_size=2, check_interval=NEVER, check_timeout=TIMEOUT
    ) as pool:
        conn = await pool.get()
        known = pool.pool._keeper.suspects
        slow = asyncio.create_task(pool.execute(conn, "SELECT pg_sleep(1)"))
        await eventually(lambda: known._refused_until)
        until = known._refused_until
        await slow
        await pool.put(conn)
        assert pool.recorder.closes == []
        assert known._refused_until == until


@in_loop
async def test_a_large_command_that_takes_long_to_arrive_is_not_cut(
    kind: Kind, gate: SlowProxy, gate_dsn: str, dsn: str
) -> None:
    """The server is idle until it has all of it, and says so over a faster way."""
    ways = [dsn, gate_dsn]
    async with opened(  # the answer to BEGIN is on its way for half a second, too
        kind, ways.pop, min_size=1, max_size=2, check_interval=NEVER, check_timeout=0.7
    ) as pool:
        conn = await pool.get()
        await pool.call("resize", 2, 2)
        await eventually(lambda: pool.status()["idle"] == 1)
        gate.set(latency=0.5)  # a megabyte at a time
        text = "x" * 3_500_000
        began = monotonic()
        await pool.execute(conn, f"SELECT length('{text}')")
        assert monotonic() - began > 1.5
        await pool.put(conn)
        assert cuts(pool) == 0


@in_loop
async def test_a_pool_at_rest_is_not_looked_at(kind: Kind, dsn: str) -> None:
    """But while anything is lent, and so it is once nothing is for half a second."""
    looks: list[float] = []
    async with opened(kind, dsn, min_size=2, max_size=2, check_interval=NEVER) as pool:
        keeper = pool.pool._keeper
        look = keeper.look

        def looked(*args: Any) -> Any:
            looks.append(now())
            return look(*args)

        keeper.look = looked  # type: ignore[method-assign, assignment]
        await eventually(lambda: keeper.suspects.at_rest)
        looks.clear()
        conn = await pool.get()  # rings, since the pool was at rest
        await eventually(lambda: len(looks) >= 4)
        assert looks[-1] - looks[0] > 0.8 * suspects.LOOK_EVERY * 3
        await pool.put(conn)
        await eventually(lambda: keeper.suspects.at_rest)
        looks.clear()
        await asyncio.sleep(3 * suspects.LOOK_EVERY)
        assert looks == []
