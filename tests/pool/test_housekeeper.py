"""The keeper of a pool: what is counted when two things happen at once, and what is logged."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import ConnStatus

from poolguard.budget.slots import Slot
from poolguard.budget.static import StaticLedger
from poolguard.pool import housekeeper as module
from poolguard.pool.checking import begin_next
from poolguard.pool.connecting import all_are_served
from poolguard.pool.entry import Entry, Verdict
from poolguard.pool.errors import lacks_room, verdict_of
from poolguard.pool.events import Place
from poolguard.pool.housekeeper import Housekeeper
from poolguard.pool.session import note_errors
from poolguard.pool.status import status_of
from poolguard.pool.transitions import Close, Condition, Fate, Reset
from poolguard.pool.upkeep import Pace, between_retirements
from poolguard.pool.waiter import Waiter
from poolguard.testing import AsyncFakeConnection as AsyncConn
from poolguard.testing import FakeConnection as Conn
from tests.pool.support import Kind, Recorder, in_loop, opened

PLACE = Place("db", 5432, "shop")
NOW = 1000.0
CONNECT_TIME = 0.05
"""Seconds, which a pool that has not connected yet expects as well."""


def keeper(recorder: Recorder | None = None, **arguments: Any) -> Housekeeper:
    made = Housekeeper(
        arguments.pop("min_size", 1),
        arguments.pop("max_size", 100),
        listener=recorder or Recorder(),
        pace=Pace(25.0, 1.0, 600.0),
        max_connecting=32,
        max_lifetime=3600.0,
        **{"reconnect_timeout": math.inf, **arguments},
    )
    made.opened("shop", NOW, lambda: None)
    return made


def begun(made: Housekeeper, began: float = NOW, slot: Slot | None = None) -> Entry:
    """The entry of a connect that is under way."""
    entry = Entry(slot, began)
    made.core.begin(entry)
    return entry


def arrived(made: Housekeeper, entry: Entry, now: float = NOW) -> Conn:
    """The entry's connect has ended well. The connection is idle now, if it is not closed."""
    conn = Conn()
    entry.take(conn)
    entry.watched = True  # by the watch, which there is none of here
    made.lifecycle.connected(entry, "growth", PLACE, now)
    made.core.arrive(entry, now)
    return conn


def connected(made: Housekeeper) -> Entry:
    """One that was connected just now, and is idle."""
    entry = begun(made, NOW - CONNECT_TIME, *made.leases.lease(1, NOW))
    arrived(made, entry)
    return entry


def take(made: Housekeeper, now: float = NOW) -> Conn:
    conn = made.core.take(now)
    assert isinstance(conn, Conn)
    return conn


def lent(made: Housekeeper) -> tuple[Entry, Conn]:
    """One that was connected just now, and is lent. Who has the connection is to keep it."""
    entry = connected(made)
    return entry, take(made)


def holding(made: Housekeeper, *, size: int, idle: int) -> list[Conn]:
    """Have it hold so many connections; returns those that are lent, to be kept."""
    for _ in range(size):
        connected(made)
    return [take(made) for _ in range(size - idle)]


def openings(made: Housekeeper, now: float = NOW) -> list[str]:
    """Why the connects are made that a look begins."""
    return [opening.reason for opening in made.look(now).openings]


@pytest.mark.parametrize("order", ["end first", "told between", "connect first"])
def test_the_end_of_a_connection_is_counted_once(order: str) -> None:
    """Whether the watch tells of it before, while or after it is noted that it is connected."""
    recorder = Recorder()
    made = keeper(recorder)
    entry = begun(made)
    if order == "end first":
        made.look(NOW, [entry])
    if order == "told between":
        entry.end()
    conn = arrived(made, entry)
    if order != "end first":
        assert made.look(NOW, [entry]).dead == ([conn] if order == "connect first" else [])
    made.outbox.tell()
    assert entry.state == "gone"
    assert recorder.closes == ["lost"]
    assert status_of(made)["closed"] == {"lost": 1}


def test_a_slot_is_given_back_once() -> None:
    ledger = StaticLedger(2)
    made = keeper(ledger=ledger)
    (slot,) = ledger.lease(1)
    entry = begun(made, NOW, slot)
    made.lifecycle.ended(entry, NOW)
    made.lifecycle.ended(entry, NOW)
    made.leases.vacate(entry)
    assert ledger.in_use == 0


