"""What acquires are, how fast a pool grows for them, and what it says when it cannot serve.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

import psycopg
import psycopg_pool
import pytest

from poolguard.errors import PoolguardError
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import describe
from poolguard.pool.events import AcquireEnded, Connected
from tests.pool.support import Face, Kind, eventually, in_loop, opened
from tests.support import HOSTILE, obeyed

# -- outcomes


@in_loop
async def test_a_free_connection_is_acquired(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1) as pool:
        for _ in range(3):
            await pool.put(await pool.get())
        assert pool.recorder.outcomes == ["acquired"] * 3
        assert pool.status()["acquires"] == {"acquired": 3}
        ended = pool.recorder.of(AcquireEnded)[-1]
        assert ended.pool == pool.name
        assert ended.connected == pool.recorder.of(Connected)[0]


@in_loop
async def test_waiting_for_anothers_return_has_waited(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        conn = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        await pool.put(conn)
        assert await waiting is conn
        assert pool.recorder.outcomes == ["acquired", "waited"]
        await pool.put(conn)


@in_loop
async def test_being_given_a_new_connection_has_created(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=0, max_size=2) as pool:
        first = await pool.get()
        second = await pool.get()
        assert pool.recorder.outcomes == ["created", "created"]
        assert pool.recorder.created == ["growth", "growth"]
        connected = pool.recorder.of(Connected)
        assert [event.connected for event in pool.recorder.of(AcquireEnded)] == connected
        await pool.put(first, second)


@in_loop
async def test_a_waiter_that_a_return_serves_has_created_nothing(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """The trap: its wait did set a connect off, which the gate holds until it has been served."""
    async with opened(kind, gate_dsn, min_size=1, max_size=2) as pool:
        conn = await pool.get()
        gate.blackhole()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["opening"] == 1)
        await pool.put(conn)
        assert await waiting is conn
        assert pool.recorder.outcomes == ["acquired", "waited"]
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 1)
        assert pool.recorder.created == ["warmup", "growth"]
        # And what that connect brought is free for the next one.
        other = await pool.get()
        assert pool.recorder.outcomes == ["acquired", "waited", "acquired"]
        await pool.put(conn, other)


@in_loop
async def test_a_waiter_that_the_warm_up_serves_has_created(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """It set nothing off, but it had to wait for a connection to be made."""
    gate.blackhole()
    async with opened(kind, gate_dsn, warm=False, min_size=1, max_size=1) as pool:
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == pool.status()["opening"] == 1)
        gate.resume()
        await pool.put(await waiting)
        assert pool.recorder.outcomes == ["created"]
        assert pool.recorder.created == ["warmup"]


@in_loop
async def test_after_a_check_that_failed_a_free_connection_was_not_just_acquired(
    kind: Kind, dsn: str
) -> None:
    refused: list[Any] = []

    def check(conn: Any) -> None:
        if not refused:
            refused.append(conn)
            conn.pgconn.finish()
            raise psycopg.OperationalError("dead")

    async def acheck(conn: Any) -> None:
        check(conn)

    how = check if kind == "sync" else acheck
    async with opened(kind, dsn, min_size=2, check=how) as pool:
        conn = await pool.get()
        assert conn is not refused[0]
        assert pool.recorder.outcomes == ["waited"]
        await pool.put(conn)
        await pool.put(await pool.get())
        assert pool.recorder.outcomes[1] == "acquired"


@in_loop
async def test_every_acquire_is_counted_once(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=2, max_size=5) as pool:

        async def request() -> None:
            for _ in range(20):
                conn = await pool.get()
                await pool.execute(conn, "SELECT 1")
                await pool.put(conn)

        await asyncio.gather(*(request() for _ in range(10)))
        assert sum(pool.status()["acquires"].values()) == len(pool.recorder.outcomes) == 200
        assert set(pool.status()["acquires"]) <= {"acquired", "waited", "created"}
        assert pool.size == len(pool.recorder.created) <= 5


# -- growth


def one_connect(dsn: str) -> float:
    """Seconds that a connect takes here and now."""
    began = monotonic()
    psycopg.connect(dsn).close()
    return monotonic() - began


@in_loop
async def test_a_burst_on_a_cold_pool_takes_about_one_connect(kind: Kind, slow_dsn: str) -> None:
    """psycopg_pool takes as many connects as there are requests."""
    one = await asyncio.to_thread(one_connect, slow_dsn)
    async with opened(kind, slow_dsn, min_size=0, max_size=10) as pool:
        began = monotonic()
        conns = await pool.get_all(10)
        assert monotonic() - began < 4 * one
        assert pool.recorder.outcomes == ["created"] * 10
        assert pool.recorder.created == ["growth"] * 10
        await pool.put(*conns)


@in_loop
async def test_a_burst_beside_a_lent_connection_is_hardly_slower(kind: Kind, slow_dsn: str) -> None:
    """The slow start is one of milliseconds."""
    one = await asyncio.to_thread(one_connect, slow_dsn)
    async with opened(kind, slow_dsn, min_size=1, max_size=11) as pool:
        lent = await pool.get()
        began = monotonic()
        conns = await pool.get_all(10)
        assert monotonic() - began < 4 * one
        await pool.put(lent, *conns)


@in_loop
async def test_a_floor_of_ten_is_warm_after_about_one_connect(kind: Kind, slow_dsn: str) -> None:
    one = await asyncio.to_thread(one_connect, slow_dsn)
    async with opened(kind, slow_dsn, min_size=10) as pool:
        (warmed,) = pool.recorder.warmups
        assert (warmed.asked, warmed.opened) == (10, 10)
        assert warmed.seconds < 4 * one
        assert pool.recorder.created == ["warmup"] * 10
        assert pool.status()["warmup"] == {"asked": 10, "opened": 10, "seconds": warmed.seconds}


@in_loop
async def test_no_more_connects_at_once_than_allowed(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    await eventually(lambda: gate.stats()["open"] == 0)  # what other tests have left
    gate.blackhole()
    async with opened(kind, gate_dsn, warm=False, min_size=6, max_connecting=2) as pool:
        await eventually(lambda: pool.status()["opening"] == 2)
        accepted = gate.stats()["open"]
        gate.resume()
        assert await pool.call("wait_warm", 10)
        assert accepted <= 2
        assert pool.status()["idle"] == 6


@in_loop
async def test_raising_max_size_serves_those_who_wait_already(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        lent = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        await pool.call("resize", 1, 2)
        conn = await asyncio.wait_for(waiting, 10)
        await pool.put(lent, conn)


# -- when there is none

SECRETS = ("s3cret", "s3c", "ret")


def test_the_errors_are_ours_and_psycopg_pools() -> None:
    from poolguard.pool import errors

    for name in ("PoolTimeout", "TooManyRequests", "PoolClosed"):
        error = getattr(errors, name)
        assert issubclass(error, getattr(psycopg_pool, name))
        assert issubclass(error, PoolguardError)


async def refused(pool: Face, kind: type[Exception], **timeout: float) -> str:
    """The text of the error that an acquire ends in, of psycopg_pool's class and of ours."""
    with pytest.raises(kind) as caught:
        await pool.get(**timeout)
    assert isinstance(caught.value, PoolguardError)
    return str(caught.value)


