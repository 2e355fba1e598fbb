"""A guard: from settings to a warm pool, and what becomes of it when things go wrong."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import poolguard
from poolguard import Guard, ModeError, SettingsError
from poolguard.budget.plan import Plan, make_plan
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import PoolClosed
from poolguard.runtime import sizing
from poolguard.runtime.status import not_warm
from poolguard.runtime.sync import SyncRuntime

from ..support import until

SMALL: dict[str, Any] = {"budget": 8, "floor": 2, "max_size": 4}
"""Settings with a plan that asks no server."""


@pytest.fixture
def proxy(postgres: PrivatePostgres) -> Iterator[SlowProxy]:
    """A way to the server that a test may cut."""
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0.0) as own:
        yield own


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The first opening thread stops on its way, as if importing psycopg took long."""
    held = Held()
    monkeypatch.setattr(sizing, "make_plan", held)
    yield held
    held.release.set()


class Held:
    """``make_plan``, whose first caller waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.release = threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Plan:
        if not self.reached.is_set():
            self.reached.set()
            assert self.release.wait(10)
        return make_plan(*arguments, **named)


def named(dsn: str, name: str) -> str:
    """*dsn* under an application name, by which :func:`backends` knows its connections."""
    return make_conninfo(dsn, application_name=name)


def backends(admin: psycopg.Connection, name: str) -> int:
    """How many connections of that application name the server has."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    row = admin.execute(count, [name]).fetchone()
    assert row is not None
    return int(row[0])


def in_thread(job: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    return thread


# -- opening -----------------------------------------------------------------------------------


def test_open_waits_until_the_floor_is_there(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "floor"), **SMALL)
    assert guard.open(wait=10)
    assert guard.ready
    assert backends(admin, "floor") == 2
    with guard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("most", [2_592_000, 1e9])
def test_times_beyond_what_a_timer_can_count_let_the_pool_grow(dsn: str, most: float) -> None:
    times = ("check_interval", "check_after_idle", "idle_timeout", "max_lifetime", "leak_after")
    settings: dict[str, Any] = dict.fromkeys(times, most) | {"check_interval": most / 2}
    guard = Guard(dsn, **settings, **SMALL)
    assert guard.open(wait=10)
    with ExitStack() as lent:
        for _ in range(4):
            lent.enter_context(guard.connection()).execute("SELECT 1")
        assert guard.status()["used"] == 4


def test_waits_may_be_endless(dsn: str) -> None:
    guard = Guard(dsn, budget=1)
    assert guard.open(wait=math.inf)
    with ThreadPoolExecutor(1) as pool:
        with guard.connection(math.inf):
            other = pool.submit(lambda: guard.connection(math.inf).__enter__().close())
            until(lambda: guard.status()["waiting"])
        other.result(10)
    guard.close(math.inf)
    assert not guard.opened


def test_a_budget_beyond_what_the_ledger_can_count_is_served(dsn: str) -> None:
    guard = Guard(dsn, budget=10**9, floor=2)
    assert guard.open(wait=10)
    assert guard.status()["budget"]["instance"] == guard.status()["max_size"] == 16384
    with guard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_guard_is_inert_until_opened(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "inert"), **SMALL)
    assert (guard.opened, guard.ready, guard.plan) == (False, False, None)
    assert not guard.wait_warm(10)
    assert backends(admin, "inert") == 0
    with pytest.raises(PoolClosed, match="not open in this process"):
        guard.connection()
    with pytest.raises(PoolClosed, match="not open in this process"):
        _ = guard.pool


def test_the_first_connection_asks_for_the_capacity(postgres: PrivatePostgres) -> None:
    """20 for the role, less 3 in reserve, among 2 workers: one may borrow what the floors leave."""
    role = postgres.create_role("limited_to_20", connection_limit=20)
    guard = Guard(role, workers=2, floor=3)
    assert guard.open(wait=10)
    plan = guard.plan
    assert plan is not None
    assert (plan.capacity, plan.budget, plan.workers, plan.floor) == (20, 17, 2, 3)
    status = guard.status()
    assert (status["floor"], status["max_size"], status["idle"]) == (3, 14, 3)
    assert status["budget"] == {
        "capacity": 20,
        "budget": 17,
        "instance": 17,
        "in_use": 3,
        "others": [],
        "fleet": None,
    }


