"""The books of a pool: what is counted when two things happen at once, and what is logged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import errors

from poolguard.budget.ledger import Slot, StaticLedger
from poolguard.listener import Place
from poolguard.pool import books as books_module
from poolguard.pool._seams import Counts
from poolguard.pool.books import Books
from poolguard.pool.errors import DEEPEST, lacks_room, unfit
from poolguard.pool.seat import Seat
from poolguard.pool.upkeep import Pace, between_retirements
from tests.pool.support import Recorder

PLACE = Place("db", 5432, "shop")


def books(recorder: Recorder | None = None, **arguments: Any) -> Books:
    made = Books(
        ledger=arguments.pop("ledger", None),
        listener=recorder or Recorder(),
        pace=Pace(25.0, 1.0, 600.0),
        max_connecting=32,
        max_lifetime=3600.0,
        reconnect_timeout=arguments.pop("reconnect_timeout", math.inf),
        at_once=arguments.pop("at_once", 0),
    )
    made.opened("shop", 1000.0, lambda: None)
    return made


@pytest.mark.parametrize("order", ["end first", "told between", "connect first"])
def test_the_end_of_a_connection_is_counted_once(order: str) -> None:
    """Whether the watch tells of it before, while or after its connect is booked."""
    recorder = Recorder()
    made = books(recorder)
    seat = Seat(Slot(0), 1000.0)
    if order == "end first":
        seat.gone = True
        made.ended(seat)
    if order == "told between":
        seat.gone = True
    made.connected(seat, "growth", PLACE)
    if order != "end first":
        made.ended(seat)
    made.tell()
    assert recorder.closes == ["lost"]
    assert made.status(Counts(0, 0, 0, 0, 0, 1, 0))["closed"] == {"lost": 1}


def test_a_slot_is_given_back_once() -> None:
    ledger = StaticLedger(2)
    made = books(ledger=ledger)
    (slot,) = ledger.lease(1)
    seat = Seat(slot, 1000.0)
    made.ended(seat)
    made.ended(seat)
    made.lessee.vacate(seat)
    assert ledger.in_use == 0


def test_a_long_outage_is_told_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    recorder = Recorder()
    made = books(recorder)
    for _ in range(1000):
        made.connect_failed(Seat(None, 1000.0), "growth", OSError("away"))
    made.tell()
    assert len(caplog.records) == 10
    assert {record.name for record in caplog.records} == {"psycopg.pool"}
    assert len(recorder.failures) == 1000


def test_giving_up_is_told_once_in_each_reconnect_timeout() -> None:
    made = books(reconnect_timeout=0.0)
    assert made.connect_failed(Seat(None, 0.0), "growth", OSError())
    made = books(reconnect_timeout=1e9)
    assert not made.connect_failed(Seat(None, 0.0), "growth", OSError())


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
    made = books()
    made.connect_failed(Seat(None, 1000.0), "growth", errors.TooManyConnections("no room"))
    assert made.lessee.starved
    assert not made.outage.lasts


def test_a_connect_that_hung_while_later_ones_ended_well_is_no_outage() -> None:
    """Nothing waits for the next probe, and the capacity need not be asked again."""
    made = books()
    hanging, later = Seat(None, 1000.0), Seat(None, 1000.0)
    made.connected(later, "growth", PLACE)
    made.connect_failed(hanging, "growth", errors.ConnectionTimeout("hung"))
    assert not made.outage.lasts
    made.connect_failed(Seat(None, 1001.0), "growth", errors.ConnectionTimeout("hung"))
    assert made.outage.lasts


# -- doubt

NOW = 1000.0


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time of the books, which is ``NOW`` at first."""

    def set_clock(time: float) -> None:
        monkeypatch.setattr(books_module, "clock", lambda: time)

    set_clock(NOW)
    return set_clock


def connected(made: Books, *, was_free: bool = False) -> Seat:
    """The seat of a connection that was made just now."""
    seat = Seat(None, NOW - 0.1)
    made.connected(seat, "growth", PLACE)
    seat.was_free = was_free
    return seat


