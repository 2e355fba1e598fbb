"""How many connects to begin: plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from poolguard.pool.growth import (
    LATE_AT_FIRST,
    LATE_FACTOR,
    SHORTEST_LATE,
    SHORTEST_PATIENCE,
    SLOW_DOUBLINGS,
    connects_to_begin,
    late_ones,
    lent_at_most,
    likely_back,
    next_look,
    patience,
    step,
    with_headroom,
)
from poolguard.pool.snapshot import Counts, Late, Snapshot
from poolguard.testing import ManualClock

NOW = 1000.0
CALM = Snapshot(
    counts=Counts(max_size=100),
    idle=(),
    checking={},
    max_connecting=32,
    begun=0,
    waited=0.0,
    connect_time=0.1,
    retry_at=None,
    doubted_at=0.0,
    idle_low=0,
    idle_low_since=NOW,
    reason="replace",
)


def state_of(
    *,
    floor: int = 0,
    size: int = 0,
    idle: int = 0,
    lent: int = 0,
    opening: int = 0,
    waiting: int = 0,
    max_size: int = 100,
    **others: Any,
) -> Snapshot:
    """A pool of *size* connections: those that are nowhere else are being verified."""
    checking = size - idle - lent - opening
    counts = Counts(idle, lent, checking, opening, waiting, floor, max_size)
    return CALM._replace(counts=counts, **others)


@pytest.mark.parametrize(
    ("ended", "usage", "back"), [(0, 0.0, 0), (1, 2.0, 1), (10, 20.0, 1), (10, 2.0, 15)]
)
def test_how_many_come_back_in_time_follows_from_how_long_others_were_lent(
    ended: int, usage: float, back: int
) -> None:
    assert likely_back(3, 1.0, ended, usage) == back


@pytest.mark.parametrize(("returning", "begins"), [(0, 15), (4, 11), (14, 1), (15, 0), (99, 0)])
def test_what_will_not_come_back_in_time_is_no_reason_to_go_slowly(
    returning: int, begins: int
) -> None:
    """Fifteen wait behind ten that are lent, and all of them have just come."""
    queue = state_of(size=10, lent=10, waiting=15, returning=returning)
    assert connects_to_begin(NOW, queue) == begins
    two_steps = queue._replace(waited=2.1 * step(CALM.connect_time))
    assert connects_to_begin(NOW, two_steps) == max(3, begins)


def begins(**state: Any) -> int:
    return connects_to_begin(NOW, state_of(**state))


def looks(**state: Any) -> float | None:
    return next_look(NOW, state_of(**state))


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({}, 0),
        ({"floor": 10}, 10),
        ({"floor": 10, "size": 4, "idle": 4}, 6),
        ({"floor": 10, "size": 10, "opening": 10}, 0),
        ({"floor": 10, "size": 12, "idle": 12}, 0),
        ({"floor": 3, "size": 1, "lent": 1}, 2),
    ],
)
def test_the_floor_is_filled_at_once(state: dict[str, int], n: int) -> None:
    assert begins(**state) == n


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({"waiting": 20}, 20),
        ({"waiting": 20, "opening": 5, "size": 5}, 15),
        ({"waiting": 5, "opening": 5, "size": 5}, 0),
        ({"waiting": 3, "opening": 5, "size": 5}, 0),
        ({"waiting": 5, "floor": 10}, 10),
        ({"waiting": 10, "floor": 5}, 10),
    ],
)
def test_with_nothing_lent_out_each_waiter_needs_a_connect(state: dict[str, int], n: int) -> None:
    assert begins(**state) == n


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({"waiting": 20, "max_size": 8}, 8),
        ({"waiting": 20, "max_size": 8, "size": 6, "lent": 6, "waited": 9.0}, 2),
        ({"waiting": 20, "max_size": 8, "size": 8, "lent": 8, "waited": 9.0}, 0),
        ({"waiting": 20, "max_size": 8, "size": 9, "lent": 9, "waited": 9.0}, 0),
        ({"floor": 50}, 32),
        ({"waiting": 50, "opening": 30, "size": 30}, 2),
        ({"waiting": 50, "opening": 40, "size": 40}, 0),
        ({"floor": 5, "max_connecting": 2, "opening": 1, "size": 1}, 1),
        ({"waiting": 20, "starved": True}, 0),
        ({"floor": 20, "starved": True}, 0),
    ],
)
def test_bounds(state: dict[str, object], n: int) -> None:
    """max_size (which resize() may have put below the size), max_connecting, the ledger."""
    assert begins(**state) == n


def test_while_something_is_lent_a_queue_of_no_length_opens_nothing() -> None:
    assert begins(waiting=20, size=1, lent=1, waited=0.0) == 0
    assert begins(waiting=20, size=1, lent=1, waited=0.0049) == 0


def test_slow_start_doubles_with_each_step_that_the_queue_persists() -> None:
    """A step is a twentieth of a connect's time: here 5 ms."""
    begun, bursts = 0, []
    for nth in range(1, 7):
        n = begins(
            waiting=20,
            size=1 + begun,
            opening=begun,
            lent=1,
            begun=begun,
            waited=nth * 0.005 + 1e-9,
        )
        bursts.append(n)
        begun += n
    assert bursts == [1, 2, 4, 8, 5, 0]