def test_one_connection_asks_before_there_are_others(
    slow_dsn: str, admin: psycopg.Connection
) -> None:
    """Until the server has told what it grants, there is no budget that a second one could keep."""
    guard = Guard(named(slow_dsn, "asking"), floor=3, max_size=3)
    guard.open()
    until(lambda: guard.status()["opening"])
    while guard.plan is None:
        assert guard.status()["opening"] <= 1
        assert backends(admin, "asking") <= 1
    assert guard.wait_warm(10)
    assert backends(admin, "asking") == 3


def test_a_budget_in_numbers_asks_nobody(proxy: SlowProxy, postgres: PrivatePostgres) -> None:
    proxy.refuse()
    guard = Guard(postgres.conninfo(port=proxy.port), **SMALL)
    guard.open()
    until(lambda: guard.plan)
    plan = guard.plan
    assert plan is not None
    assert (plan.capacity, plan.budget, plan.floor, plan.max_size) == (None, 8, 2, 4)


def test_a_capacity_that_cannot_be_divided_says_so(postgres: PrivatePostgres) -> None:
    """The arithmetic is in the status and in what the door logs, and it goes on asking."""
    role = postgres.create_role("limited_to_3", connection_limit=3)
    guard = Guard(role, workers=4)
    assert not guard.open(wait=0.2)
    until(lambda: guard.status()["last_error"])
    assert "nothing is left to share: the server grants 3 connection" in not_warm(guard.status(), 1)
    with postgres.connect() as admin:
        admin.execute("ALTER ROLE limited_to_3 CONNECTION LIMIT 10")
    assert guard.wait_warm(10)


def test_two_threads_that_open_open_once(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "twice"), **SMALL)
    together = threading.Barrier(8)

    def open_it() -> None:
        together.wait(10)
        guard.open(wait=10)

    threads = [in_thread(open_it) for _ in range(8)]
    for thread in threads:
        thread.join(10)
    assert guard.status()["created"] == {"warmup": 2}
    assert backends(admin, "twice") == 2


def test_an_acquire_waits_for_the_opening_thread(dsn: str, held: Held) -> None:
    guard = Guard(dsn, **SMALL)
    guard.open()
    assert held.reached.wait(10)
    got: list[Any] = []

    def acquire() -> None:
        with guard.connection() as conn:
            got.append(conn.execute("SELECT 1").fetchone())

    thread = in_thread(acquire)
    thread.join(0.1)
    assert not got
    held.release.set()
    thread.join(10)
    assert got == [(1,)]


