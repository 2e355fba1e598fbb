"""What only the sync pool can have: threads, forks amid threads, races between them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest

from poolguard.budget.static import StaticLedger
from poolguard.errors import ForkError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.entry import Entry
from poolguard.pool.sync import GuardedPool
from tests.pool.support import Recorder, held_elsewhere, in_child
from tests.support import until

REQUEST: ContextVar[str] = ContextVar("request", default="none")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def pool(dsn: str, recorder: Recorder) -> Iterator[GuardedPool[Any]]:
    with GuardedPool(dsn, min_size=2, max_size=4, listener=recorder) as made:
        assert made.wait_warm(10)
        yield made


def pid_of(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


# -- forks


def test_in_a_forked_child_the_pool_is_refused_and_the_parents_goes_on(
    pool: GuardedPool[Any], dsn: str
) -> None:
    lent = pool.getconn()
    lent.autocommit = True
    backend = pid_of(lent)

    def child() -> str:
        said = []
        for use in (pool.getconn, pool.wait, pool.open, pool.__enter__):
            try:
                use()
            except ForkError as error:
                said.append(str(error))
        assert len(said) == 4
        assert all("was opened before this process" in text for text in said)
        assert pool.status()["idle"] == 0
        pool.check()
        pool.drain()
        pool.putconn(lent)
        pool.close()
        gc.collect()
        with GuardedPool(dsn, min_size=1) as own, own.connection() as conn:
            return str(pid_of(conn) != backend)

    with held_elsewhere(pool._mutex):
        assert in_child(child) == "True"
    assert pid_of(lent) == backend
    pool.putconn(lent)
    conns = [pool.getconn() for _ in range(2)]
    for conn in conns:
        pid_of(conn)
        pool.putconn(conn)
    assert pool.status()["closed"] == {}


def test_a_child_that_drops_the_pool_ends_nothing_of_the_parents(dsn: str) -> None:
    """Nor one that drops a connection whose pool the parent has dropped before the fork."""
    pool: GuardedPool[Any] | None = GuardedPool(dsn, min_size=1, max_size=2, open=True)
    assert pool is not None
    orphan, second = [pool.getconn(timeout=10) for _ in range(2)]
    orphan.autocommit = second.autocommit = True
    pool.close()
    held = [orphan, second]
    orphan._pool = second._pool = None
    pool = None
    gc.collect()

    def child() -> str:
        held.clear()
        gc.collect()
        return "dropped"

    del orphan, second
    assert in_child(child) == "dropped"
    for conn in held:
        pid_of(conn)
        conn.close()


def test_a_pool_made_before_a_fork_opens_in_the_child(dsn: str) -> None:
    pool = GuardedPool(dsn, min_size=1, open=False)

    def child() -> str:
        with pool, pool.connection() as conn:
            return str(pid_of(conn) > 0)

    assert in_child(child) == "True"
    assert pool.closed


# -- contexts


def test_connects_know_nothing_of_the_request_that_needs_them(dsn: str) -> None:
    """Nor do the events of connects; those of acquires do."""
    seen: dict[str, str] = {}

    class Reading(Recorder):
        def connected(self, event: Any, /) -> None:
            seen["connected"] = REQUEST.get()

        def acquire_ended(self, event: Any, /) -> None:
            seen["acquired"] = REQUEST.get()

    def configure(conn: Any) -> None:
        seen["configure"] = REQUEST.get()

    token = REQUEST.set("mine")
    arguments: dict[str, Any] = {"configure": configure, "listener": Reading()}
    with GuardedPool(dsn, min_size=0, max_size=1, **arguments) as pool:
        pool.putconn(pool.getconn())
    REQUEST.reset(token)
    assert seen == {"connected": "none", "configure": "none", "acquired": "mine"}


# -- races


def test_one_that_ends_while_it_is_being_returned_is_not_left_in_the_pool(
    postgres: PrivatePostgres, admin: psycopg.Connection, recorder: Recorder
) -> None:
    """The upkeep hears of its end after the return has asked, and before it has put it down."""
    # Over a network it would look at what is lent, and so wait for the lock that is held here.
    dsn = postgres.conninfo(host=str(postgres.folder))
    with GuardedPool(dsn, min_size=1, max_size=1, listener=recorder) as pool:
        assert pool.wait_warm(10)
        with pool._mutex:  # nor is the acquire to have it look for an owner that has ended
            pool._keeper.watches_owners = False
            pool._core.look_below(0)
        conn = pool.getconn()
        entry: Entry = conn._poolguard_entry  # type: ignore[attr-defined]
        with pool._mutex:
            admin.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
            until(lambda: entry.ended)
            pool.putconn(conn)
        until(lambda: pool.status()["idle"] == 1)
        other = pool.getconn()
        assert other is not conn
        pid_of(other)
        pool.putconn(other)
        until(lambda: recorder.closes == ["lost"])


def test_the_core_is_changed_under_the_lock_only(dsn: str, admin: psycopg.Connection) -> None:
    """In all that can happen to a pool."""
    unlocked: list[str] = []

    with GuardedPool(dsn, min_size=3, max_size=5, max_idle=0.1, check_interval=0.01) as pool:
        core = pool._core

        def strictly(name: str) -> None:
            method = getattr(core, name)

            def strict(*args: Any, **kwargs: Any) -> Any:
                if not pool._mutex._is_owned():  # type: ignore[attr-defined]
                    unlocked.append(name)
                return method(*args, **kwargs)

            setattr(core, name, strict)

        for name in ("take", "acquire", "withdraw", "begin", "arrive", "give_back", "check", "end"):
            strictly(name)
        for name in (
            "was_checked",
            "reset",
            "was_reset",
            "close",
            "shut",
            "drain",
            "doubt",
            "mend",
        ):
            strictly(name)
        conns = [pool.getconn(timeout=10) for _ in range(5)]
        for conn in conns[:3]:
            conn.close()
        conns[3].execute("SELECT 1")
        for conn in conns:
            pool.putconn(conn)
        until(lambda: pool.status()["idle"] == 3)
        pool.drain()
        until(lambda: pool.status()["idle"] == 3)
        lent = pool.getconn()
        admin.execute("SELECT pg_terminate_backend(%s)", [pid_of(lent)])
        until(lambda: pool.status()["closed"].get("lost", 0) >= 1)
        pool.putconn(lent)
        pool.check()
        until(lambda: pool.status()["idle"] == 3)
        lent = pool.getconn()
    pool.putconn(lent)
    assert unlocked == []
    assert pool.get_stats()["pool_size"] == 0


# -- threads


@pytest.mark.parametrize("role", ["connect", "verify"])
def test_where_no_thread_can_be_started_nothing_is_lost(
    dsn: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """As under a limit on processes; it tries again."""
    refused: list[str] = []
    start = threading.Thread.start

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.endswith(f"-{role}") and len(refused) < 3:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    ledger = StaticLedger(2)
    arguments: dict[str, Any] = {"ledger": ledger, "listener": recorder, "check_interval": 0.05}
    with GuardedPool(dsn, min_size=2, **arguments) as pool:
        until(lambda: len(refused) == 3)
        until(lambda: pool.status()["idle"] == ledger.in_use == 2)
        assert pool.status()["opening"] == 0
    assert ledger.in_use == 0


def test_the_upkeep_survives_the_pools_last_reference(dsn: str) -> None:
    """It may be the upkeep thread itself that lets the pool go."""
    ledger = StaticLedger()
    for _ in range(10):
        pool = GuardedPool(dsn, min_size=1, ledger=ledger, check_interval=0.001, open=True)
        assert pool.wait_warm(10)
        name = pool.name
        del pool
        gc.collect()
        until(lambda: ledger.in_use == 0)
        until(lambda name=name: not [t for t in threading.enumerate() if name in t.name])  # type: ignore[misc]
