"""What the upkeep does at a moment, and when it looks again: no clock, no server, no socket."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from poolguard.budget.slots import Backend
from poolguard.pool.entry import Check, Entry
from poolguard.pool.evidence import Asked, Mark
from poolguard.pool.snapshot import Counts, Snapshot
from poolguard.pool.upkeep import (
    EXPIRY,
    FALLEN,
    HEADROOM,
    INTRODUCED,
    LINGER,
    SPREAD,
    Abandon,
    Action,
    CloseIdle,
    Cut,
    Doubt,
    Open,
    Pace,
    Retire,
    Verify,
    between_retirements,
    check_after_another,
    decide,
    lifetime,
)
from poolguard.testing import ManualClock

NOW = 1000.0
PACE = Pace(check_interval=25.0, check_timeout=1.0, max_idle=600.0)


def entry(*, proved: float = 0.0, retire: float = 3000.0) -> Entry:
    """One that was proved *proved* seconds ago and retires in *retire*."""
    made = Entry(None, NOW - 100)
    made.proved_at = NOW - proved
    made.retire_at = NOW + retire
    return made


def pool(
    *idle: Entry,
    lent: int = 0,
    opening: int = 0,
    waiting: int = 0,
    floor: int | None = None,
    max_size: int = 10,
    checking: Entry | None = None,
    since: float = NOW,
    likely: bool = True,
    retry_at: float | None = None,
    starved: bool = False,
    at_once: float = 0,
    **others: float,
) -> Snapshot:
    """A pool of these idle connections, at its floor unless told otherwise."""
    size = len(idle) + lent + opening + (checking is not None)
    checked = {} if checking is None else {checking: Check(since, likely)}
    bounds = (size if floor is None else floor, max_size)
    made = Snapshot(
        counts=Counts(len(idle), lent, len(checked), opening, waiting, *bounds),
        idle=idle,
        checking=checked,
        max_connecting=32,
        begun=0,
        waited=0.0,
        connect_time=0.1,
        retry_at=retry_at,
        doubted_at=0.0,
        idle_low=0,
        idle_low_since=NOW,
        reason="replace",
        starved=starved,
        at_once=at_once,
    )
    return made._replace(**others)  # type: ignore[arg-type]


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
    assert now(pool(floor=3)._replace(reason="warmup")) == [Open(3, "warmup")]
    # What a waiter will be given is not ahead of anybody, though the queue alone would go slowly;
    # and what is ahead waits until nobody does.
    busy = pool(lent=9, floor=9, waiting=1, max_size=20, at_once=20)
    assert now(busy) == [Open(1, "growth")]
    assert now(pool(lent=9, floor=9, max_size=20, at_once=20)) == [Open(3, "headroom")]


def test_an_empty_pool_without_floor_sleeps_until_an_event() -> None:
    assert decide(NOW, pool(), PACE) == ([], None)


def test_while_all_are_lent_it_looks_as_often_as_it_verifies() -> None:
    """One that comes back tells nobody, and may be left alone then."""
    assert decide(NOW, pool(lent=2), PACE) == ([], NOW + PACE.check_interval)


def test_while_connecting_fails_it_wakes_for_the_next_probe() -> None:
    assert decide(NOW, pool(floor=3, retry_at=NOW + 0.5), PACE) == ([], NOW + 0.5)
    assert now(pool(floor=3, retry_at=NOW)) == [Open(1, "replace")]


# -- checking


def test_one_at_a_time_the_one_proved_longest_ago_first() -> None:
    fresh, old, older = entry(proved=1), entry(proved=26), entry(proved=27)
    assert now(pool(fresh, old, older)) == [Verify(older)]
    assert now(pool(fresh, old, checking=older)) == []


def test_it_wakes_when_the_next_is_due() -> None:
    assert wake(pool(entry(proved=5), entry(proved=10))) == pytest.approx(15)
    assert wake(pool(entry(retire=7), max_size=1)) == pytest.approx(7)


def test_exactly_at_the_interval_it_is_due() -> None:
    due = entry(proved=25)
    assert now(pool(due)) == [Verify(due)]


def test_after_another_it_is_checked_a_little_early() -> None:
    soon, later = entry(proved=20), entry(proved=19.9)
    assert check_after_another(NOW, [later, soon], PACE, any_lent=True) is soon
    assert check_after_another(NOW, [later], PACE, any_lent=False) is None
    later.stranger = True
    assert check_after_another(NOW, [later], PACE, any_lent=False) is later


def test_after_another_the_last_is_left_to_the_requests() -> None:
    due = entry(proved=30)
    assert check_after_another(NOW, [due], PACE, any_lent=True) is None
    assert check_after_another(NOW, [due], PACE, any_lent=False) is due
    assert check_after_another(NOW, [], PACE, any_lent=False) is None


def test_one_that_was_not_greeted_is_asked_as_soon_as_it_has_not_been_used_for_a_while() -> None:
    new, old = entry(proved=INTRODUCED - 0.5), entry(proved=20)
    new.stranger = True
    assert wake(pool(new, old)) == pytest.approx(0.5)
    new.proved_at -= 0.5
    assert now(pool(new, old)) == [Verify(new)]
    assert wake(pool(lent=2, strangers=True)) == pytest.approx(INTRODUCED)
    assert wake(pool(lent=2)) == pytest.approx(PACE.check_interval)


def test_the_last_idle_one_is_left_to_requests_while_others_are_lent() -> None:
    due = entry(proved=30)
    assert now(pool(due, lent=1)) == []
    assert wake(pool(due, lent=1)) == pytest.approx(PACE.check_timeout)
    assert now(pool(due, lent=0)) == [Verify(due)]
    assert now(pool(due, entry(), lent=1)) == [Verify(due)]


def test_a_verification_without_answer_is_given_up() -> None:
    silent = entry(proved=30)
    waiting = pool(checking=silent, since=NOW - 0.4)
    assert now(waiting) == []
    assert wake(waiting) == pytest.approx(0.6)
    assert now(pool(checking=silent, since=NOW - 1.0)) == [Abandon(silent)]


def test_a_connect_whose_first_answer_is_late_is_given_up() -> None:
    logging_in, greeting, over = entry(), entry(), entry()
    greeting.give_up_at = NOW + 0.4
    over.give_up_at = NOW
    assert now(pool(opening=1)._replace(connecting=[logging_in])) == []
    # When the login is over, so much is left that there is time to hear of it.
    assert wake(pool(opening=1)._replace(connecting=[logging_in])) == pytest.approx(1.0)
    assert now(pool(opening=1)._replace(connecting=[greeting])) == []
    assert wake(pool(opening=1)._replace(connecting=[greeting])) == pytest.approx(0.4)
    assert now(pool(opening=2)._replace(connecting=[greeting, over])) == [Abandon(over)]
    over.severed = True
    assert now(pool(opening=2)._replace(connecting=[greeting, over])) == []


# -- replacing before retirement


def test_replaced_first_then_retired() -> None:
    old = entry(retire=0)
    assert now(pool(old, entry())) == [Open(1, "lifetime")]
    assert now(pool(old, entry(), opening=1, floor=2)) == []
    assert now(pool(old, entry(), entry(), floor=2))[0] == Retire(old)


def test_the_successor_is_begun_so_early_that_it_is_there_in_time() -> None:
    almost = pool(entry(retire=0.15), entry())
    assert now(almost) == []
    assert wake(almost) == pytest.approx(0.15 - almost.connect_time)
    assert now(pool(entry(retire=0.09), entry())) == [Open(1, "lifetime")]
    arrived = pool(entry(retire=0.01), entry(), entry(), floor=2)
    assert now(arrived) == []
    assert wake(arrived) == pytest.approx(0.01)


def test_it_is_begun_in_the_pause_after_another_retirement() -> None:
    old = entry(retire=-1)
    until = NOW + 0.05
    assert now(pool(old, entry(), retire_from=until)) == [Open(1, "lifetime")]
    assert now(pool(old, entry(), entry(), floor=2, retire_from=until)) == []


def test_the_one_that_is_due_first_is_retired_first() -> None:
    first, second = entry(retire=-2), entry(retire=-1)
    assert now(pool(second, first, entry(), floor=2))[0] == Retire(first)


def test_where_no_place_is_free_the_old_one_makes_it() -> None:
    old = entry(retire=0)
    assert now(pool(old, entry(), max_size=2)) == [Retire(old)]
    assert now(pool(old, max_size=1)) == [Retire(old)]


def test_in_a_full_pool_one_at_a_time_makes_place_and_only_while_connecting_works() -> None:
    old = entry(retire=0)
    assert now(pool(old, opening=1, max_size=2)) == []
    assert now(pool(old, entry(), max_size=2, retry_at=NOW + 1)) == []
    assert now(pool(old, entry(), max_size=2, retry_at=NOW)) == []


def test_without_a_slot_for_the_replacement_the_old_one_stays() -> None:
    old = entry(retire=0)
    assert now(pool(old, entry(), starved=True)) == []


def test_without_a_server_for_the_replacement_the_old_one_stays() -> None:
    old = entry(retire=0)
    assert now(pool(old, entry(), retry_at=NOW + 1)) == []
    assert now(pool(old, entry(), retry_at=NOW)) == [Open(1, "lifetime")]


def test_the_last_idle_one_is_replaced_but_not_taken_from_requests() -> None:
    old = entry(retire=0)
    assert now(pool(old, lent=1)) == [Open(1, "lifetime")]
    assert Retire(old) not in now(pool(old, lent=2, floor=2))
    assert Retire(old) not in now(pool(old, lent=1, max_size=2))


def test_one_that_cannot_be_retired_yet_is_verified_meanwhile() -> None:
    old = entry(retire=0, proved=30)
    assert now(pool(old, entry(), starved=True)) == [Verify(old)]


# -- lifetimes


@pytest.mark.parametrize("count", [2, 10, 20, 57])
def test_connections_of_one_instant_retire_far_apart(count: int) -> None:
    """As far as a third of an even division, however many there are and wherever it begins."""
    for offset in (0.0, 0.3, 0.999):
        times = sorted(lifetime(nth, 3600.0, offset) for nth in range(1, count + 1))
        gaps = [b - a for a, b in pairwise(times)]
        assert min(gaps) > 3600 * SPREAD / count / 3


def test_retirement_comes_before_expiry() -> None:
    """So that it suits the pool; and no lifetime is much shorter than was asked."""
    times = [lifetime(nth, 3600.0, offset / 10) for nth in range(1000) for offset in range(10)]
    assert max(times) <= 3600 * (1 - HEADROOM) < 3600 * EXPIRY
    assert min(times) >= 3600 * (1 - HEADROOM - SPREAD)


# -- shrinking


def idle_for_long(*idle: Entry, idle_low: int, **state: float) -> Snapshot:
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
    entries = [entry() for _ in range(idle)]
    shrunk = idle_for_long(*entries, idle_low=idle_low, floor=floor, lent=lent, opening=opening)
    assert now(shrunk) == [CloseIdle(closed, "idle")]


@pytest.mark.parametrize(
    ("lent_at_most", "size", "at_once", "closed"),
    [(4, 10, math.inf, 4), (4, 6, math.inf, 0), (4, 10, 5, 5), (4, 10, 0, 6), (1, 4, math.inf, 3)],
)
def test_what_the_same_load_would_have_opened_ahead_again_stays(
    *, lent_at_most: int, size: int, at_once: float, closed: int
) -> None:
    unused = [entry() for _ in range(size - lent_at_most)]
    low = len(unused)
    shrunk = idle_for_long(*unused, idle_low=low, floor=1, lent=lent_at_most, at_once=at_once)
    assert now(shrunk) == [CloseIdle(closed, "idle")]


def test_when_the_process_will_end_a_moment_without_use_is_enough() -> None:
    ending = pool(entry(), entry(), entry(), lent=1, idle_low=2, floor=0, leaving=True)
    assert now(ending) == []
    assert wake(ending) == pytest.approx(LINGER)
    unused = ending._replace(idle_low_since=NOW - LINGER)
    assert decide(NOW, unused, PACE) == ([CloseIdle(2, "shutdown")], NOW + LINGER)
    assert now(unused._replace(owed=3)) == [CloseIdle(3, "yielded")]
    hasty = PACE._replace(max_idle=LINGER / 2)
    half = unused._replace(idle_low_since=NOW - LINGER / 2)
    assert decide(NOW, half, hasty) == ([CloseIdle(2, "shutdown")], NOW + LINGER / 2)


def test_one_that_is_taken_for_verification_is_not_closed_as_well() -> None:
    due = entry(proved=30)
    assert now(idle_for_long(due, entry(), idle_low=2, floor=0)) == [
        Verify(due),
        CloseIdle(1, "idle"),
    ]


def test_at_the_floor_nothing_is_watched_for_shrinking() -> None:
    assert now(idle_for_long(entry(), idle_low=1, floor=1)) == []


def test_above_the_floor_it_wakes_when_the_period_ends() -> None:
    above = pool(entry(), entry(), floor=1, idle_low_since=NOW - 590)
    assert now(above) == []
    assert wake(above) == pytest.approx(10)
    assert wake(idle_for_long(entry(), entry(), idle_low=0, floor=1)) == pytest.approx(25)


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
    entries = [entry() for _ in range(idle)]
    snapshot = pool(*entries, owed=owed, floor=floor, lent=lent, opening=opening)
    assert now(snapshot) == ([CloseIdle(given, "yielded")] if given else [])


def test_one_that_is_being_verified_or_replaced_is_not_given() -> None:
    due, old = entry(proved=30), entry(retire=0)
    assert now(pool(due, entry(), owed=9, floor=0)) == [Verify(due), CloseIdle(1, "yielded")]
    assert now(pool(entry(), owed=9, floor=0, checking=due)) == [CloseIdle(1, "yielded")]
    assert now(pool(checking=due, owed=9, floor=0)) == []
    assert now(pool(old, entry(), owed=9, floor=0)) == [Retire(old), CloseIdle(1, "yielded")]


def test_what_is_retired_counts_for_the_floor() -> None:
    old = entry(retire=0)
    assert now(pool(old, entry(), entry(), owed=9, floor=2)) == [Retire(old)]
    assert now(pool(old, entry(), entry(), entry(), owed=9, floor=2)) == [
        Retire(old),
        CloseIdle(1, "yielded"),
    ]
    shrunk = idle_for_long(old, entry(), entry(), idle_low=3, floor=2)
    assert now(shrunk) == [Retire(old), CloseIdle(0, "idle")]


def test_who_gives_does_not_shrink_in_the_same_look() -> None:
    """What both would close is the same: it was not needed."""
    assert now(idle_for_long(entry(), entry(), entry(), idle_low=3, floor=0, owed=1)) == [
        CloseIdle(1, "yielded")
    ]


# -- checking for those who wait


def promising(snapshot: Snapshot, n: int, until: float) -> Snapshot:
    """So many verifications are under way of which there is hope, until then."""
    return snapshot._replace(promised=n, promised_until=until)


def test_as_many_are_verified_as_wait_those_proved_last_first() -> None:
    oldest, older, old = entry(proved=90), entry(proved=80), entry(proved=70)
    first, second = Verify(old, for_waiter=True), Verify(older, for_waiter=True)
    assert now(pool(oldest, older, old, waiting=1)) == [first]
    assert now(pool(oldest, older, old, waiting=2)) == [first, second]
    assert now(pool(oldest, older, old, waiting=2, opening=1)) == [first]
    assert now(pool(oldest, older, old, waiting=2, opening=2)) != [first]


def test_those_for_whom_none_is_idle_have_connects_begun() -> None:
    one, other = entry(proved=70), entry(proved=80)
    verified = [Verify(one, for_waiter=True), Verify(other, for_waiter=True)]
    assert now(pool(one, other, waiting=5)) == [*verified, Open(3, "growth")]
    assert now(pool(one, other, waiting=5, max_size=4)) == [*verified, Open(2, "growth")]
    assert now(pool(one, other, waiting=5, max_size=2)) == verified
    assert now(pool(one, other, waiting=5, retry_at=NOW + 1)) == verified
    assert now(pool(one, other, waiting=5, starved=True)) == verified


def test_for_whom_one_is_being_verified_no_other_is() -> None:
    asked, other = entry(proved=70), entry(proved=80)
    under_way = promising(pool(other, checking=asked, waiting=1), 1, NOW + 0.04)
    assert now(under_way) == []
    assert wake(under_way) == pytest.approx(0.04)
    two = promising(pool(other, checking=asked, waiting=2), 1, NOW + 0.04)
    assert now(two) == [Verify(other, for_waiter=True)]


def test_it_wakes_when_the_answer_is_late() -> None:
    """After half a connect, which takes 100 ms here; in a full pool when it is given up."""
    assert wake(pool(entry(proved=60), waiting=1)) == pytest.approx(0.05)
    assert wake(pool(entry(proved=60), waiting=1, max_size=1)) == pytest.approx(PACE.check_timeout)


def test_whose_answer_is_late_has_a_connect_begun_however_many_are_idle() -> None:
    """And another one verified beside it, which is all there is where nothing can be opened."""
    asked, others = entry(proved=70), [entry(proved=80 + n) for n in range(7)]
    other = Verify(others[0], for_waiter=True)
    late = pool(*others, checking=asked, since=NOW - 0.06, waiting=1, max_size=20)
    assert now(late) == [other, Open(1, "growth")]
    assert now(pool(*others, checking=asked, since=NOW - 0.06, waiting=1, max_size=8)) == [other]
    failing = pool(*others, checking=asked, since=NOW - 0.06, waiting=1, retry_at=NOW + 1)
    assert now(failing) == [other]
    alone = pool(checking=asked, since=NOW - 0.06, waiting=1)
    assert now(alone) == [Open(1, "growth")]
    served = pool(*others, checking=asked, since=NOW - 0.06, waiting=1, opening=1, max_size=20)
    assert now(served) == []


def test_a_late_answer_of_one_of_two_is_the_matter_of_one() -> None:
    slow, fast, idle = entry(proved=70), entry(proved=71), entry(proved=80)
    two = pool(idle, checking=slow, since=NOW - 0.06, waiting=2, max_size=20, lent=0)
    counts = two.counts._replace(checking=2)
    both = {slow: Check(NOW - 0.06, True), fast: Check(NOW, True)}
    two = promising(two._replace(counts=counts, checking=both), 1, NOW + 0.05)
    assert now(two) == [Verify(idle, for_waiter=True), Open(1, "growth")]


# -- checking those in doubt


def test_all_in_doubt_are_verified_at_once_and_no_other() -> None:
    doubted, fresh = [entry(proved=1.5), entry(proved=9), entry(proved=2)], entry(proved=0.5)
    state = pool(*doubted, fresh, doubted_at=NOW - 1)
    assert now(state) == [Verify(one, likely=False) for one in doubted]
    assert wake(state) == pytest.approx(PACE.check_timeout)
    assert now(pool(fresh, doubted_at=NOW - 1)) == []


def test_one_proved_at_the_very_moment_of_the_doubt_is_not_in_doubt() -> None:
    assert now(pool(entry(proved=1), doubted_at=NOW - 1)) == []


def test_those_in_doubt_are_verified_beside_a_verification_under_way() -> None:
    one, other, asked = entry(proved=9), entry(proved=9), entry(proved=9)
    state = pool(one, other, checking=asked, since=NOW - 0.1, doubted_at=NOW - 1)
    assert now(state) == [Verify(one, likely=False), Verify(other, likely=False)]
    assert wake(state) == pytest.approx(0.9)


def test_nobody_waits_for_one_in_doubt() -> None:
    doubted = [entry(proved=9), entry(proved=9)]
    verified = [Verify(one, likely=False) for one in doubted]
    assert now(pool(*doubted, waiting=1, doubted_at=NOW)) == [*verified, Open(1, "growth")]
    under_way = pool(checking=entry(), likely=False, waiting=1)
    assert now(under_way) == [Open(1, "growth")]


def test_one_in_doubt_is_not_closed_while_it_is_asked() -> None:
    doubted = [entry(proved=9, retire=-1), entry(proved=9)]
    state = idle_for_long(*doubted, idle_low=2, floor=0)
    asked = [Verify(one, likely=False) for one in doubted]
    assert now(state._replace(doubted_at=NOW)) == [*asked, CloseIdle(0, "idle")]
    assert now(state._replace(doubted_at=NOW, owed=2)) == [*asked, CloseIdle(0, "idle")]


# -- the distance between retirements


def test_none_is_retired_or_replaced_just_after_another() -> None:
    old, other = entry(retire=-100), entry()
    # Where the old one makes the place, and where its successor is first, and begun in time.
    for max_size, earlier in ((2, 0.0), (10, 0.1)):
        state = pool(old, other, max_size=max_size, retire_from=NOW + 5)
        assert now(state) == []
        assert wake(state) == pytest.approx(5 - earlier)
    assert now(pool(old, other, max_size=2, retire_from=NOW)) == [Retire(old)]
    assert now(pool(old, other, max_size=10, retire_from=NOW)) == [Open(1, "lifetime")]


def test_the_distance_is_half_of_what_lies_between_them_anyway() -> None:
    assert between_retirements(10, 3600.0) == pytest.approx(3600 * SPREAD / 20)
    assert between_retirements(0, 3600.0) == between_retirements(1, 3600.0)


def test_meanwhile_those_that_are_due_are_verified() -> None:
    old = entry(proved=30, retire=-100)
    assert now(pool(old, entry(), retire_from=NOW + 5)) == [Verify(old)]


@pytest.mark.parametrize("max_size", [8, 16])
def test_after_a_sleep_of_hours_one_after_the_other_is_verified_and_few_are_replaced(
    max_size: int,
) -> None:
    """Told step by step: what is decided is done at once, and the time is that of the next look."""
    idle = [entry(proved=4 * 3600 + n, retire=-3 * 3600 - n) for n in range(8)]
    clock, retire_from = ManualClock(NOW), 0.0
    verified: list[Entry] = []
    replaced: list[Entry] = []
    while clock() < NOW + 60:
        state = pool(
            *idle, floor=8, max_size=max_size, retire_from=retire_from, doubted_at=-math.inf
        )
        actions, wakes = decide(clock(), state, PACE)
        assert sum(isinstance(action, Verify) for action in actions) <= 1
        assert sum(isinstance(action, Open | Retire) for action in actions) <= 1
        for action in actions:
            if isinstance(action, Verify):
                action.entry.proved_at = clock()
                verified.append(action.entry)
            elif isinstance(action, Open):
                assert action.n == 1
                idle.append(entry(proved=NOW - clock()))
            else:
                assert isinstance(action, Retire)
                idle.remove(action.entry)
                replaced.append(action.entry)
                retire_from = clock() + between_retirements(8, 3600.0)
        assert wakes is not None
        clock.advance(0.001 if actions else max(wakes - clock(), 0.001))
        assert clock() < NOW + 1 or len(verified) >= 7
    assert len(replaced) == 2
    assert len(verified) >= 7
    assert len(idle) == 8


# -- the expected level


@pytest.mark.parametrize(("level", "closed"), [(0, 6), (2, 6), (5, 3), (8, 0), (12, 0)])
def test_what_is_expected_to_be_needed_is_not_closed_for_being_idle(
    level: int, closed: int
) -> None:
    s = pool(*(entry() for _ in range(8)), floor=2, level=level, idle_low=8, idle_low_since=0.0)
    assert now(s)[-1] == CloseIdle(closed, "idle")


def test_it_is_given_up_to_siblings_down_to_the_floor() -> None:
    s = pool(*(entry() for _ in range(8)), floor=2, level=8, owed=20)
    assert now(s) == [CloseIdle(6, "yielded")]


@pytest.mark.parametrize(("unused", "closed"), [(FALLEN - 1, 0), (FALLEN, 3)])
def test_what_was_kept_for_a_level_that_has_fallen_is_closed_sooner(
    unused: float, closed: int
) -> None:
    """And no more than that."""
    idle = [entry() for _ in range(8)]
    s = pool(*idle, floor=2, level=5, idle_low=8, idle_low_since=NOW - unused, level_fell=True)
    found = [action for action in now(s) if isinstance(action, CloseIdle)]
    assert found == ([CloseIdle(closed, "idle")] if closed else [])
    assert not [each for each in now(s._replace(level_fell=False)) if isinstance(each, CloseIdle)]


# -- commands without an answer

QUESTION = (Asked(1, Backend(4711, 5.0), Mark(NOW - 1, 0, 0), NOW),)
REPLY = 0.1


def silent(*idle: Entry, **others: Any) -> Snapshot:
    """A pool in which two commands have been under way for long."""
    return pool(*idle, lent=2, **{"suspects": 2, "reply_time": REPLY, **others})


def asking(state: Snapshot, since: float) -> Snapshot:
    """One of its connections asks about them, since then."""
    counts = state.counts._replace(checking=1)
    return state._replace(counts=counts, checking={entry(): Check(since, question=QUESTION)})


def test_the_one_that_was_proved_last_asks_about_late_commands() -> None:
    old, fresh = entry(proved=9), entry(proved=1)
    assert now(silent(old, fresh)) == [Verify(fresh, asks=True)]
    assert wake(silent(old, fresh)) == pytest.approx(REPLY)  # when the reply is late
    assert now(silent(old, fresh, suspects=0)) == []
    assert now(silent()) == []


def test_even_the_last_idle_one_asks() -> None:
    last = entry()
    assert now(silent(last)) == [Verify(last, asks=True)]


def test_nobody_asks_what_another_one_asks() -> None:
    state = asking(silent(entry()), NOW - REPLY / 2)
    assert now(state) == []
    assert wake(state) == pytest.approx(REPLY / 2)


def test_those_that_are_verified_anyway_are_asked_nothing_else() -> None:
    doubted = entry(proved=9)
    state = silent(doubted, entry(proved=1), doubted_at=NOW - 5)
    assert now(state) == [Verify(doubted, likely=False)]


def test_where_the_reply_is_late_all_that_was_not_proved_since_is_in_doubt() -> None:
    """Another one asks then, if there is one."""
    old, since = entry(proved=9), NOW - REPLY
    state = asking(silent(old), since)
    assert now(state) == [Doubt(since), Verify(old, likely=False)]
    assert now(state._replace(doubted_at=since)) == [Verify(old, likely=False)]
    fresh = entry(proved=REPLY / 2)
    assert now(asking(silent(fresh), since)) == [Doubt(since), Verify(fresh, asks=True)]


def test_a_check_that_asks_nothing_casts_no_doubt() -> None:
    assert now(silent(entry(), checking=entry(), since=NOW - 0.5, suspects=0)) == []


def test_what_is_lost_is_cut() -> None:
    gone = entry()
    assert now(silent(lost=[gone], suspects=0)) == [Cut(gone)]


def test_where_nobody_can_ask_about_one_that_is_unheard_another_is_opened() -> None:
    unheard = entry()
    assert now(silent(unheard=unheard)) == [Open(1, "headroom")]
    assert now(silent(unheard=unheard, retry_at=NOW)) == [Open(1, "headroom")]
    assert now(silent(unheard=unheard, retry_at=NOW + 1)) == []
    assert now(silent(unheard=unheard, opening=1)) == []
    assert now(silent(unheard=unheard, checking=entry())) == []
    idle = entry()
    assert now(silent(idle, unheard=unheard)) == [Verify(idle, asks=True)]


def test_in_a_full_pool_one_that_is_unheard_makes_room_for_another() -> None:
    unheard = entry()
    full = silent(unheard=unheard, max_size=2)
    assert now(full) == [Cut(unheard)]
    assert now(full._replace(lost=[unheard])) == [Cut(unheard)]  # the one is enough
    # Its slot would not be free before somebody has asked about its session.
    assert now(silent(unheard=unheard, starved=True)) == []