@in_loop
async def test_a_timeout_tells_the_pools_state_and_what_to_change(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1) as pool:
        lent = await pool.get()
        text = await refused(pool, psycopg_pool.PoolTimeout, timeout=0.05)
        assert text.startswith("couldn't get a connection after 0.")
        assert f"pool {pool.name!r}: 1 of 1 connections, 0 idle, 1 used, 0 opening" in text
        assert "Raise max_size" in text
        assert pool.recorder.outcomes == ["acquired", "timeout"]
        await pool.put(lent)


@in_loop
async def test_a_timeout_tells_why_connecting_fails_but_no_password(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = "postgresql://me:s3cret@127.0.0.1:1/shop"
    async with opened(kind, dsn, warm=False, min_size=1) as pool:
        await eventually(lambda: pool.recorder.failures)
        text = await refused(pool, psycopg_pool.PoolTimeout, timeout=0.05)
        assert "Connecting fails: OperationalError: " in text
        assert "Connection refused" in text
        assert text.endswith("Look at the server first")
        told = [text, str(pool.status()), repr(pool.pool), str(pool.recorder.events), caplog.text]
        assert not [where for where in told if "s3cret" in where]


@in_loop
async def test_beyond_max_waiting_an_acquire_is_rejected_at_once(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=1, max_waiting=1) as pool:
        lent = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        text = await refused(pool, psycopg_pool.TooManyRequests)
        assert f"the pool {pool.name!r} has already 1 requests waiting" in text
        assert "1 used" in text
        await pool.put(lent)
        await pool.put(await waiting)
        assert pool.recorder.outcomes == ["acquired", "rejected", "waited"]


@in_loop
async def test_before_opening_and_after_closing(kind: Kind, dsn: str) -> None:
    pool = Face(kind, dsn, min_size=1)
    assert "is not open yet" in await refused(pool, psycopg_pool.PoolClosed)
    await pool.open()
    await pool.close()
    assert "is already closed" in await refused(pool, psycopg_pool.PoolClosed)
    with pytest.raises(psycopg_pool.PoolClosed) as caught:
        await pool.call("open")
    assert isinstance(caught.value, PoolguardError)
    assert pool.recorder.outcomes == ["error", "error"]


@in_loop
async def test_closing_ends_those_who_wait(kind: Kind, dsn: str) -> None:
    pool = Face(kind, dsn, min_size=1, max_size=1)
    await pool.open()
    lent = await pool.get()
    waiting = asyncio.create_task(refused(pool, psycopg_pool.PoolClosed))
    await eventually(lambda: pool.status()["waiting"] == 1)
    await pool.close()
    assert pool.name in await waiting
    await pool.put(lent)


@in_loop
async def test_waiting_for_a_floor_in_vain_closes_the_pool_and_says_why(kind: Kind) -> None:
    """As psycopg_pool documents; ``wait_warm`` leaves it open."""
    pool = Face(kind, "host=127.0.0.1 port=1", min_size=1)
    await pool.open(warm=False)
    assert not await pool.call("wait_warm", 0.01)
    await eventually(lambda: pool.recorder.failures)
    with pytest.raises(psycopg_pool.PoolTimeout, match="Connection refused") as caught:
        await pool.call("wait", 0.01)
    assert isinstance(caught.value, PoolguardError)
    assert pool.pool.closed


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:s3c%ret@127.0.0.1:1/shop",
        "host=127.0.0.1 port=1 password=s3c ret",
        "postgresql://me:s3c@ret@127.0.0.1:1/shop",
        "postgresql://me:1/s3c@ret@127.0.0.1/shop",
        "postgresql://127.0.0.1:s3c/ret@127.0.0.1/shop",
        "postgresql://127.0.0.1,127.0.0.2:s3c/ret@127.0.0.1/shop",
        "postgresql://nowhere.invalid,nowhere.invalid:s3c/ret@127.0.0.1/shop",
        "postgresql://me:x@127.0.0.1:1/shop?connect_timeout=s3cret",
        "postgresql://me:x@127.0.0.1:1/shop?sslmode=s3cret",
    ],
)
def test_what_libpq_misreads_is_not_quoted(dsn: str) -> None:
    """Passwords with characters that would have to be encoded, and values in the wrong place."""
    with pytest.raises(psycopg.Error) as caught:
        psycopg.connect(dsn)
    assert not [secret for secret in SECRETS if secret in describe(caught.value)]


def test_what_a_server_or_a_callback_says_is_shown_in_full() -> None:
    error = psycopg.ProgrammingError("connection left in status INTRANS by configure function f")
    assert describe(error, of_connect=False) == f"ProgrammingError: {error}"
    refusal = psycopg.OperationalError('FATAL:  database "shop" does not exist\n')
    assert describe(refusal) == 'OperationalError: FATAL: database "shop" does not exist'
    unknown = psycopg.OperationalError("failed to resolve host 'db.internal': unknown")
    assert describe(unknown) == f"OperationalError: {unknown}"
    assert describe(ValueError()) == "ValueError"


def test_what_a_server_says_is_one_line_in_which_nothing_is_obeyed() -> None:
    said = describe(psycopg.OperationalError(HOSTILE))
    assert (obeyed(said), "\n" in said) == ([], False)
    assert said.startswith(r"OperationalError: \x1b]0;t\x07")
