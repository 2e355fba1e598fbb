"""A guard of a fleet: real pools of either kind, on a real server."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

import poolguard
from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.ledger import FleetLedger
from poolguard.lab.proxy import SlowProxy
from tests.runtime.test_async import eventually
from tests.support import becomes, until

if TYPE_CHECKING:
    from poolguard.lab.postgres import PrivatePostgres

    from .conftest import Open, Rows

SEATED = """
SELECT array_agg(pid ORDER BY pid) FROM pg_locks WHERE locktype = 'advisory'
   AND classid = (%s::bigint & 4294967295)::oid AND mode = 'ExclusiveLock'
"""


def seated(rows: Rows, label: str) -> list[int]:
    """The pids of the sessions that occupy a slot."""
    [(pids,)] = rows(SEATED, Keys.of(label).seat)
    return pids or []


def fleet_of(guard: poolguard.Guard) -> FleetLedger:
    ledger = guard._own().ledger  # type: ignore[union-attr]
    assert isinstance(ledger, FleetLedger)
    return ledger


def test_each_pooled_session_occupies_its_slot(guard: Open, rows: Rows, label: str) -> None:
    one = guard()
    assert one.open(wait=10)
    with one.connection() as conn:
        assert conn.info.backend_pid in seated(rows, label)
    assert len(seated(rows, label)) == 2 + 1


def test_a_session_that_discards_all_occupies_its_slot_again_when_it_comes_back(
    guard: Open, rows: Rows, label: str
) -> None:
    """The server tells that it was reset, and so no question is asked of any other."""
    one = guard(floor=1)
    assert one.open(wait=10)
    with one.connection() as conn:
        pid = conn.info.backend_pid
        [(name,)] = rows("SELECT application_name FROM pg_stat_activity WHERE pid = %s", pid)
        conn.commit()
        conn.autocommit = True
        conn.execute("DISCARD ALL")
        assert pid not in seated(rows, label)
        conn.autocommit = False
    assert pid in seated(rows, label)
    assert rows("SELECT application_name FROM pg_stat_activity WHERE pid = %s", pid) == [(name,)]
    assert name == "poolguard"
    with one.connection() as conn:
        assert conn.info.backend_pid == pid


def test_a_session_that_is_always_in_use_is_asked_as_well_whether_it_occupies_its_slot(
    guard: Open, rows: Rows, label: str
) -> None:
    """It is never idle for long, and asked as it comes back."""
    one = guard(floor=1, check_interval=0.2)
    assert one.open(wait=10)
    with one.connection() as conn:
        pid = conn.info.backend_pid
        conn.execute("SELECT pg_advisory_unlock_all()")  # of which the server tells nothing
        assert pid not in seated(rows, label)

    def comes_back_seated() -> bool:
        with one.connection() as conn:
            assert conn.info.backend_pid == pid
        return pid in seated(rows, label)

    until(comes_back_seated)


def test_a_reset_that_discards_all_leaves_the_slot_occupied(
    guard: Open, rows: Rows, label: str
) -> None:
    def reset(conn: Any) -> None:
        conn.autocommit = True
        conn.execute("DISCARD ALL")
        conn.autocommit = False

    one = guard(floor=1, reset=reset)
    assert one.open(wait=10)
    with one.connection() as conn:
        pid = conn.info.backend_pid
    with one.connection() as conn:
        assert conn.info.backend_pid == pid
        assert pid in seated(rows, label)


def test_a_session_that_lets_go_of_its_locks_occupies_its_slot_again_when_it_is_checked(
    guard: Open, rows: Rows, label: str
) -> None:
    one = guard(floor=1, check_interval=0.1)
    assert one.open(wait=10)
    with one.connection() as conn:
        pid = conn.info.backend_pid
        conn.execute("SELECT pg_advisory_unlock_all()")
        assert pid not in seated(rows, label)
    until(lambda: pid in seated(rows, label))
    assert one.status()["created"] == {"warmup": 1}


def test_a_connection_is_opened_in_another_slot_where_its_own_is_occupied(
    guard: Open, rows: Rows, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = guard(floor=1)
    assert one.open(wait=10)
    until(lambda: len(fleet_of(one)._table.granted()) > 1)
    keys, ledger = Keys.of(label), fleet_of(one)
    free = [slot for slot in ledger._table.granted() if not ledger._table.is_taken(slot)]
    for slot in free:
        rows("SELECT pg_try_advisory_lock(%s, %s)", keys.seat, slot)
    with one.connection(), one.connection() as conn:
        conn.execute("SELECT 1")
    assert not ledger._table.granted() & {*free}
    assert one.status()["last_error"] is None
    assert "error connecting" not in caplog.text
    rows("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_connections_that_the_network_has_reset_are_ended_before_others_take_their_slots(
    guard: Open, rows: Rows, postgres: PrivatePostgres, label: str, mode: str
) -> None:
    """A router has lost its table, and so the server has the sessions still, the host's control
    session among them. The keeper ends that one as it joins again, and then asks about the others,
    since no process has a connection left to ask with."""
    peak, name = [0], f"reset-{label}-{mode}"
    over = Event()

    def watch() -> None:
        with postgres.connect(autocommit=True) as witness:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
            while not over.is_set():
                [(n,)] = witness.execute(query, [name]).fetchall()
                peak[0] = max(peak[0], n)

    with SlowProxy(("127.0.0.1", postgres.port)) as proxy, ThreadPoolExecutor() as threads:
        through = postgres.conninfo(host=proxy.host, port=proxy.port, application_name=name)
        one = guard(conninfo=through, mode=mode, budget=7, floor=4, max_size=4)

        def is_back() -> bool:
            status = one.status()
            return (status["closed"], status["idle"]) == ({"lost": 4}, 4)

        async def play() -> None:
            assert await (one.aopen(10) if mode == "async" else asyncio.to_thread(one.open, 10))
            watching = threads.submit(watch)
            proxy.forget_all()
            try:
                await eventually(is_back)
            finally:
                over.set()
            watching.result(10)
            await one.aclose()

        asyncio.run(play())
    assert peak[0] == 4


def test_a_guard_that_opens_for_the_first_time_learns_the_budget_from_the_server(
    guard: Open, rows: Rows, label: str
) -> None:
    one = guard(budget="auto", floor=3)
    assert one.open(wait=10)
    [(granted,)] = rows("SELECT current_setting('max_connections')::int")
    assert fleet_of(one).standing.budget == one.plan.budget < granted  # type: ignore[union-attr]
    becomes(lambda: one.status()["idle"], 3)


def test_an_async_pool_takes_part_as_well(guard: Open, rows: Rows, label: str) -> None:
    async def main() -> None:
        one = guard(mode="async", floor=3)
        assert await one.aopen(wait=10)
        async with one.aconnection() as conn:
            assert conn.info.backend_pid in seated(rows, label)
            await conn.set_autocommit(True)
            await conn.execute("DISCARD ALL")
            await conn.set_autocommit(False)
        while conn.info.backend_pid not in seated(rows, label):
            await asyncio.sleep(0.01)  # it takes its seat in a task
        assert len(seated(rows, label)) == 3 + 1
        await one.aclose()

    asyncio.run(main())
    becomes(lambda: seated(rows, label), [])


def test_two_guards_of_two_databases_share_one_budget_by_one_ledger(
    guard: Open, rows: Rows, postgres: PrivatePostgres, label: str
) -> None:
    """In the other database no session can occupy a slot by a lock that this one's would see."""
    rows("CREATE DATABASE second")
    try:
        one = guard(floor=2)
        second = f"{postgres.dsn.rpartition('/')[0]}/second"
        other = guard(conninfo=second, name=f"{label}-second", ledger_dsn=postgres.dsn)
        assert one.open(wait=10)
        assert other.open(wait=10)
        assert fleet_of(one).standing.hosts == 1
        becomes(lambda: [fleet_of(each).in_use for each in (one, other)], [2, 2])
        assert len(seated(rows, label)) == 2 + 1
    finally:
        rows("DROP DATABASE second WITH (FORCE)")


def test_without_its_ledger_a_host_goes_on_with_what_it_has_and_says_so(
    guard: Open, caplog: pytest.LogCaptureFixture, postgres: PrivatePostgres
) -> None:
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0.0) as proxy:
        port = f":{postgres.port}/"
        one = guard(floor=1, ledger_dsn=postgres.dsn.replace(port, f":{proxy.port}/"))
        assert one.open(wait=10)
    until(lambda: fleet_of(one)._file.trouble)
    with one.connection() as conn:
        conn.execute("SELECT 1")
        with pytest.raises(poolguard.PoolguardError, match="ledger cannot be used") as told:
            one._own().pool.getconn(timeout=1.0)  # type: ignore[union-attr]
    assert "opens no connection until it can" in str(told.value)
    until(lambda: "This host goes on with the connections that it has" in caplog.text)