def test_slow_start_counts_what_it_has_begun_also_when_that_has_ended() -> None:
    assert begins(waiting=20, size=8, lent=8, begun=7, waited=0.0175) == 0
    assert begins(waiting=20, size=8, lent=8, begun=7, waited=0.0225) == 8


def test_slow_start_does_not_slow_the_floor_down() -> None:
    assert begins(waiting=20, size=1, lent=1, floor=5) == 4


def test_a_step_is_bounded_in_both_directions() -> None:
    assert step(CALM.connect_time) == pytest.approx(0.005)
    assert step(30.0) == 0.010
    assert step(0.0) == 0.001


def test_a_queue_that_never_empties_goes_on_growing() -> None:
    """However many connects it has begun in its life, most of which are gone again."""
    long = SLOW_DOUBLINGS * 0.01 + 1.0
    assert begins(waiting=5, size=3, lent=3, begun=10_000_000, waited=long) == 5


def test_one_probe_at_a_time_while_connecting_fails() -> None:
    failing = {"waiting": 20, "floor": 5, "retry_at": NOW}
    assert begins(**failing) == 1
    assert begins(**failing, opening=1, size=1) == 0
    assert begins(**{**failing, "retry_at": NOW + 0.01}) == 0
    assert begins(**{**failing, "retry_at": NOW - 9.0}) == 1
    assert begins(retry_at=NOW) == 0
    assert begins(**failing, starved=True) == 0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"floor": 5, "size": 5, "idle": 5},
        {"waiting": 5, "opening": 5, "size": 5},
        {"waiting": 5, "size": 100, "lent": 100},
        {"waiting": 5, "starved": True, "lent": 1, "size": 1},
        {"waiting": 5, "retry_at": NOW + 1, "opening": 1, "size": 1},
    ],
)
def test_nothing_to_look_for_before_an_event(state: dict[str, object]) -> None:
    assert looks(**state) is None


def test_it_looks_again_after_a_step_while_the_queue_persists() -> None:
    assert looks(waiting=5, opening=1, size=2, lent=1) == pytest.approx(NOW + 0.005, abs=1e-6)


@pytest.mark.parametrize("state", [{"waiting": 5}, {"floor": 5}])
def test_it_looks_again_when_the_next_probe_is_due(state: dict[str, object]) -> None:
    assert looks(**state, retry_at=NOW + 0.7) == NOW + 0.7


# -- verifications that waiters may be served by


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({"waiting": 3, "promised": 3, "size": 3}, 0),
        ({"waiting": 2, "promised": 3, "size": 3}, 0),
        ({"waiting": 5, "promised": 3, "size": 3}, 2),
        ({"waiting": 5, "promised": 2, "opening": 2, "size": 4}, 1),
        ({"waiting": 4, "promised": 2, "opening": 2, "size": 4}, 0),
        ({"waiting": 20, "promised": 3, "size": 10, "max_size": 10}, 0),
        # Those being verified are part of the floor, not what it lacks.
        ({"floor": 5, "promised": 3, "size": 3}, 2),
        ({"floor": 5, "promised": 5, "size": 5}, 0),
    ],
)
def test_a_waiter_for_whom_one_is_verified_needs_no_connect(state: dict[str, int], n: int) -> None:
    assert begins(**state) == n


def test_slow_start_holds_for_those_beyond_the_promised_ones() -> None:
    busy = {"waiting": 10, "promised": 4, "size": 6, "lent": 2}
    assert begins(**busy, waited=0.0) == 0
    assert begins(**busy, waited=0.006) == 1
    assert begins(**busy, waited=9.0) == 6


def test_patience_is_half_a_connect_but_never_very_short() -> None:
    assert patience(0.3) == pytest.approx(0.15)
    assert patience(0.0) == SHORTEST_PATIENCE > 0


UNTIL = NOW + 0.05