def test_a_long_outage_is_told_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    recorder = Recorder()
    made = keeper(recorder)
    for _ in range(1000):
        made.lifecycle.connect_failed(begun(made), "growth", OSError("away"), NOW)
    made.outbox.tell()
    assert len(caplog.records) == 10
    assert {record.name for record in caplog.records} == {"psycopg.pool"}
    assert len(recorder.failures) == 1000
    assert not made.core.entries


def test_giving_up_is_told_once_in_each_reconnect_timeout() -> None:
    made = keeper(reconnect_timeout=10.0)
    told = [
        made.lifecycle.connect_failed(
            begun(made, NOW + after - 5), "growth", OSError(), NOW + after
        )
        for after in range(5, 30, 5)
    ]
    assert told == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("text", "it_does"),
    [
        ("FATAL:  sorry, too many clients already", True),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER at…", True),
        ("FATAL:  remaining connection slots are reserved for non-replication superuser …", True),
        ('FATAL:  too many connections for role "shop"', True),
        ('FATAL:  too many connections for database "shop"', True),
        ("FATAL:  no more connections allowed (max_client_conn)", True),
        ("FATAL:  Max client connections reached", True),
        ("FATAL:  tut mir leid, schon zu viele Verbindungen", True),
        ("FATAL:  les emplacements de connexions restants sont réservés pour les …", True),
        ('FATAL:  ロール"shop"からの接続が多すぎます', True),
        ("FATAL:  the database system is starting up", False),
        ('FATAL:  password authentication failed for user "shop"', False),
        ("Connection refused", False),
    ],
)
def test_which_errors_of_a_connect_tell_that_there_is_no_room(text: str, it_does: bool) -> None:
    error = psycopg.OperationalError(f"connection failed: connection to server at … {text}")
    assert lacks_room(error) is it_does
    assert not lacks_room(ValueError(text))


def test_for_whom_the_server_has_no_room_siblings_may_help() -> None:
    made = keeper()
    made.lifecycle.connect_failed(begun(made), "growth", errors.TooManyConnections("no room"), NOW)
    assert made.leases.starved
    assert not made.outage.lasts


def test_a_connect_that_hung_while_later_ones_ended_well_is_no_outage() -> None:
    """Nothing waits for the next probe, and the capacity need not be asked again."""
    made = keeper()
    hanging, later = begun(made), begun(made)
    arrived(made, later)
    made.lifecycle.connect_failed(hanging, "growth", errors.ConnectionTimeout("hung"), NOW + 9)
    assert not made.outage.lasts
    made.lifecycle.connect_failed(
        begun(made, NOW + 1), "growth", errors.ConnectionTimeout("hung"), NOW + 9
    )
    assert made.outage.lasts


# -- doubt


def test_at_rest_nobody_looks_for_owners_that_have_ended() -> None:
    """Until an acquire has the pool looked at, as the next one does."""
    made = keeper(min_size=0)
    made.watches_owners = True
    entry = connected(made)

    def next_look() -> float:
        return (made.look(NOW).wake or math.inf) - NOW

    lent = take(made)  # it is kept: one that nobody refers to is given up
    assert next_look() == module.UNOWNED
    made.core.give_back(entry, NOW)
    assert take(made) is lent
    made.core.give_back(entry, NOW)
    assert next_look() == module.UNOWNED  # it was lent since the last look
    assert made.core.low_water < module.ANY
    assert next_look() > module.UNOWNED
    assert made.core.low_water == module.ANY


def test_while_each_acquire_that_waits_has_a_connect_there_is_nothing_to_decide() -> None:
    made = keeper(min_size=1)
    assert not all_are_served(made, NOW)
    connected(made)
    made.look(NOW)
    take(made)
    waiters = [Waiter(NOW, NOW + 1) for _ in range(2)]
    made.core.waiting.extend(waiters)
    begun(made)
    assert not all_are_served(made, NOW)  # one connect for two
    begun(made)
    assert all_are_served(made, NOW)
    made.warm_after = None
    assert not all_are_served(made, NOW)
    made.warm_after = 0.0
    made.core.min_size = 4
    assert not all_are_served(made, NOW)
    made.core.min_size = 1
    made.core.waiting.clear()
    assert not all_are_served(made, NOW)


