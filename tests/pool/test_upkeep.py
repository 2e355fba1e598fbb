"""What the upkeep does at a moment, and when it looks again: no clock, no server, no socket."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from poolguard.pool.growth import Demand
from poolguard.pool.seat import Seat
from poolguard.pool.upkeep import (
    HEADROOM,
    SPREAD,
    Abandon,
    Action,
    Open,
    Pace,
    Retire,
    Shrink,
    Snapshot,
    Verification,
    Verify,
    Yield,
    decide,
    lifetime,
)

NOW = 1000.0
PACE = Pace(refresh_interval=25.0, check_timeout=1.0, idle_timeout=600.0)


def seat(*, proved: float = 0.0, retire: float = 3000.0) -> Seat:
    """One that was proved *proved* seconds ago and retires in *retire*."""
    made = Seat(None, NOW - 100)
    made.proved_at = NOW - proved
    made.retire_at = NOW + retire
    return made


def pool(
    *idle: Seat,
    lent: int = 0,
    opening: int = 0,
    waiting: int = 0,
    floor: int | None = None,
    max_size: int = 10,
    verifying: Seat | None = None,
    since: float = NOW,
    likely: bool = True,
    retry_at: float | None = None,
    starved: bool = False,
    **others: float,
) -> Snapshot:
    """A pool of these idle connections, at its floor unless told otherwise."""
    size = len(idle) + lent + opening + (verifying is not None)
    demand = Demand(
        waiting=waiting,
        idle=len(idle),
        opening=opening,
        size=size,
        lent=lent,
        floor=size if floor is None else floor,
        max_size=max_size,
        max_connecting=32,
        begun=0,
        waited=0.0,
        connect_time=0.1,
        retry_at=retry_at,
        starved=starved,
    )
    under_way = {} if verifying is None else {verifying: Verification(since, likely)}
    made = Snapshot(demand, idle, under_way, 0.0, 0, NOW, "replace")
    return replace(made, **others)  # type: ignore[arg-type]


def now(snapshot: Snapshot) -> list[Action]:
    return decide(NOW, snapshot, PACE)[0]


def wake(snapshot: Snapshot) -> float | None:
    at = decide(NOW, snapshot, PACE)[1]
    return None if at is None else at - NOW


# -- opening


def test_connects_for_the_floor_and_for_the_queue_are_told_apart() -> None:
    assert now(pool(floor=3, waiting=5)) == [Open(3, "replace"), Open(2, "growth")]
    assert now(pool(floor=3)) == [Open(3, "replace")]
    assert now(pool(waiting=2)) == [Open(2, "growth")]
    assert now(replace(pool(floor=3), reason="warmup")) == [Open(3, "warmup")]


def test_an_empty_pool_without_floor_sleeps_until_an_event() -> None:
    assert decide(NOW, pool(), PACE) == ([], None)


def test_while_connecting_fails_it_wakes_for_the_next_probe() -> None:
    assert decide(NOW, pool(floor=3, retry_at=NOW + 0.5), PACE) == ([], NOW + 0.5)
    assert now(pool(floor=3, retry_at=NOW)) == [Open(1, "replace")]


# -- verifying


def test_one_at_a_time_the_one_proved_longest_ago_first() -> None:
    fresh, old, older = seat(proved=1), seat(proved=26), seat(proved=27)
    assert now(pool(fresh, old, older)) == [Verify(older)]
    assert now(pool(fresh, old, verifying=older)) == []


def test_it_wakes_when_the_next_is_due() -> None:
    assert wake(pool(seat(proved=5), seat(proved=10))) == pytest.approx(15)
    assert wake(pool(seat(retire=7))) == pytest.approx(7)


def test_exactly_at_the_interval_it_is_due() -> None:
    due = seat(proved=25)
    assert now(pool(due)) == [Verify(due)]


def test_the_last_idle_one_is_left_to_requests_while_others_are_lent() -> None:
    due = seat(proved=30)
    assert now(pool(due, lent=1)) == []
    assert wake(pool(due, lent=1)) == pytest.approx(PACE.check_timeout)
    assert now(pool(due, lent=0)) == [Verify(due)]
    assert now(pool(due, seat(), lent=1)) == [Verify(due)]


def test_a_verification_without_answer_is_given_up() -> None:
    silent = seat(proved=30)
    waiting = pool(verifying=silent, since=NOW - 0.4)
    assert now(waiting) == []
    assert wake(waiting) == pytest.approx(0.6)
    assert now(pool(verifying=silent, since=NOW - 1.0)) == [Abandon(silent)]


# -- replacing before retirement


def test_replaced_first_then_retired() -> None:
    old = seat(retire=0)
    assert now(pool(old, seat())) == [Open(1, "refresh")]
    assert now(pool(old, seat(), opening=1, floor=2)) == []
    assert now(pool(old, seat(), seat(), floor=2))[0] == Retire(old)


def test_the_one_that_is_due_first_is_retired_first() -> None:
    first, second = seat(retire=-2), seat(retire=-1)
    assert now(pool(second, first, seat(), floor=2))[0] == Retire(first)


def test_where_no_place_is_free_the_old_one_makes_it() -> None:
    old = seat(retire=0)
    assert now(pool(old, seat(), max_size=2)) == [Retire(old)]
    assert now(pool(old, max_size=1)) == [Retire(old)]


def test_without_a_slot_for_the_replacement_the_old_one_stays() -> None:
    old = seat(retire=0)
    assert now(pool(old, seat(), starved=True)) == []


def test_without_a_server_for_the_replacement_the_old_one_stays() -> None:
    old = seat(retire=0)
    assert now(pool(old, seat(), retry_at=NOW + 1)) == []
    assert now(pool(old, seat(), retry_at=NOW)) == [Open(1, "refresh")]


def test_the_last_idle_one_is_replaced_but_not_taken_from_requests() -> None:
    old = seat(retire=0)
    assert now(pool(old, lent=1)) == [Open(1, "refresh")]
    assert Retire(old) not in now(pool(old, lent=2, floor=2))
    assert Retire(old) not in now(pool(old, lent=1, max_size=2))


def test_one_that_cannot_be_retired_yet_is_verified_meanwhile() -> None:
    old = seat(retire=0, proved=30)
    assert now(pool(old, seat(), starved=True)) == [Verify(old)]


# -- lifetimes


@pytest.mark.parametrize("count", [2, 10, 20, 57])
def test_connections_of_one_instant_retire_far_apart(count: int) -> None:
    """As far as a third of an even division, however many there are and wherever it begins."""
    for offset in (0.0, 0.3, 0.999):
        times = sorted(lifetime(nth, 3600.0, offset) for nth in range(1, count + 1))
        gaps = [b - a for a, b in pairwise(times)]
        assert min(gaps) > 3600 * SPREAD / count / 3


def test_retirement_comes_before_psycopg_pools_own_expiry() -> None:
    """That takes up to 5 % off max_lifetime; and no lifetime is much shorter than was asked."""
    times = [lifetime(nth, 3600.0, offset / 10) for nth in range(1000) for offset in range(10)]
    assert max(times) <= 3600 * (1 - HEADROOM) < 3600 * 0.95
    assert min(times) >= 3600 * (1 - HEADROOM - SPREAD)


# -- shrinking


def idle_for_long(*idle: Seat, idle_low: int, **state: int) -> Snapshot:
    return pool(*idle, idle_low=idle_low, idle_low_since=NOW - 600, **state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("idle", "idle_low", "floor", "lent", "opening", "closed"),
    [
        (5, 5, 2, 0, 0, 3),
        (5, 2, 2, 0, 0, 2),
        (5, 0, 2, 0, 0, 0),
        (5, 5, 2, 3, 0, 5),
        (3, 3, 0, 0, 0, 3),
        (2, 2, 1, 0, 2, 1),  # those being opened may fail
        (1, 4, 1, 4, 0, 1),  # check() and drain() have the idle ones out without counting it
        (0, 4, 1, 4, 0, 0),
    ],
)
def test_those_that_nobody_needed_are_closed_down_to_the_floor(
    *, idle: int, idle_low: int, floor: int, lent: int, opening: int, closed: int
) -> None:
    seats = [seat() for _ in range(idle)]
    shrunk = idle_for_long(*seats, idle_low=idle_low, floor=floor, lent=lent, opening=opening)
    assert now(shrunk) == [Shrink(closed)]


def test_one_that_is_taken_for_verification_is_not_closed_as_well() -> None:
    due = seat(proved=30)
    assert now(idle_for_long(due, seat(), idle_low=2, floor=0)) == [Verify(due), Shrink(1)]


def test_at_the_floor_nothing_is_watched_for_shrinking() -> None:
    assert now(idle_for_long(seat(), idle_low=1, floor=1)) == []


def test_above_the_floor_it_wakes_when_the_period_ends() -> None:
    above = pool(seat(), seat(), floor=1, idle_low_since=NOW - 590)
    assert now(above) == []
    assert wake(above) == pytest.approx(10)
    assert wake(idle_for_long(seat(), seat(), idle_low=0, floor=1)) == pytest.approx(25)


# -- yielding


@pytest.mark.parametrize(
    ("idle", "owed", "floor", "lent", "opening", "given"),
    [
        (5, 3, 1, 0, 0, 3),
        (5, 9, 2, 0, 0, 3),  # the floor is kept
        (2, 9, 2, 3, 0, 2),  # the lent ones are the floor
        (0, 2, 0, 3, 0, 0),
        (2, 2, 2, 0, 0, 0),
        (3, 3, 2, 0, 2, 1),  # those being opened may fail
    ],
)
def test_idle_ones_above_the_floor_are_given_to_siblings(
    *, idle: int, owed: int, floor: int, lent: int, opening: int, given: int
) -> None:
    seats = [seat() for _ in range(idle)]
    snapshot = pool(*seats, owed=owed, floor=floor, lent=lent, opening=opening)
    assert now(snapshot) == ([Yield(given)] if given else [])


def test_one_that_is_being_verified_or_replaced_is_not_given() -> None:
    due, old = seat(proved=30), seat(retire=0)
    assert now(pool(due, seat(), owed=9, floor=0)) == [Verify(due), Yield(1)]
    assert now(pool(seat(), owed=9, floor=0, verifying=due)) == [Yield(1)]
    assert now(pool(verifying=due, owed=9, floor=0)) == []
    assert now(pool(old, seat(), owed=9, floor=0)) == [Retire(old), Yield(1)]


def test_what_is_retired_counts_for_the_floor() -> None:
    old = seat(retire=0)
    assert now(pool(old, seat(), seat(), owed=9, floor=2)) == [Retire(old)]
    assert now(pool(old, seat(), seat(), seat(), owed=9, floor=2)) == [Retire(old), Yield(1)]
    shrunk = idle_for_long(old, seat(), seat(), idle_low=3, floor=2)
    assert now(shrunk) == [Retire(old), Shrink(0)]


def test_who_gives_does_not_shrink_in_the_same_look() -> None:
    """What both would close is the same: it was not needed."""
    assert now(idle_for_long(seat(), seat(), seat(), idle_low=3, floor=0, owed=1)) == [Yield(1)]