def test_it_looks_again_when_a_promise_lapses() -> None:
    assert looks(waiting=2, promised=2, promised_until=UNTIL, size=2) == UNTIL
    # Also while there is a connect for one of two.
    assert looks(waiting=2, opening=1, promised=1, promised_until=UNTIL, size=2) == UNTIL


@pytest.mark.parametrize(
    "state",
    [
        {"waiting": 0},  # nobody to keep the promise to
        {"waiting": 2, "opening": 2},  # each has a connect already
        {"waiting": 2, "max_size": 2},  # nothing could be begun instead
        {"waiting": 2, "starved": True},
    ],
)
def test_a_lapse_that_would_lead_to_nothing_is_no_time_to_look(state: dict[str, object]) -> None:
    assert looks(promised=2, promised_until=UNTIL, size=2, **state) is None


def test_where_more_is_wanted_than_promised_it_looks_after_a_step_as_ever() -> None:
    state = {"waiting": 9, "promised": 2, "promised_until": UNTIL, "size": 3, "lent": 1}
    assert looks(**state) == pytest.approx(NOW + 0.005, abs=1e-6)


# -- ahead of those who ask


@pytest.mark.parametrize(
    ("lent", "size"), [(0, 0), (1, 1), (2, 3), (3, 4), (4, 6), (9, 12), (50, 57), (100, 110)]
)
def test_those_lent_have_the_headroom_of_their_square_root(lent: int, size: int) -> None:
    assert with_headroom(lent) == size


@pytest.mark.parametrize("size", [*range(30), 99, 100, 101, 500])
def test_at_most_so_many_may_be_lent_before_one_is_opened_ahead(size: int) -> None:
    most = lent_at_most(size)
    assert with_headroom(most) <= size < with_headroom(most + 1)


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({"lent": 4, "size": 4}, 2),
        ({"lent": 4, "size": 5, "idle": 1}, 1),
        ({"lent": 4, "size": 6, "idle": 2}, 0),
        ({"lent": 4, "size": 6, "opening": 2}, 0),
        ({"lent": 1, "size": 1}, 0),
        ({"lent": 4, "size": 4, "at_once": 5}, 1),
        ({"lent": 4, "size": 4, "at_once": 4}, 0),
        ({"lent": 4, "size": 4, "at_once": 0}, 0),
        ({"lent": 4, "size": 4, "max_size": 5}, 1),
        ({"lent": 4, "size": 4, "max_connecting": 1}, 1),
        ({"lent": 4, "size": 4, "starved": True}, 0),
        ({"lent": 4, "size": 4, "retry_at": NOW}, 0),
        ({"lent": 4, "size": 4, "floor": 9}, 5),
        # beside a queue that may empty itself yet
        ({"lent": 4, "size": 4, "waiting": 20, "waited": 0.0}, 2),
        ({"lent": 4, "size": 4, "waiting": 20, "waited": 9.0}, 20),
    ],
)
def test_some_are_opened_ahead_of_those_who_ask(state: dict[str, object], n: int) -> None:
    assert begins(**({"at_once": math.inf} | state)) == n


def test_where_there_was_no_slot_for_them_it_is_tried_again_later() -> None:
    wanting = {"lent": 4, "size": 4, "at_once": math.inf}
    assert begins(**wanting, headroom_from=NOW) == 2
    assert begins(**wanting, headroom_from=NOW + 0.7) == 0
    assert looks(**wanting, headroom_from=NOW + 0.7) == NOW + 0.7
    assert looks(
        **wanting, promised_until=NOW + 0.2, waiting=1, promised=1, headroom_from=NOW + 1
    ) == (NOW + 0.2)
    assert looks(lent=4, size=6, idle=2, at_once=math.inf, headroom_from=NOW + 0.7) is None


# -- connects that hang


def late(*ages: float, took: float | None = 0.2, overtaken: float = -math.inf) -> Late:
    """What is late of connects that began so long ago."""
    return late_ones(NOW, [NOW - age for age in ages], took, overtaken)


def test_a_connect_is_late_when_it_takes_much_longer_than_others_did() -> None:
    wait = 0.2 * LATE_FACTOR
    assert late(wait - 0.1).n == 0
    assert late(wait - 0.1).next_at == pytest.approx(NOW + 0.1)
    assert late(wait, wait + 9.0, 0.0).n == 2
    assert late(wait).next_at == late().next_at == NOW + wait
    assert late().n == 0