def test_a_connect_that_takes_too_long_serves_nobody() -> None:
    made = keeper(min_size=1)
    connected(made)
    made.look(NOW)
    take(made)
    made.core.waiting.append(Waiter(NOW, NOW + 1))
    begun(made)
    assert all_are_served(made, NOW + CONNECT_TIME)
    assert not all_are_served(made, NOW + 60)


def test_a_check_follows_another_unless_there_is_something_else_to_be_done() -> None:
    made = keeper()
    entry = connected(made)
    later = NOW + 25
    assert begin_next(made, NOW) is None
    waiter = Waiter(later, later + 1)
    made.core.waiting.append(waiter)
    assert begin_next(made, later) is None
    made.core.waiting.clear()
    made.core.doubt(NOW + 1)
    assert begin_next(made, later) is None
    made.core.doubted_at = 0.0
    assert begin_next(made, later) == (entry.conn, entry)
    other = connected(made)
    other.proved_at = NOW
    assert begin_next(made, later) is None  # the other's is under way
    made.core.was_checked(entry, later)
    assert begin_next(made, later) == (other.conn, other)


def test_a_doubt_is_not_lifted_by_an_earlier_one() -> None:
    made = keeper()
    made.core.doubt(5.0)
    made.core.doubt(3.0)
    assert made.core.doubted_at == 5.0


@in_loop
async def test_one_that_fails_its_check_may_have_been_dead_when_that_began(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=3) as pool:
        core = pool.pool._core

        async def check(*, dead: bool, closed: bool = False) -> float:
            """When the check began, of one that is *closed* by the pool meanwhile."""
            entry = core.idle[0]
            since = entry.proved_at
            conn = core.check(entry, since)
            if dead:
                conn.pgconn.finish()
            if closed:
                core.close(entry, "discarded")
            await pool.pool._check_one(conn, entry, ())
            return since

        await check(dead=False)
        await check(dead=True, closed=True)
        assert core.doubted_at == 0.0
        since = await check(dead=True)
        assert core.doubted_at == since


@pytest.mark.parametrize(
    ("error", "condition", "fate", "doubted"),
    [
        (errors.ReadOnlySqlTransaction(), "clean", Reset(), False),  # it is asked about
        (errors.AdminShutdown(), "clean", Close("discarded"), True),
        (errors.CrashShutdown(), "clean", Close("discarded"), True),
        (errors.CannotConnectNow(), "clean", Close("discarded"), True),
        # What is dead is not taken back anyway.
        (errors.AdminShutdown(), "lost", Close(None), True),
        (psycopg.OperationalError("server closed the connection"), "lost", Close(None), True),
        (ValueError(), "lost", Close(None), True),
        (None, "lost", Close(None), True),
        # Where the application, or psycopg, has closed it, the server is not in doubt …
        (errors.QueryCanceled(), "closed", Close("discarded"), False),
        (None, "closed", Close("discarded"), False),
        (errors.AdminShutdown(), "closed", Close(None), True),  # … unless it said that it ends
        (psycopg.OperationalError(), "clean", None, False),
        (errors.UniqueViolation(), "clean", None, False),
        (errors.IdleInTransactionSessionTimeout(), "clean", None, False),
        (ValueError(), "clean", None, False),
        (KeyboardInterrupt(), "clean", None, False),
    ],
)
def test_what_an_error_that_came_over_a_connection_tells_when_that_comes_back(
    *, error: BaseException | None, condition: Condition, fate: Fate, doubted: bool
) -> None:
    made = keeper()
    entry, conn = lent(made)
    note_errors(conn, entry)
    if error is not None:
        conn.error = error
        with pytest.raises(type(error)):
            conn.wait()
    assert made.core.give_back(entry, NOW + 1, condition) == fate
    assert entry.reason == (fate.reason if isinstance(fate, Close) else None)
    assert made.core.doubted_at == (NOW + 1 if doubted else 0.0)