def acquires(made: Books, *, taken_free: int = 0) -> dict[str, int]:
    counted: dict[str, int] = made.status(Counts(1, 0, 0, 0, 0, 1, taken_free))["acquires"]
    return counted


def test_a_doubt_is_not_lifted_by_an_earlier_one() -> None:
    made = books()
    made.doubt(5.0)
    made.doubt(3.0)
    assert made.doubted_at == 5.0


def test_one_that_fails_its_verification_may_have_been_dead_when_that_began() -> None:
    made = books()
    living, dead, unknown = (Seat(None, NOW) for _ in range(3))
    made.verification_began(living, NOW)
    made.verification_began(dead, NOW + 1)
    made.verification_ended(living, alive=True)
    made.verification_ended(unknown, alive=False)
    assert made.doubted_at == 0.0
    made.verification_ended(dead, alive=False)
    assert made.doubted_at == NOW + 1


@pytest.mark.parametrize(
    ("error", "dead", "closed", "doubted"),
    [
        (errors.ReadOnlySqlTransaction(), False, True, False),
        (errors.AdminShutdown(), False, True, True),
        (errors.CrashShutdown(), False, True, True),
        (errors.CannotConnectNow(), False, True, True),
        # What is dead is not taken back anyway.
        (errors.AdminShutdown(), True, False, True),
        (psycopg.OperationalError("server closed the connection"), True, False, True),
        (ValueError(), True, False, True),
        (psycopg.OperationalError(), False, False, False),
        (errors.UniqueViolation(), False, False, False),
        (errors.IdleInTransactionSessionTimeout(), False, False, False),
        (ValueError(), False, False, False),
        (KeyboardInterrupt(), False, False, False),
    ],
)
@pytest.mark.usefixtures("at")
def test_what_an_error_on_its_way_tells_of_a_connection_that_comes_back(
    *, error: BaseException, dead: bool, closed: bool, doubted: bool
) -> None:
    made = books()
    seat = connected(made)
    assert made.parted_in(error, seat, dead=dead) is closed
    assert seat.reason == ("discarded" if closed else None)
    assert made.doubted_at == (NOW if doubted else 0.0)


@pytest.mark.usefixtures("at")
def test_an_error_that_was_handled_when_the_connection_was_taken_tells_of_another() -> None:
    made = books()
    seat = connected(made)
    handled = errors.AdminShutdown()
    seat.amid = id(handled)
    of_the_block = ValueError()
    of_the_block.__context__ = handled
    for error in (handled, of_the_block):
        assert not made.parted_in(error, seat, dead=False)
    assert made.doubted_at == 0.0
    assert made.parted_in(errors.AdminShutdown(), seat, dead=False)


# -- what errors tell


def raised(*chain: BaseException, by: str = "__cause__") -> BaseException:
    """The first of them, raised from the second, and so on."""
    for error, origin in pairwise(chain):
        setattr(error, by, origin)
    return chain[0]


class DBAPIError(Exception):
    """As SQLAlchemy's: it wraps the driver's, from which it is raised."""

    def __init__(self, orig: BaseException) -> None:
        super().__init__(str(orig))
        self.orig = orig


class Foreign(Exception):
    """Another driver's, such as asyncpg's."""

    sqlstate = "57P01"


@pytest.mark.parametrize("by", ["__cause__", "__context__"])
def test_an_error_tells_what_those_tell_that_it_was_raised_from(by: str) -> None:
    read_only, ending = errors.ReadOnlySqlTransaction(), errors.AdminShutdown()
    assert unfit(raised(DBAPIError(read_only), read_only, by=by)) == "read-only"
    assert unfit(raised(ValueError(), DBAPIError(ending), ending, by=by)) == "ending"
    assert unfit(raised(ValueError(), errors.UniqueViolation(), by=by)) is None