def test_no_connect_is_late_at_once_nor_while_nobody_knows_how_long_one_takes() -> None:
    assert late(SHORTEST_LATE - 0.01, took=0.001).n == 0
    assert late(SHORTEST_LATE, took=0.001).n == 1
    assert late(LATE_AT_FIRST - 0.01, took=None).n == 0
    assert late(LATE_AT_FIRST, took=None).n == 1


def test_one_that_hangs_while_later_ones_end_well_is_replaced_without_ado() -> None:
    hanging = late(2.0, 2.0, 0.1, overtaken=NOW - 2.0)
    assert hanging.n == 2
    assert hanging.probe_at is None
    assert begins(waiting=3, opening=3, size=3, late=hanging) == 2
    assert begins(waiting=9, opening=3, size=3, late=hanging) == 8
    assert begins(waiting=9, opening=3, size=3, max_connecting=5, late=hanging) == 2
    assert begins(waiting=9, opening=3, size=3, max_size=4, late=hanging) == 1


def test_where_all_may_hang_one_more_tries_at_a_time() -> None:
    hanging = late(1.0, 1.0)
    assert begins(waiting=9, opening=2, size=2, late=hanging) == 1
    assert begins(waiting=9, opening=2, size=2, late=hanging, retry_at=NOW) == 1
    assert begins(waiting=9, opening=3, size=3, late=late(1.5, 1.5, 0.5)) == 0
    # The one that came to replace a lost one does not wait for it either.
    assert begins(floor=5, opening=2, size=2, late=hanging, retry_at=NOW) == 1


def test_where_all_hang_few_hang() -> None:
    """For five seconds nothing answers, and twenty wait."""
    begun: list[float] = []
    clock = ManualClock(NOW)
    while clock() < NOW + 5.0:
        state = state_of(
            waiting=20,
            opening=len(begun),
            size=len(begun) + 1,
            begun=len(begun),
            waited=clock() - NOW,
            lent=1,  # so that the queue may empty itself
            late=late_ones(clock(), begun, 0.01, -math.inf),
            max_size=100,
        )
        n = connects_to_begin(clock(), state)
        begun += [clock()] * n
        late_now = late_ones(clock(), begun, 0.01, -math.inf)
        wake = next_look(clock(), state.after(n)._replace(late=late_now))
        assert wake is not None
        assert wake > clock()
        clock.advance(wake - clock())
    beside = [at - NOW for at in begun[20:]]
    assert 2 <= len(beside) <= 4
    assert beside[0] < 2 * SHORTEST_LATE


def test_it_looks_again_when_a_connect_that_somebody_waits_for_becomes_late() -> None:
    coming = Late(0, NOW + 0.3)
    assert looks(waiting=1, opening=1, size=1, late=coming) == NOW + 0.3
    assert looks(opening=1, size=1, late=coming) is None
    assert looks(waiting=1, opening=1, size=1, max_size=1, late=coming) is None
    assert looks(floor=2, opening=1, size=1, retry_at=NOW - 1, late=coming) == NOW + 0.3
    hanging = Late(1, None, NOW + 0.4)
    assert looks(waiting=1, opening=1, size=1, late=hanging) == NOW + 0.4


# -- the expected level ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "n"),
    [
        ({"level": 9, "size": 4, "idle": 4}, 2),
        ({"level": 5, "size": 4, "idle": 4}, 1),
        ({"level": 9, "size": 5, "idle": 4, "opening": 1}, 1),
        ({"level": 9, "size": 6, "idle": 4, "opening": 2}, 0),
        ({"level": 9, "size": 9, "lent": 9}, 0),
        ({"level": 9, "size": 4, "idle": 4, "max_size": 5}, 1),
        ({"level": 9, "size": 4, "idle": 4, "starved": True}, 0),
        ({"level": 9, "size": 4, "idle": 4, "retry_at": NOW - 1}, 0),
        ({"level": 9, "size": 4, "idle": 4, "level_from": NOW + 1}, 0),
        ({"level": 9, "reason": "warmup"}, 9),
        ({"level": 9, "size": 4, "opening": 4, "reason": "warmup"}, 5),
    ],
)
def test_what_is_expected_is_opened_a_few_at_a_time_and_all_at_once_at_the_start(
    state: dict[str, Any], n: int
) -> None:
    assert begins(**state) == n


def test_once_others_have_needed_a_slot_it_looks_again_when_it_may_open_one() -> None:
    state = {"level": 9, "size": 4, "idle": 4}
    assert looks(**state, level_from=NOW + 3) == NOW + 3
    assert looks(**state, level_from=NOW) is None
    assert looks(**{**state, "level": 4}, level_from=NOW + 3) is None
