"""What an acquire was: judged on the connection that it was given, and counted."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from types import SimpleNamespace
from typing import Any, get_args

import psycopg_pool
import pytest

from poolguard.pool.entry import Entry
from poolguard.pool.errors import PoolTimeout
from poolguard.pool.events import Outcome, Place
from poolguard.pool.outcomes import OUTCOMES, judge, worst
from poolguard.pool.sync import GuardedPool
from poolguard.pool.waiter import Waiter
from tests.pool.support import Recorder

NOW = 1000.0


@pytest.mark.parametrize(
    ("began", "connected", "was_free", "outcome"),
    [
        (10.0, 9.0, True, "acquired"),
        (10.0, 9.0, False, "waited"),
        (10.0, 11.0, False, "created"),
        (10.0, 11.0, True, "created"),  # it came while the acquire waited for the pool's lock
        (10.0, 10.0, False, "created"),  # a clock may be coarser than a connect is fast
    ],
)
def test_judge(began: float, connected: float, was_free: bool, outcome: Outcome) -> None:
    assert judge(began, connected, was_free) == outcome


def test_every_outcome_is_ranked_once() -> None:
    assert sorted(OUTCOMES) == sorted(get_args(Outcome))


def test_the_worst_is_the_later_in_the_list() -> None:
    for a, b in product(OUTCOMES, repeat=2):
        assert worst(a, b) == OUTCOMES[max(OUTCOMES.index(a), OUTCOMES.index(b))]


# -- what acquires are counted as


class Quiet(Waiter):
    """One whom nobody needs to wake."""

    def wake(self) -> None:
        pass


class Conn:
    """Stands for a connection."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.pgconn = SimpleNamespace(pgconn_ptr=1)


def unopened(recorder: Recorder | None = None) -> GuardedPool[Any]:
    """One that does nothing by itself."""
    return GuardedPool(
        "dbname=shop", min_size=0, max_size=1, open=False, listener=recorder or Recorder()
    )


def connected(pool: GuardedPool[Any], conn: Conn) -> Entry:
    """The entry of *conn*, which was connected just now and is idle, or lent to who waits."""
    core, entry = pool._core, Entry(None, NOW - 0.1)
    core.begin(entry)
    entry.take(conn)
    core.closed = False  # so that it may come in
    pool._keeper.lifecycle.connected(entry, "growth", Place("db", 5432, "shop"), NOW)
    core.arrive(entry, NOW)
    return entry


def acquires(pool: GuardedPool[Any]) -> dict[str, int]:
    counted: dict[str, int] = pool.status()["acquires"]
    return counted


def test_a_free_one_counts_as_taken_already() -> None:
    pool, conn = unopened(), Conn()
    entry = connected(pool, conn)
    assert pool._core.take(NOW + 1) is conn
    assert acquires(pool) == {"acquired": 1}
    pool._keeper.outcomes.ended(NOW + 1, NOW + 1, entry, was_free=True, taken=1)
    assert acquires(pool) == {"acquired": 1}


def test_a_free_one_that_is_younger_than_the_acquire_was_created() -> None:
    pool, conn = unopened(), Conn()
    entry = connected(pool, conn)
    assert pool._core.take(NOW + 1) is conn
    pool._keeper.outcomes.ended(NOW - 1, NOW + 1, entry, was_free=True, taken=1)
    assert acquires(pool) == {"created": 1}


@pytest.mark.parametrize(("for_waiter", "outcome"), [(True, "acquired"), (False, "waited")])
def test_one_that_was_checked_for_the_acquire_is_as_good_as_free(
    *, for_waiter: bool, outcome: Outcome
) -> None:
    """And the next that waits for it has waited."""
    pool, conn = unopened(), Conn()
    entry, core = connected(pool, conn), pool._core
    core.doubt(NOW + 1)
    first, second = Quiet(NOW + 1, NOW + 9), Quiet(NOW + 1, NOW + 9)
    assert core.acquire(NOW + 1, first) == core.acquire(NOW + 1, second) == "queued"
    core.check(entry, NOW + 1, for_waiter=for_waiter)
    assert core.was_checked(entry, NOW + 2) is first
    assert core.give_back(entry, NOW + 3) is second
    outcomes = pool._keeper.outcomes
    outcomes.ended(NOW + 1, NOW + 2, entry, was_free=first.free, taken=0)
    assert acquires(pool) == {outcome: 1}
    assert (first.conn, second.conn, second.free) == (conn, conn, False)


@pytest.mark.parametrize(
    ("dead", "was_free", "connected_before", "at_once"),
    [
        (True, True, True, True),
        (True, False, True, False),  # it was handed over: no sign that others are as old
        (True, True, False, False),  # it did not live long
        (False, True, True, False),  # the callback's own reasons
        (False, False, True, False),
    ],
)
def test_a_check_that_fails_is_followed_at_once_where_an_old_one_has_died(
    *, dead: bool, was_free: bool, connected_before: bool, at_once: bool
) -> None:
    pool, conn = unopened(), Conn(broken=dead)
    core, outcomes = pool._core, pool._keeper.outcomes
    waiter = Waiter(NOW + (1 if connected_before else -1), NOW + 10)
    entry = connected(pool, conn)
    if was_free:
        assert core.acquire(NOW + 1, waiter) is conn
        assert waiter.free
    assert pool._check_failed(waiter, entry, NOW + 2, conn) is at_once
    assert core.doubted_at == (NOW + 2 if dead else 0.0)
    # However it goes on, it is not one that an acquire has just taken.
    assert not waiter.free
    outcomes.refused("timeout", waiter.began, NOW + 3, lambda: None, waiter.taken)
    assert acquires(pool) == {"timeout": 1}


def test_the_next_free_one_does_not_make_an_acquire_one_that_just_acquired() -> None:
    """Once one was refused to it, it has waited, however many it takes."""
    pool, conn = unopened(), Conn()
    entry, core, waiter = connected(pool, conn), pool._core, Waiter(NOW + 1, NOW + 10)
    for n in range(3):
        assert core.acquire(NOW + 1, waiter) is conn
        assert waiter.free is (n == 0)
        if n < 2:
            assert not pool._check_failed(waiter, entry, NOW + 2, conn)
            core.give_back(entry, NOW + 1)
    pool._keeper.outcomes.ended(
        waiter.began, NOW + 3, entry, was_free=waiter.free, taken=waiter.taken
    )
    assert acquires(pool) == {"waited": 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (psycopg_pool.PoolTimeout(), "timeout"),
        (psycopg_pool.TooManyRequests(), "rejected"),
        (psycopg_pool.PoolClosed(), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_an_acquire_without_a_connection_is_counted(error: BaseException, outcome: str) -> None:
    recorder = Recorder()
    pool = unopened(recorder)
    with suppress(PoolTimeout):
        pool._note_failure(error, Waiter(NOW, NOW + 1))
    assert acquires(pool) == {outcome: 1}
    assert recorder.outcomes == [outcome]