def test_the_nearest_error_that_tells_something_counts() -> None:
    read_only, ending = errors.ReadOnlySqlTransaction(), errors.AdminShutdown()
    assert unfit(raised(errors.UniqueViolation(), read_only, ending)) == "read-only"
    assert unfit(raised(errors.UniqueViolation(), ending, read_only)) == "ending"


def test_a_context_that_is_not_shown_tells_as_well() -> None:
    hidden = raised(ValueError(), errors.ReadOnlySqlTransaction(), by="__context__")
    hidden.__suppress_context__ = True
    assert unfit(hidden) == "read-only"


def test_chains_without_an_end_have_one() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert unfit(first) is None
    far = [ValueError() for _ in range(DEEPEST)]
    assert unfit(raised(*far, errors.AdminShutdown())) is None
    assert unfit(raised(*far[1:], errors.AdminShutdown())) == "ending"


def test_only_what_the_standard_says_of_the_server_counts() -> None:
    assert unfit(Foreign()) == "ending"
    assert unfit(psycopg.OperationalError("no sqlstate")) is None
    for harmless in (errors.QueryCanceled, errors.DeadlockDetected, errors.DatabaseDropped):
        assert unfit(harmless()) is None


def test_what_was_handled_before_and_what_led_to_it_tell_nothing() -> None:
    ending, handled = errors.AdminShutdown(), ValueError()
    raised(handled, ending)
    assert unfit(raised(KeyError(), handled), id(handled)) is None
    assert unfit(handled, id(handled)) is None
    assert unfit(raised(KeyError(), handled), id(KeyError)) == "ending"


# -- age


def test_one_that_comes_back_too_old_is_closed_but_not_several_in_a_row(
    at: Callable[[float], None],
) -> None:
    made = books()
    one, other = connected(made), connected(made)
    assert not made.has_expired(one, one.expires_at - 0.001, 8)
    late = one.expires_at
    assert made.has_expired(one, late, 8)
    assert one.reason == "lifetime"
    distance = between_retirements(8, 3600.0)
    assert not made.has_expired(other, late + distance - 0.001, 8)
    assert other.reason is None
    assert made.has_expired(other, late + distance, 8)


@pytest.mark.usefixtures("at")
def test_without_a_server_for_its_successor_one_that_is_too_old_stays() -> None:
    made = books()
    seat = connected(made)
    made.connect_failed(Seat(None, NOW), "growth", OSError("away"))
    assert not made.has_expired(seat, seat.expires_at + 1, 8)
    connected(made)
    assert made.has_expired(seat, seat.expires_at + 1, 8)


# -- what acquires are counted as


@pytest.mark.usefixtures("at")
def test_a_free_one_counts_as_taken_already() -> None:
    made = books()
    seat = connected(made, was_free=True)
    made.acquires.ended(NOW + 1, seat)
    assert acquires(made, taken_free=1) == {"acquired": 1}


@pytest.mark.usefixtures("at")
def test_a_free_one_that_is_younger_than_the_acquire_was_created() -> None:
    made = books()
    seat = connected(made, was_free=True)
    made.acquires.ended(NOW - 1, seat)
    assert acquires(made, taken_free=1) == {"created": 1}


@pytest.mark.usefixtures("at")
def test_one_that_was_verified_for_the_acquire_is_as_good_as_free() -> None:
    made = books()
    seat = connected(made)
    made.acquires.ended(NOW + 1, seat)
    seat.vouched = True
    made.acquires.ended(NOW + 1, seat)
    assert acquires(made) == {"waited": 1, "acquired": 1}


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
@pytest.mark.usefixtures("at")
def test_a_check_that_fails_is_followed_at_once_where_an_old_one_has_died(
    *, dead: bool, was_free: bool, connected_before: bool, at_once: bool
) -> None:
    made = books()
    seat = connected(made, was_free=was_free)
    since = NOW + (1 if connected_before else -1)
    assert made.check_failed(seat, NOW + 2, since, dead=dead) is at_once
    assert made.doubted_at == (NOW + 2 if dead else 0.0)
    # However it goes on, it is not one that an acquire has just taken.
    assert acquires(made, taken_free=int(was_free)) == {}
    made.acquires.spoil(seat)
    assert acquires(made, taken_free=int(was_free)) == {}


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
    made = books(recorder)
    made.acquires.refused(NOW, error, lambda: None)
    assert acquires(made) == {outcome: 1}
    assert recorder.outcomes == [outcome]