def test_conninfo_and_environment_may_set_connect_timeout(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only poolguard's default gives way to libpq's setting, not what was asked for."""

    def chosen(name: str, conninfo: str, **settings: Any) -> object:
        guard = Guard(conninfo, name=name, **SMALL, **settings)
        assert guard.open(wait=10)
        kwargs: dict[str, Any] = guard.pool.kwargs
        return kwargs.get("connect_timeout", "libpq's")

    theirs = make_conninfo(dsn, connect_timeout=7)
    assert chosen("default", dsn) == 5
    assert chosen("theirs", theirs) == "libpq's"
    assert chosen("ours", theirs, connect_timeout=3.2) == 4
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert chosen("environment", dsn) == "libpq's"


# -- closing -----------------------------------------------------------------------------------


def test_close_ends_every_connection(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "closing"), **SMALL)
    guard.close()
    guard.open(wait=10)
    guard.close()
    assert backends(admin, "closing") == 0
    assert (guard.opened, guard.ready) == (False, False)
    with pytest.raises(PoolClosed):
        guard.connection().__enter__()
    guard.close()


def test_a_connection_in_use_outlives_close(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "in-use"), **SMALL)
    guard.open(wait=10)
    with guard.connection() as conn:
        guard.close()
        assert not guard.ready
        assert conn.execute("SELECT 1").fetchone() == (1,)
    until(lambda: backends(admin, "in-use") == 0)


def test_a_closed_guard_may_be_opened_again(dsn: str, admin: psycopg.Connection) -> None:
    guard = Guard(named(dsn, "again"), **SMALL)
    for _ in range(2):
        assert guard.open(wait=10)
        assert backends(admin, "again") == 2
        guard.close()
        assert backends(admin, "again") == 0


def test_closed_while_it_opens_it_opens_nothing(
    dsn: str, admin: psycopg.Connection, held: Held
) -> None:
    guard = Guard(named(dsn, "early"), **SMALL)
    guard.open()
    assert held.reached.wait(10)
    guard.close()
    held.release.set()
    assert not guard.wait_warm(10)
    assert guard.status()["created"] == {}
    assert backends(admin, "early") == 0
    with pytest.raises(PoolClosed, match="not open"):
        guard.connection()


def test_a_late_opening_thread_stays_out_of_the_next_opening(
    dsn: str, admin: psycopg.Connection, held: Held
) -> None:
    """Closed and opened again while the first opening still imports: one pool, not two."""
    guard = Guard(named(dsn, "late"), **SMALL)
    guard.open()
    assert held.reached.wait(10)
    first = guard._runtime
    guard.close()
    assert guard.open(wait=10)
    held.release.set()
    assert isinstance(first, SyncRuntime)
    assert first.built(10) is None
    assert guard.status()["created"] == {"warmup": 2}
    assert backends(admin, "late") == 2
    guard.close()
    assert backends(admin, "late") == 0


def test_a_signal_handler_may_close_what_the_same_thread_opens(dsn: str) -> None:
    """A handler runs in the middle of whatever the thread does, holding what that holds."""
    guard = Guard(dsn, **SMALL)

    def as_a_handler() -> None:
        with guard._lock:
            guard.open()
            assert isinstance(guard._runtime, SyncRuntime)
            with guard._runtime._lock:
                guard.close()

    thread = in_thread(as_a_handler)
    thread.join(10)
    assert not thread.is_alive()


def test_with_opens_warms_and_closes(dsn: str, admin: psycopg.Connection) -> None:
    with Guard(named(dsn, "with"), **SMALL) as guard:
        assert guard.ready
        with guard.connection() as conn:
            conn.execute("SELECT 1")
    assert backends(admin, "with") == 0


# -- what it says of itself --------------------------------------------------------------------


def test_status_is_plain_data_with_the_same_keys_in_every_state(dsn: str) -> None:
    guard = Guard(dsn, **SMALL)
    inert = guard.status()
    guard.open(wait=10)
    with guard.connection():
        opened = guard.status()
    guard.close()
    closed = guard.status()
    for status in (inert, opened, closed):
        assert json.loads(json.dumps(status)) == status
        assert status.keys() == inert.keys()
        assert (status["name"], status["pid"]) == ("default", os.getpid())
    assert (inert["mode"], inert["ready"], inert["floor"], inert["idle"]) == (None, False, None, 0)
    assert (opened["mode"], opened["ready"], opened["floor"]) == ("sync", True, 2)
    assert (opened["idle"], opened["used"], opened["acquires"]) == (1, 1, {"acquired": 1})
    assert (closed["ready"], closed["idle"], closed["used"]) == (False, 0, 0)
    assert closed["closed"] == {"shutdown": 2}


def test_repr_shows_name_state_and_what_was_set(dsn: str) -> None:
    guard = Guard(dsn, name="main", **SMALL)
    said = "Settings(dsn=<str>, budget=8, floor=2, max_size=4)"
    assert repr(guard) == f"<Guard 'main' inert {said}>"
    guard.open(wait=10)
    assert repr(guard) == f"<Guard 'main' ready {said}>"
    guard.close()
    assert repr(guard) == f"<Guard 'main' closed {said}>"


# -- the default guard -------------------------------------------------------------------------


def test_the_default_guard_comes_from_the_environment(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")
    guard = poolguard.guard()
    assert guard is poolguard.guard("default")
    guard.open(wait=10)
    with poolguard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(ModeError):
        poolguard.aconnection()


def test_the_default_guard_follows_the_environment_when_it_is_opened(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never works on another database silently."""
    monkeypatch.setenv("DATABASE_URL", "host=127.0.0.1 port=1")
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")
    guard = poolguard.guard()
    for database in ("postgres", "template1"):
        monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn, dbname=database))
        assert guard.open(wait=10)
        assert guard is poolguard.guard()
        with poolguard.connection() as conn:
            assert conn.info.dbname == database
        monkeypatch.setenv("DATABASE_URL", "host=elsewhere password=s3cret")
        with pytest.raises(SettingsError, match="Close the guard before") as refused:
            guard.open()
        assert "s3cret" not in str(refused.value)
        guard.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_its_pool_verifies_and_reports_as_the_settings_say(mode: str, dsn: str) -> None:
    """Its own defaults, where psycopg_pool's class has none or others."""
    guard = Guard(dsn, mode=mode, **SMALL, check_after_idle=7, leak_after=9)

    async def opened() -> tuple[float, float]:
        await (guard.aopen(10) if mode == "async" else asyncio.to_thread(guard.open, 10))
        pool: Any = guard.pool
        await (guard.aclose() if mode == "async" else asyncio.to_thread(guard.close))
        return pool._keeper.pace.check_after_idle, pool._keeper.leaks.leak_after

    assert asyncio.run(opened()) == (7, 9)
