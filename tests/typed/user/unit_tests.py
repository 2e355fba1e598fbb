"""What a user tests with. Type checkers read it; nothing runs it."""

from __future__ import annotations

import re

import psycopg
from typing_extensions import assert_type

from poolguard import GuardedPool
from poolguard.pool.events import AcquireEnded, Closed
from poolguard.testing import (
    Answer,
    AsyncFakeConnection,
    FakeConnection,
    FakedGuard,
    FakePostgres,
    ManualClock,
    Query,
    RecordingListener,
    Results,
    UnexpectedQuery,
    fake,
)

ORDERS = "SELECT total FROM orders WHERE customer = %s"
CLOSED: Answer = psycopg.errors.AdminShutdown("bye")
RESULTS: Results = {ORDERS: [(30,), (12,)], re.compile("^INSERT"): 1}


def test_of_an_application() -> None:
    with fake(results={ORDERS: [(30,), (12,)]}, acquire_timeout=0.05) as db:
        assert_type(db, FakedGuard)
        db.on("INSERT INTO orders VALUES (%s, %s)", 1, CLOSED, lambda *params: len(params))
        with db.exhausted():
            pass
        assert_type(db.queries, list[Query])
        assert_type(db.commits, int)
        assert_type(db.kill(), int)
        assert_type(db.events, RecordingListener)
        assert_type(db.events.of(Closed), list[Closed])


async def test_of_an_async_application() -> None:
    async with fake("replica", RESULTS) as db:
        assert_type(db, FakedGuard)


def test_of_a_pool() -> None:
    listener = RecordingListener(returns=True)
    clock = ManualClock(100.0)
    with clock.installed(), FakePostgres(RESULTS) as db:
        assert_type(db, FakePostgres)
        with GuardedPool(db.conninfo, listener=listener) as pool, pool.connection():
            assert_type(clock.advance(60), float)
    assert_type(listener.wait(AcquireEnded, n=2), list[AcquireEnded])
    assert issubclass(UnexpectedQuery, AssertionError)


def test_of_a_decision() -> None:
    for conn in (FakeConnection(), AsyncFakeConnection(OSError("gone"))):
        conn.lose()
        assert_type(conn.closed, bool)