def test_pools_of_one_instant_do_not_verify_in_step() -> None:
    """Each at least as often as it was asked to."""
    intervals = {books().pace.refresh_interval for _ in range(20)}
    assert len(intervals) == 20
    assert all(20.0 <= interval <= 25.0 for interval in intervals)


# -- ahead of those who ask


def counted(*, size: int, idle: int, most: int = 100) -> Counts:
    """A pool of so many connections, the others lent, and nobody waits."""
    return Counts(size, idle, 0, 0, 1, most, 0)


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
    made = books(**arguments)
    assert made.look(NOW, counted(size=size, idle=idle), [])[0] == []
    assert made.low_water == low
    made.look(NOW, counted(size=size, idle=idle, most=size), [])
    assert made.low_water == 0, "where the pool is full there is nothing to look for"


def test_a_pool_that_will_end_opens_nothing_ahead() -> None:
    made = books(at_once=math.inf)
    made.leaving = True
    assert made.look(NOW, counted(size=9, idle=0), [])[0] == []
    assert made.low_water == 0


def test_slots_that_are_not_there_are_tried_again_and_nobody_is_asked_for_them() -> None:
    ledger = StaticLedger(10)
    ledger.lease(9)
    made = books(ledger=ledger, at_once=math.inf)
    full = counted(size=9, idle=0)
    openings, _, wake = made.look(NOW, full, [])
    assert [opening.reason for opening in openings] == ["ahead"]
    assert not made.lessee.starved
    assert made.low_water == 0
    again = counted(size=10, idle=0)
    assert made.look(NOW, again, [])[0] == []
    assert wake == NOW + books_module.AHEAD_AGAIN
    ledger.release(Slot(0))
    ledger.release(Slot(1))
    assert made.look(NOW + 0.9 * books_module.AHEAD_AGAIN, again, [])[0] == []
    assert len(made.look(NOW + books_module.AHEAD_AGAIN, again, [])[0]) == 2


class Neighbourly(StaticLedger):
    """One whose siblings hold seven each."""

    def usual(self) -> int:
        return 7


@pytest.mark.parametrize(("at_once", "ahead"), [(math.inf, 5), (4, 2), (0, 0)])
def test_a_worker_that_takes_the_place_of_another_opens_as_many(at_once: float, ahead: int) -> None:
    made = books(ledger=Neighbourly(), at_once=at_once)
    openings, _, _ = made.look(NOW, Counts(0, 0, 0, 0, 2, 100, 0), [])
    assert [each.reason for each in openings] == ["warmup"] * 2 + ["ahead"] * ahead


def test_what_was_expected_is_of_no_interest_once_the_pool_is_warm() -> None:
    made = books(ledger=Neighbourly(), at_once=math.inf)
    assert made.look(NOW, Counts(2, 2, 0, 2, 2, 100, 0), [])[0] == []
    assert made.low_water == 1, "a third is due when both are lent"


def test_what_was_opened_ahead_does_not_slow_down_the_start_for_a_queue() -> None:
    made = books(at_once=math.inf)
    openings, _, _ = made.look(NOW, counted(size=9, idle=0), [])
    assert [each.reason for each in openings] == ["ahead"] * 3
    queue = Counts(12, 0, 5, 0, 1, 100, 0)
    assert made.look(NOW, queue, [])[0] == []
    step = 0.05 / 20  # a pool that has not connected yet expects that to take 50 ms
    openings, _, _ = made.look(NOW + 2.1 * step, queue, [])
    assert [each.reason for each in openings] == ["growth"] * 2