def test_an_error_tells_of_the_connection_alone_that_it_came_over() -> None:
    """Whatever was being handled when another one was taken, or is when that comes back."""
    made = keeper()
    entry, conn = lent(made)
    other, _kept = lent(made)
    note_errors(conn, entry)
    conn.error = errors.AdminShutdown()
    try:
        conn.wait()
    except errors.AdminShutdown:
        third, _too = lent(made)
        assert made.core.give_back(other, NOW) is None
        assert made.core.give_back(third, NOW) is None
    assert made.core.doubted_at == 0.0
    assert made.core.give_back(entry, NOW) == Close("discarded")


def test_an_error_tells_nothing_once_the_connection_was_found_fit() -> None:
    made = keeper()
    entry, conn = lent(made)
    note_errors(conn, entry)
    conn.error = errors.ReadOnlySqlTransaction()
    with pytest.raises(errors.ReadOnlySqlTransaction):
        conn.wait()
    assert made.core.give_back(entry, NOW) == Reset()
    made.core.reset(entry, NOW)
    assert made.core.was_reset(entry, NOW, is_fit=True) is None
    take(made)
    assert made.core.give_back(entry, NOW) is None


# -- what errors tell

READ_ONLY, ENDING = errors.ReadOnlySqlTransaction(), errors.AdminShutdown()


def verdicts(*came: tuple[psycopg.Error, ConnStatus], is_async: bool = False) -> list[Any]:
    """What stands on an entry after each of these errors, and how libpq says it stands then."""
    entry, conn = Entry(None, NOW), (AsyncConn if is_async else Conn)()
    note_errors(conn, entry)
    stand: list[Verdict | None] = []
    for error, status in came:
        conn.error, conn.pgconn.status = error, status
        with pytest.raises(type(error)):
            asyncio.run(conn.wait()) if isinstance(conn, AsyncConn) else conn.wait()
        stand.append(entry.verdict)
    return stand


@pytest.mark.parametrize("is_async", [False, True])
def test_the_worst_error_counts_that_came_over_a_connection(*, is_async: bool) -> None:
    fine, bad = ConnStatus.OK, ConnStatus.BAD
    harmless = errors.UniqueViolation()
    assert verdicts((harmless, fine), (READ_ONLY, fine), (harmless, fine), is_async=is_async) == [
        None,
        "read-only",
        "read-only",
    ]
    assert verdicts((READ_ONLY, fine), (ENDING, fine), (READ_ONLY, fine), is_async=is_async) == [
        "read-only",
        "ending",
        "ending",
    ]
    gone = psycopg.OperationalError("server closed the connection")
    assert verdicts((READ_ONLY, fine), (gone, bad), is_async=is_async) == ["read-only", "lost"]
    assert verdicts((ENDING, bad), (gone, bad), is_async=is_async) == ["ending", "ending"]


def test_an_error_of_one_that_was_closed_on_this_side_tells_nothing() -> None:
    entry, conn = (
        Entry(None, NOW),
        Conn(psycopg.OperationalError("the connection is closed")),
    )
    note_errors(conn, entry)
    conn.pgconn.status, conn.pgconn.pgconn_ptr = ConnStatus.BAD, None
    with pytest.raises(psycopg.OperationalError):
        conn.wait()
    assert entry.verdict is None


def test_only_what_the_standard_says_of_the_server_counts() -> None:
    assert verdict_of(READ_ONLY) == "read-only"
    assert verdict_of(ENDING) == "ending"
    assert verdict_of(psycopg.OperationalError("no sqlstate")) is None
    for harmless in (errors.QueryCanceled, errors.DeadlockDetected, errors.DatabaseDropped):
        assert verdict_of(harmless()) is None


# -- age


def test_one_that_comes_back_too_old_is_closed_but_not_several_in_a_row() -> None:
    made = keeper()
    (one, _conn), (other, _kept), *_six = (lent(made) for _ in range(8))
    assert made.core.give_back(one, one.expires_at - 0.001) is None
    late = one.expires_at
    take(made, late)
    assert made.core.give_back(one, late) == Close("lifetime")
    assert one.reason == "lifetime"
    distance = between_retirements(8, 3600.0)
    assert made.core.give_back(other, late + distance - 0.001) is None
    assert other.reason is None
    take(made, late + distance)
    assert made.core.give_back(other, late + distance) == Close("lifetime")


def test_without_a_server_for_its_successor_one_that_is_too_old_stays() -> None:
    made = keeper()
    entry, _conn = lent(made)
    made.lifecycle.connect_failed(begun(made), "growth", OSError("away"), NOW)
    assert made.core.give_back(entry, entry.expires_at + 1) is None
    take(made, entry.expires_at + 1)
    connected(made)
    assert made.core.give_back(entry, entry.expires_at + 1) == Close("lifetime")


def test_pools_of_one_instant_do_not_verify_in_step() -> None:
    """Each at least as often as it was asked to."""
    intervals = {keeper().pace.check_interval for _ in range(20)}
    assert len(intervals) == 20
    assert all(20.0 <= interval <= 25.0 for interval in intervals)


# -- ahead of those who ask


@pytest.mark.parametrize(
    ("size", "idle", "arguments", "low"),
    [
        (6, 4, {"at_once": math.inf}, 2),  # up to 4 of 6 may be lent
        (12, 12, {"at_once": math.inf}, 3),
        (1, 1, {"at_once": math.inf}, 0),
        (6, 4, {"at_once": 6}, 0),
        (6, 4, {}, 0),
    ],
)
def test_below_so_many_idle_ones_the_pool_is_to_be_looked_at(
    size: int, idle: int, arguments: dict[str, Any], low: int
) -> None:
    made = keeper(**arguments)
    core = made.core
    kept = holding(made, size=size, idle=idle)
    assert openings(made) == []
    assert core.low_water == low
    kept += [take(made) for _ in range(idle - low)]
    assert not core.look_due
    if low:
        kept.append(take(made))
    assert core.look_due == (low > 0)
    made = keeper(max_size=size, **arguments)
    kept = holding(made, size=size, idle=idle)
    assert openings(made) == []
    assert made.core.low_water == 0, "where the pool is full there is nothing to look for"


def test_a_pool_that_will_end_opens_nothing_ahead() -> None:
    made = keeper(at_once=math.inf)
    made.leaving = True
    _kept = holding(made, size=9, idle=0)
    assert openings(made) == []
    assert made.core.low_water == 0


def test_slots_that_are_not_there_are_tried_again_and_nobody_is_asked_for_them() -> None:
    ledger = StaticLedger(10)
    made = keeper(ledger=ledger, at_once=math.inf)
    _kept = holding(made, size=9, idle=0)
    todo = made.look(NOW)
    assert [opening.reason for opening in todo.openings] == ["headroom"]
    assert not made.leases.starved
    assert made.core.low_water == 0
    assert todo.wake == NOW + module.HEADROOM_AGAIN
    _more = arrived(made, todo.openings[0].entry)
    assert openings(made) == []
    ledger.release(Slot(0))
    ledger.release(Slot(1))
    assert openings(made, NOW + 0.9 * module.HEADROOM_AGAIN) == []
    assert len(openings(made, NOW + module.HEADROOM_AGAIN)) == 2


class Neighbourly(StaticLedger):
    """One whose siblings hold seven each."""

    def __init__(self) -> None:
        super().__init__()
        self.usage = self

    processes, established, database_share = 2, 7, None

    def expected(self) -> int:
        return 7


@pytest.mark.parametrize(("at_once", "ahead"), [(math.inf, 5), (4, 2), (0, 0)])
def test_a_worker_that_takes_the_place_of_another_opens_as_many(at_once: float, ahead: int) -> None:
    made = keeper(min_size=2, ledger=Neighbourly(), at_once=at_once)
    assert openings(made) == ["warmup"] * 2 + ["headroom"] * ahead


def test_what_was_expected_is_of_no_interest_once_the_pool_is_warm() -> None:
    made = keeper(min_size=2, ledger=Neighbourly(), at_once=math.inf)
    holding(made, size=2, idle=2)
    assert openings(made) == []
    assert made.core.low_water == 1, "a third is due when both are lent"


def test_what_was_opened_ahead_does_not_slow_down_the_start_for_a_queue() -> None:
    made = keeper(at_once=math.inf)
    _kept = holding(made, size=9, idle=0)
    made.core.taken_free, made.core.usage = 1000, 1.0  # they are lent for a millisecond each
    assert openings(made) == ["headroom"] * 3
    for _ in range(5):
        assert made.core.acquire(NOW, Waiter(NOW, NOW + 1)) == "queued"
    assert openings(made) == []
    assert openings(made, NOW + 2.1 * CONNECT_TIME / 20) == ["growth"] * 2
