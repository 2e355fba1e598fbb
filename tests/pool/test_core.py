"""The core of a pool: each transition by itself, and all of them in any order.

No server, no thread, no clock: the connections are stand-ins, and time is a number.
"""

from __future__ import annotations

import gc
import math
import os
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, TypeVar

import pytest

from poolguard.budget.slots import Backend, Orphan, Slot
from poolguard.pool.core import Core
from poolguard.pool.entry import Check, Entry, State, Verdict
from poolguard.pool.events import CloseReason
from poolguard.pool.snapshot import Counts
from poolguard.pool.transitions import Ask, Close, Condition, Fate, Misplaced, Reset
from poolguard.pool.waiter import Waiter
from poolguard.testing import FakeConnection as Conn
from poolguard.testing import ManualClock

T = TypeVar("T")

NOW = 1000.0
STALE = 30.0
"""Seconds: one that has been idle for longer is checked before it is lent."""

STORY = 25_000
"""Steps of one story."""
STEPS = int(os.environ.get("POOLGUARD_TEST_STEPS", "100000"))


class Bench:
    """A core, and connections for it."""

    def __init__(self, **arguments: Any) -> None:
        self.core = Core(0, 9, check_after_idle=STALE, **arguments)

    def connected(self, at: float = NOW, *, retire_at: float = math.inf) -> tuple[Entry, Conn]:
        """One whose connect has ended well."""
        entry = Entry(Slot(len(self.core.entries)), at)
        self.core.begin(entry)
        conn = Conn()
        entry.take(conn)
        entry.watched = True
        entry.connected_at = entry.proved_at = entry.writable_at = at
        entry.retire_at = retire_at
        return entry, conn

    def idle(self, at: float = NOW, *, retire_at: float = math.inf) -> Entry:
        """One that has been idle since *at*."""
        entry, _conn = self.connected(at, retire_at=retire_at)
        assert self.core.arrive(entry, at) is None
        return entry

    def lent(self, at: float = NOW, *, retire_at: float = math.inf) -> tuple[Entry, Conn]:
        """One that is lent, and its connection."""
        entry = self.idle(at, retire_at=retire_at)
        others = [each for each in self.core.idle if each is not entry]
        self.core.idle = deque([entry, *others])
        conn = self.core.take(at)
        assert conn is entry.conn
        return entry, conn

    def in_state(self, state: State) -> tuple[Entry, Conn]:
        """One that is in this state, and its connection."""
        core = self.core
        if state == "connecting":
            return self.connected()
        entry, conn = self.lent()
        if state in ("idle", "checking"):
            core.give_back(entry, NOW)
        if state == "checking":
            core.check(entry, NOW)
        elif state == "resetting":
            core.reset(entry, NOW)
        elif state in ("closing", "gone"):
            core.close(entry, "discarded")
        if state == "gone":
            core.end(entry)
        assert entry.state == state
        return entry, conn

    def queued(self, at: float = NOW) -> Waiter:
        """Somebody who waits."""
        waiter = newcomer(at)
        assert self.core.acquire(at, waiter) == "queued"
        return waiter


STATES: tuple[State, ...] = (
    "connecting",
    "idle",
    "checking",
    "lent",
    "resetting",
    "closing",
    "gone",
)


def newcomer(at: float = NOW) -> Waiter:
    """An acquire that begins now."""
    return Waiter(at, math.inf)


def state_of(entry: Entry) -> State:
    """Its state, of which a type checker knows nothing from before."""
    return entry.state


# -- acquiring -------------------------------------------------------------------------------------


def test_the_longest_idle_is_lent_first() -> None:
    bench = Bench()
    first, second = bench.idle(), bench.idle()
    assert [bench.core.take(NOW + 1), bench.core.take(NOW + 2)] == [first.conn, second.conn]
    assert bench.core.take(NOW + 2) is None
    assert (first.state, first.lent_at, first.kept) == ("lent", NOW + 1, None)
    assert bench.core.taken_free == 2


def test_while_it_is_lent_only_the_borrower_refers_to_it() -> None:
    bench = Bench()
    entry = bench.idle()
    conn = bench.core.take(NOW)
    assert entry.conn is conn
    del conn
    assert entry.conn is None
    assert (entry.state, entry.reason) == ("lent", "discarded")
    assert bench.core.close(entry, "shutdown") is None
    assert (state_of(entry), entry.reason) == ("closing", "discarded")  # that came first


def test_one_that_has_been_idle_for_too_long_is_not_lent_unchecked() -> None:
    bench = Bench()
    entry = bench.idle()
    assert bench.core.take(NOW + STALE + 0.1) is None
    assert entry.state == "idle"
    assert bench.core.take(NOW + STALE) is entry.conn


def test_after_a_doubt_only_what_was_proved_since_is_lent() -> None:
    bench = Bench()
    old, new = bench.idle(NOW - 1), bench.idle(NOW)
    bench.core.doubt(NOW)
    bench.core.doubt(NOW - 5)  # an older one takes nothing back
    assert bench.core.is_stale(old, NOW)
    assert not bench.core.is_stale(new, NOW)
    assert bench.core.take(NOW) is None


def test_an_acquire_finds_the_fresh_one_behind_those_that_are_to_be_checked() -> None:
    bench = Bench()
    first, second = bench.idle(NOW - 40), bench.idle(NOW - 35)
    fresh = bench.idle(NOW)
    assert bench.core.acquire(NOW, newcomer()) is fresh.conn
    assert [*bench.core.idle] == [first, second]
    assert not bench.core.waiting


def test_an_acquire_waits_where_nothing_may_be_lent() -> None:
    bench = Bench()
    bench.idle(NOW - 40)
    waiters = [bench.queued(), bench.queued()]
    assert [*bench.core.waiting] == waiters
    assert bench.core.counts().waiting == 2


def test_a_full_queue_refuses() -> None:
    bench = Bench(max_waiting=2)
    waiters = [bench.queued(), bench.queued()]
    assert bench.core.acquire(NOW, newcomer()) == "refused"
    assert [*bench.core.waiting] == waiters


def test_who_waits_for_a_check_takes_no_place_in_the_queue() -> None:
    bench = Bench(max_waiting=1)
    bench.idle(NOW - 40)
    bench.core.check(bench.idle(NOW - 40), NOW)
    for _ in range(3):
        bench.queued()
    assert bench.core.acquire(NOW, newcomer()) == "refused"


def test_who_stops_waiting_leaves_the_queue() -> None:
    bench = Bench()
    first, second, third = bench.queued(), bench.queued(), bench.queued()
    assert bench.core.withdraw(second, NOW) is None
    assert [*bench.core.waiting] == [first, third]
    assert bench.core.withdraw(second, NOW) is None


@pytest.mark.parametrize("timed_out", [False, True])
def test_who_stops_waiting_in_the_moment_of_being_served_has_it_to_give_back(
    timed_out: bool,
) -> None:
    bench = Bench()
    waiter, other = bench.queued(), bench.queued()
    entry, conn = bench.connected()
    assert bench.core.arrive(entry, NOW) is waiter
    assert bench.core.withdraw(waiter, NOW, timed_out=timed_out) is conn
    assert bench.core.withdraw(waiter, NOW) is None
    assert bench.core.give_back(entry, NOW) is other
    assert other.conn is conn


def test_nobody_begins_to_wait_once_the_pool_is_closed() -> None:
    """For nobody would ever serve it, nor tell it."""
    bench = Bench()
    bench.core.shut(NOW)
    assert bench.core.acquire(NOW, newcomer()) != "queued"
    assert not bench.core.waiting


def test_only_the_first_that_an_acquire_takes_was_free_for_it() -> None:
    """It asks again where a check has refused what it took."""
    bench = Bench()
    entry, other = bench.idle(), bench.idle()
    waiter = newcomer()
    found = []
    for taken in (1, 2):
        found.append(bench.core.acquire(NOW, waiter))
        assert (waiter.taken, waiter.free) == (taken, taken == 1)
    assert found == [entry.conn, other.conn]


def test_what_was_only_checked_for_an_acquire_was_free_unless_it_had_one_before() -> None:
    bench = Bench()
    for taken in (False, True):
        waiter = newcomer()
        if taken:
            bench.idle()
            bench.core.close(bench.core.acquire(NOW, waiter)._poolguard_entry, "discarded")
        entry = bench.idle(NOW - 40)
        assert bench.core.acquire(NOW, waiter) == "queued"
        bench.core.check(entry, NOW, for_waiter=True)
        assert bench.core.was_checked(entry, NOW) is waiter
        assert waiter.free is not taken
        bench.core.withdraw(waiter, NOW)


def test_waits_are_counted() -> None:
    bench = Bench()
    first, second = bench.queued(NOW), bench.queued(NOW + 1)
    entry, _ = bench.connected()
    bench.core.arrive(entry, NOW + 3)
    bench.core.withdraw(first, NOW + 3)
    bench.core.withdraw(second, NOW + 5, timed_out=True)
    assert (bench.core.queued, bench.core.waited) == (2, 3.0 + 4.0)


@pytest.mark.parametrize("state", STATES)
def test_a_look_is_due_for_one_that_waits_where_it_may_find_room(state: State) -> None:
    bench = Bench()
    entry, _conn = bench.in_state(state)
    entry.proved_at -= 40
    bench.core.max_size = 1
    bench.core.look_due = False
    bench.queued()
    assert bench.core.look_due == (state in ("idle", "closing", "gone"))


def test_a_look_is_due_for_one_that_waits_for_what_has_ended() -> None:
    bench = Bench()
    entry, _conn = bench.lent()
    bench.core.max_size = 1
    bench.core.end(entry)
    bench.queued()
    assert bench.core.look_due


def test_the_pauses_after_refusals_grow() -> None:
    waiter = newcomer()
    now = waiter.began
    assert waiter.pause(now, at_once=True) == 0.0
    waiter.until = math.inf
    pauses = [waiter.pause(now, at_once=False) for _ in range(4)]
    assert pauses[0] == 0.0
    assert 0.9 <= pauses[1] <= 1.1
    assert pauses[2:] == [2 * pauses[1], 4 * pauses[1]]
    assert waiter.pause(now, at_once=True) == 0.0
    waiter.until = now + 0.5
    assert waiter.pause(now, at_once=False) == 0.5
    assert waiter.pause(now + 1.0, at_once=False) == 0.0


# -- since when nobody was served ------------------------------------------------------------------


def test_it_is_stuck_from_the_first_that_waits_until_one_is_served() -> None:
    bench = Bench()
    assert bench.core.stuck_since() is None
    bench.queued(NOW)
    bench.core.withdraw(bench.queued(NOW + 1), NOW)
    assert bench.core.stuck_since() == NOW
    entry, _ = bench.connected()
    bench.core.arrive(entry, NOW + 2)
    assert bench.core.stuck_since() is None


def test_it_is_not_stuck_once_all_have_lost_interest() -> None:
    bench = Bench()
    bench.core.withdraw(bench.queued(), NOW)
    assert bench.core.stuck_since() is None
    bench.queued(NOW + 5)
    assert bench.core.stuck_since() == NOW + 5


def test_it_stays_stuck_after_a_timeout_until_a_connection_comes() -> None:
    bench = Bench()
    bench.core.withdraw(bench.queued(), NOW, timed_out=True)
    assert bench.core.stuck_since() == NOW
    bench.core.withdraw(bench.queued(NOW + 5), NOW)
    assert bench.core.stuck_since() == NOW
    bench.idle(NOW + 6)
    assert bench.core.stuck_since() is None


@pytest.mark.parametrize("timed_out", [False, True])
def test_those_that_still_wait_are_stuck_since_the_last_was_served(timed_out: bool) -> None:
    bench = Bench()
    first, second = bench.queued(), bench.queued()
    entry, _ = bench.connected()
    assert bench.core.arrive(entry, NOW + 2) is first
    if timed_out:
        bench.core.withdraw(second, NOW, timed_out=True)
    assert bench.core.stuck_since() == NOW + 2


# -- how few are idle ------------------------------------------------------------------------------


def test_the_fewest_idle_ones_are_noted() -> None:
    bench = Bench()
    for _ in range(4):
        bench.idle()
    bench.core.note_idle_low()
    assert bench.core.idle_low == 4
    taken = [bench.core.take(NOW), bench.core.take(NOW)]
    bench.core.give_back(taken[0]._poolguard_entry, NOW)
    assert bench.core.idle_low == 2
    for _ in range(2):
        bench.core.close(bench.core.idle[0], "idle")
    assert bench.core.idle_low == 1


def test_one_that_is_checked_was_not_needed() -> None:
    bench = Bench()
    entry = bench.idle()
    bench.idle()
    bench.core.note_idle_low()
    bench.core.check(entry, NOW)
    assert bench.core.idle_low == 2


def test_a_look_is_due_once_when_fewer_are_idle_than_there_should_be() -> None:
    bench = Bench()
    for _ in range(4):
        bench.idle()
    taken, due = [], []
    for fewest in (3, None, None, 1):
        if fewest is not None:
            bench.core.look_below(fewest)
        taken.append(bench.core.take(NOW))
        due.append(bench.core.look_due)
        bench.core.look_due = False
    assert due == [False, True, False, True]


def test_a_look_is_due_when_one_comes_back_that_is_to_be_replaced() -> None:
    bench = Bench()
    entry, _ = bench.lent(retire_at=NOW + 10)
    bench.core.give_back(entry, NOW + 9)
    bench.core.take(NOW + 9)
    assert not bench.core.look_due
    bench.core.give_back(entry, NOW + 10)
    assert (entry.state, bench.core.look_due) == ("idle", True)


# -- coming in -------------------------------------------------------------------------------------


def test_one_that_arrives_is_idle() -> None:
    bench = Bench()
    entry, conn = bench.connected()
    assert (entry.state, bench.core.counts().opening) == ("connecting", 1)
    assert bench.core.arrive(entry, NOW + 1) is None
    assert (entry.state, entry.kept, entry.proved_at) == ("idle", conn, NOW + 1)
    assert [*bench.core.idle] == [entry]


def test_one_that_comes_in_is_lent_to_the_first_that_waits() -> None:
    bench = Bench()
    first, second = bench.queued(), bench.queued()
    entry, conn = bench.connected()
    assert bench.core.arrive(entry, NOW + 1) is first
    assert (first.conn, first.free, second.conn) == (conn, False, None)
    assert (entry.state, entry.lent_at, entry.kept) == ("lent", NOW + 1, None)
    assert [*bench.core.waiting] == [second]
    assert bench.core.taken_free == 0


RETURNS: list[tuple[Condition, Verdict | None, Fate, State]] = [
    ("clean", None, None, "idle"),
    ("open", None, Reset(), "lent"),
    ("unfit", None, Close("discarded"), "closing"),
    ("closed", None, Close("discarded"), "closing"),
    ("lost", None, Close(None), "closing"),
    ("lost", "lost", Close(None), "closing"),
    ("clean", "ending", Close("discarded"), "closing"),
    ("open", "ending", Close("discarded"), "closing"),
    ("unfit", "ending", Close("discarded"), "closing"),
    ("closed", "ending", Close(None), "closing"),
    ("lost", "ending", Close(None), "closing"),
    ("clean", "read-only", Reset(), "lent"),
    ("open", "read-only", Reset(), "lent"),
    ("unfit", "read-only", Close("discarded"), "closing"),
    ("closed", "read-only", Close("discarded"), "closing"),
    ("lost", "read-only", Close(None), "closing"),
]


@pytest.mark.parametrize(("condition", "verdict", "fate", "state"), RETURNS)
def test_how_it_comes_back_decides(
    condition: Condition, verdict: Verdict | None, fate: Fate, state: State
) -> None:
    """Only the server's end casts doubt on the others, and only who waits gets what is clean."""
    bench = Bench()
    entry, conn = bench.lent()
    entry.verdict = verdict
    if state != "idle":
        bench.queued()
    assert bench.core.give_back(entry, NOW + 2, condition) == fate
    assert entry.state == state
    assert entry.kept is (conn if state == "idle" else None)
    doubted = condition == "lost" or verdict == "ending"
    assert bench.core.doubted_at == (NOW + 2 if doubted else 0.0)
    assert entry.reason == (fate.reason if isinstance(fate, Close) else None)
    assert bench.core.usage == (0.0 if fate == Reset() else 2.0)  # it is in use until it is reset


@pytest.mark.parametrize("condition", ["clean", "open", "unfit", "closed", "lost"])
def test_whatever_comes_back_to_a_closed_pool_is_closed(condition: Condition) -> None:
    bench = Bench()
    entry, _ = bench.lent()
    bench.core.shut(NOW)
    assert bench.core.give_back(entry, NOW, condition) == Close("shutdown")
    assert entry.state == "closing"


def test_one_that_is_given_back_goes_to_the_first_that_waits() -> None:
    bench = Bench()
    entry, conn = bench.lent()
    waiter = bench.queued()
    assert bench.core.give_back(entry, NOW + 3) is waiter
    assert (waiter.conn, entry.state, entry.lent_at) == (conn, "lent", NOW + 3)
    assert bench.core.usage == 3.0


def test_a_verdict_is_forgotten_once_it_is_dealt_with() -> None:
    bench = Bench()
    entry, _ = bench.lent()
    entry.verdict = "read-only"
    bench.core.give_back(entry, NOW)
    bench.core.reset(entry, NOW)
    known = [entry.verdict]  # until then, who resets it wants to know
    assert bench.core.was_reset(entry, NOW + 1, is_fit=True) is None
    assert (entry.state, entry.proved_at) == ("idle", NOW + 1)
    assert [*known, entry.verdict] == ["read-only", None]


def test_one_that_is_reset_is_lent_until_that_begins() -> None:
    bench = Bench()
    entry, conn = bench.lent()
    assert bench.core.give_back(entry, NOW + 1, "open") == Reset()
    assert state_of(entry) == "lent"
    bench.core.reset(entry, NOW + 2)
    assert (state_of(entry), entry.kept) == ("resetting", conn)
    assert (bench.core.usage, bench.core.counts().lent) == (2.0, 1)
    waiter = bench.queued()
    assert bench.core.was_reset(entry, NOW + 3, is_fit=True) is waiter
    assert (waiter.conn, entry.kept) == (conn, None)


def test_one_whose_reset_fails_is_closed() -> None:
    bench = Bench()
    entry, _conn = bench.in_state("resetting")
    waiter = bench.queued()
    assert bench.core.was_reset(entry, NOW, is_fit=False) == Close("discarded")
    assert (entry.state, entry.kept, waiter.conn) == ("closing", None, None)


@pytest.mark.parametrize("how", ["ended", "severed"])
def test_one_that_has_ended_while_it_was_lent_is_not_lent_again(how: str) -> None:
    bench = Bench()
    entry, _ = bench.lent()
    waiter = bench.queued()
    if how == "ended":
        assert bench.core.end(entry) is None
    else:
        entry.cut()
    assert state_of(entry) == "lent"
    assert bench.core.give_back(entry, NOW) == Close(None)
    assert state_of(entry) == ("gone" if how == "ended" else "closing")
    assert waiter.conn is None


def test_while_it_is_plain_nothing_is_judged() -> None:
    asked: list[tuple[Entry, bool]] = []
    bench = Bench(judge=lambda entry, now, fresh: asked.append((entry, fresh)))
    entry, _conn = bench.lent(retire_at=NOW + 10)
    assert asked == [(entry, True)]
    bench.core.give_back(entry, NOW + 9)
    assert len(asked) == 1
    bench.core.take(NOW + 9)
    bench.core.give_back(entry, NOW + 10)
    assert asked[1:] == [(entry, False)]


def test_while_there_is_an_alert_all_is_judged() -> None:
    asked: list[Entry] = []
    bench = Bench(judge=lambda entry, *_: asked.append(entry))
    entry, _ = bench.lent()
    bench.core.alert = True
    bench.core.give_back(entry, NOW)
    assert asked == [entry, entry]


def test_a_judge_may_have_one_closed() -> None:
    bench = Bench(judge=lambda _, __, fresh: None if fresh else Close("lifetime"))
    entry, _ = bench.lent(retire_at=NOW)
    waiter = bench.queued()
    assert bench.core.give_back(entry, NOW) == Close("lifetime")
    assert (entry.state, entry.reason, waiter.conn) == ("closing", "lifetime", None)


def test_a_judge_may_have_the_server_asked_over_one() -> None:
    orphans = [Orphan(7, Backend(4711, 1.0))]
    bench = Bench(judge=lambda _, __, fresh: Ask(orphans) if fresh else None)
    entry, conn = bench.connected()
    assert bench.core.arrive(entry, NOW + 1) == Ask(orphans)
    assert (entry.state, entry.kept, entry.check) == ("checking", conn, Check(NOW + 1))
    assert bench.core.counts() == Counts(checking=1, max_size=9)
    assert bench.core.was_checked(entry, NOW + 2) is None
    assert (entry.state, entry.check, entry.proved_at) == ("idle", None, NOW + 2)


# -- checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("for_waiter", [False, True])
def test_a_check_that_ends_well_proves_it(for_waiter: bool) -> None:
    bench = Bench()
    entry = bench.idle(NOW - 40)
    waiter = bench.queued()
    conn = bench.core.check(entry, NOW, likely=False, for_waiter=for_waiter)
    assert conn is entry.kept is entry.conn
    checks = [entry.check]
    assert not bench.core.idle
    assert bench.core.was_checked(entry, NOW + 1) is waiter
    assert (waiter.conn, waiter.free) == (conn, for_waiter)
    assert [*checks, entry.check] == [Check(NOW, likely=False, for_waiter=for_waiter), None]
    assert (entry.state, entry.proved_at, entry.lent_at) == ("lent", NOW + 1, NOW + 1)


def test_what_a_check_vouches_for_is_said_once() -> None:
    bench = Bench()
    entry = bench.idle(NOW - 40)
    bench.core.check(entry, NOW, for_waiter=True)
    bench.core.was_checked(entry, NOW)
    conn = bench.core.take(NOW)
    waiter = bench.queued()
    assert bench.core.give_back(entry, NOW) is waiter
    assert (waiter.conn, waiter.free) == (conn, False)


def test_a_check_that_ends_badly_is_a_close() -> None:
    bench = Bench()
    entry = bench.idle()
    conn = bench.core.check(entry, NOW)
    assert bench.core.close(entry, None) is conn
    assert (entry.state, entry.kept, entry.check, entry.reason) == ("closing", None, None, None)


def test_one_that_was_cut_while_it_was_checked_is_closed_whatever_it_has_answered() -> None:
    bench = Bench()
    entry = bench.idle()
    bench.core.check(entry, NOW)
    entry.cut()
    assert bench.core.was_checked(entry, NOW) == Close(None)


# -- one that takes no writes ----------------------------------------------------------------------


def test_where_one_takes_no_writes_each_is_asked_once_before_it_is_lent() -> None:
    bench = Bench()
    idle = bench.idle()
    lent, _ = bench.lent()
    bench.core.doubt_writes(NOW + 1)
    assert bench.core.take(NOW + 1) is None

    bench.core.check(idle, NOW + 2)
    assert idle.check == Check(NOW + 2, writable=True)
    assert bench.core.was_checked(idle, NOW + 3) is None
    assert (idle.state, idle.writable_at) == ("idle", NOW + 2)

    assert bench.core.give_back(lent, NOW + 4) == Ask(())
    assert (lent.state, lent.check) == ("checking", Check(NOW + 4, writable=True))
    assert bench.core.was_checked(lent, NOW + 5) is None

    assert [bench.core.take(NOW + 6), bench.core.take(NOW + 6)] == [idle.conn, lent.conn]
    assert bench.core.give_back(lent, NOW + 7) is None


def test_an_answer_from_before_the_doubt_is_none() -> None:
    bench = Bench()
    entry = bench.idle()
    bench.core.check(entry, NOW)  # it is not asked whether it takes writes
    bench.core.doubt_writes(NOW + 1)
    assert bench.core.was_checked(entry, NOW + 2) == Ask(())
    bench.core.doubt_writes(NOW + 3)
    assert bench.core.was_checked(entry, NOW + 4) == Ask(())
    assert bench.core.was_checked(entry, NOW + 5) is None


def test_one_that_was_connected_since_is_not_asked() -> None:
    bench = Bench()
    bench.core.doubt_writes(NOW)
    assert bench.idle(NOW + 1).state == "idle"


# -- going -----------------------------------------------------------------------------------------


def test_one_that_is_closed_is_gone_when_the_server_has_ended_it() -> None:
    bench = Bench()
    entry = bench.idle()
    conn = bench.core.close(entry, "idle")
    assert conn is entry.conn
    assert (entry.state, entry.reason) == ("closing", "idle")
    assert bench.core.counts() == Counts(max_size=9)
    assert entry in bench.core.entries
    assert bench.core.end(entry) is None
    assert entry.state == "gone"
    assert entry not in bench.core.entries


def test_it_is_closed_once_and_for_the_first_reason() -> None:
    bench = Bench()
    entry = bench.idle()
    conn = bench.core.close(entry, "idle")
    assert bench.core.close(entry, "shutdown") is conn
    assert entry.reason == "idle"
    for _ in range(2):
        assert bench.core.end(entry) is None
        bench.core.close(entry, "shutdown")
        assert (entry.state, entry.reason) == ("gone", "idle")


def test_a_connect_that_has_failed_leaves_nothing() -> None:
    bench = Bench()
    entry = Entry(None, NOW)
    bench.core.begin(entry)
    assert bench.core.close(entry, None) is None
    assert entry.state == "gone"
    assert not bench.core.entries


def test_a_connect_that_has_failed_after_the_login_stays_until_the_server_has_ended_it() -> None:
    bench = Bench()
    entry, conn = bench.connected()
    assert bench.core.close(entry, None) is conn
    assert state_of(entry) == "closing"
    bench.core.end(entry)
    assert state_of(entry) == "gone"


def test_one_that_the_server_ends_leaves_the_idle_at_once() -> None:
    bench = Bench()
    entry, other = bench.idle(), bench.idle()
    conn = entry.conn
    assert bench.core.end(entry) is conn
    assert (entry.state, [*bench.core.idle], [*bench.core.entries]) == ("gone", [other], [other])


@pytest.mark.parametrize("state", ["connecting", "lent"])
def test_one_that_the_server_ends_in_use_is_gone_when_it_comes_in(state: State) -> None:
    bench = Bench()
    entry, _conn = bench.in_state(state)
    assert bench.core.end(entry) is None
    assert state_of(entry) == state
    come_in = bench.core.arrive if state == "connecting" else bench.core.give_back
    assert come_in(entry, NOW) == Close(None)
    assert state_of(entry) == "gone"
    assert not bench.core.entries


@pytest.mark.parametrize("state", ["checking", "resetting"])
def test_one_that_the_server_ends_meanwhile_is_gone_at_once(state: State) -> None:
    """Whoever checks or resets it closes it, if there is anybody."""
    bench = Bench()
    entry, _conn = bench.in_state(state)
    assert bench.core.end(entry) is None
    assert (entry.state, entry.kept) == ("gone", None)
    assert bench.core.doubted_at == (NOW if state == "checking" else 0.0)
    assert not bench.core.entries
    if state == "checking":
        assert bench.core.was_checked(entry, NOW) == Close(None)
    else:
        assert bench.core.was_reset(entry, NOW, is_fit=True) == Close(None)
    assert entry.state == "gone"


def test_a_drain_closes_the_idle_and_the_others_when_they_come_in() -> None:
    bench = Bench()
    idle = [bench.idle(), bench.idle()]
    coming: list[tuple[Callable[[Entry, float], Fate], Entry, Conn]] = [
        (bench.core.arrive, *bench.in_state("connecting")),
        (bench.core.give_back, *bench.in_state("lent")),
        (partial(bench.core.was_reset, is_fit=True), *bench.in_state("resetting")),
    ]
    checking = bench.idle()
    bench.core.check(checking, NOW)
    assert bench.core.drain(NOW) == [entry.conn for entry in idle]
    assert {(entry.state, entry.reason) for entry in idle} == {("closing", "discarded")}
    for come_in, entry, _ in coming:
        assert come_in(entry, NOW + 1) == Close("discarded", worn=True)
    assert bench.core.was_checked(checking, NOW + 1) == Close("discarded", worn=True)
    assert bench.idle(NOW + 1).state == "idle"


def test_shutting_closes_the_idle_and_the_others_when_they_come_in() -> None:
    bench = Bench()
    coming: list[tuple[Callable[[Entry, float], Fate], Entry, Conn]] = [
        (bench.core.arrive, *bench.in_state("connecting")),
        (bench.core.give_back, *bench.in_state("lent")),
        (partial(bench.core.was_reset, is_fit=True), *bench.in_state("resetting")),
    ]
    checking, idle = bench.idle(NOW - 40), bench.idle(NOW - 40)
    bench.core.check(checking, NOW)
    waiters = [bench.queued(), bench.queued()]
    assert bench.core.shut(NOW) == (waiters, [idle.conn])
    assert bench.core.closed
    assert (idle.state, idle.reason) == ("closing", "shutdown")
    assert not bench.core.waiting
    for come_in, entry, _ in coming:
        assert come_in(entry, NOW + 1) == Close("shutdown")
    assert bench.core.was_checked(checking, NOW + 1) == Close("shutdown")
    assert bench.core.counts().size == 0


def test_a_forked_child_has_none() -> None:
    bench = Bench()
    entry, _ = bench.lent()
    bench.idle(NOW - 40)
    bench.queued()
    bench.core.disown()
    assert bench.core.closed
    assert bench.core.counts() == Counts(max_size=9)
    assert not bench.core.idle
    assert bench.core.give_back(entry, NOW) == Close("shutdown")


# -- an exception in the midst of it ---------------------------------------------------------------


def test_one_that_was_on_its_way_out_of_the_idle_is_put_back() -> None:
    bench = Bench()
    first, second = bench.idle(), bench.idle()
    bench.core.idle.popleft()
    bench.core.mend()
    assert [*bench.core.idle] == [second, first]
    assert first.kept is first.conn is not None


def test_one_that_was_on_its_way_to_the_idle_is_put_there() -> None:
    bench = Bench()
    other = bench.idle()
    entry, conn = bench.lent()
    entry.state = "idle"
    bench.core.mend()
    assert [*bench.core.idle] == [other, entry]
    assert entry.kept is conn
    assert bench.core.take(NOW) is other.conn


def test_one_that_is_lent_is_not_among_the_idle() -> None:
    bench = Bench()
    other = bench.idle()
    entry, _conn = bench.lent()
    bench.core.idle.append(entry)
    bench.core.mend()
    assert [*bench.core.idle] == [other]


def test_where_nothing_is_amiss_nothing_is_mended() -> None:
    bench = Bench()
    idle = [bench.idle(), bench.idle()]
    bench.lent()
    bench.core.mend()
    assert [*bench.core.idle] == idle


# -- moves from where it is not --------------------------------------------------------------------

MOVES: dict[str, tuple[State, Callable[[Core, Entry], object]]] = {
    "arrive": ("connecting", lambda core, entry: core.arrive(entry, NOW)),
    "give_back": ("lent", lambda core, entry: core.give_back(entry, NOW)),
    "give_back, lost": ("lent", lambda core, entry: core.give_back(entry, NOW, "lost")),
    "reset": ("lent", lambda core, entry: core.reset(entry, NOW)),
    "check": ("idle", lambda core, entry: core.check(entry, NOW)),
}


def seen(entry: Entry) -> tuple[object, ...]:
    """All of an entry that a move could change."""
    return tuple(getattr(entry, name) for name in Entry.__slots__)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", STATES)
def test_a_move_begins_where_it_does_or_changes_nothing(move: str, state: State) -> None:
    bench = Bench()
    entry, _conn = bench.in_state(state)
    begins, make = MOVES[move]
    if state == begins:
        make(bench.core, entry)
        assert entry.state != state
        return
    before = seen(entry), [*bench.core.idle], bench.core.counts(), vars(bench.core).copy()
    with pytest.raises(Misplaced, match=f"^<Entry <Slot 0> {state}> is not {begins}$"):
        make(bench.core, entry)
    assert (seen(entry), [*bench.core.idle], bench.core.counts(), vars(bench.core)) == before


def test_one_that_is_returned_twice_is_refused_the_second_time() -> None:
    bench = Bench()
    entry, _ = bench.lent()
    bench.core.give_back(entry, NOW)
    with pytest.raises(Misplaced, match="is not lent"):
        bench.core.give_back(entry, NOW)
    assert [*bench.core.idle] == [entry]


# -- how it looks ----------------------------------------------------------------------------------


def test_the_states_are_counted() -> None:
    bench = Bench()
    kept = [bench.in_state(state) for state in STATES]
    bench.core.check(kept[1][0], NOW)
    waiters = [bench.queued(), bench.queued()]
    bench.core.min_size, bench.core.max_size = 3, 7
    counts = bench.core.counts()
    assert counts == Counts(0, 2, 2, 1, len(waiters), 3, 7)
    assert counts.size == 5
    assert [*bench.core.those("lent", "closing")] == [kept[3][0], kept[5][0]]


def test_reprs() -> None:
    bench = Bench()
    entry, _ = bench.lent()
    waiter, refused = bench.queued(), newcomer()
    refused.error = Exception()
    text = "0 idle, 1 lent, 0 checking, 0 opening; 1 waiting>"
    assert repr(bench.core) == f"<Core {text}"
    assert (repr(waiter), repr(refused)) == ("<Waiter waiting>", "<Waiter refused>")
    bench.core.give_back(entry, NOW)
    assert repr(waiter) == "<Waiter served>"
    assert repr(entry) == "<Entry <Slot 0> lent>"
    bench.core.end(entry)
    assert repr(entry) == "<Entry <Slot 0> lent ended>"
    bench.core.shut(NOW)
    assert repr(bench.core) == f"<Core closed {text.replace('1 waiting', '0 waiting')}"


# -- all of it, in any order -----------------------------------------------------------------------

PAUSES = (0.0, 0.0, 0.0, 0.125, 0.125, 1.0)
"""Seconds from step to step: such that sums of them are exact."""
LONG_PAUSE = STALE + 5.0
ORPHANS = (Orphan(1, Backend(7, 0.0)),)
RARE = 0.08
"""So much of all that happens is out of the ordinary."""
RULINGS: tuple[Close | Ask | None, ...] = (
    *[None] * 20,
    Close("lifetime"),
    Close("yielded"),
    Ask(ORPHANS),
    Ask(()),
)
SOUND: list[Condition] = ["clean"] * 12
CONDITIONS: list[Condition] = [*SOUND, "open", "open", "unfit", "closed", "lost"]
VERDICTS: list[Verdict | None] = [*[None] * 10, "ending", "read-only"]


class Known:
    """What an entry should be."""

    def __init__(self) -> None:
        self.state: State = "connecting"
        self.watched = False
        self.ended = False
        self.severed = False
        self.fresh = True
        self.plain = False
        """Nothing has happened since it last came in that would have to be looked at."""
        self.vouched = False
        self.connected_at = self.proved_at = self.writable_at = self.retire_at = 0.0
        self.lent_at = 0.0
        self.check: Check | None = None
        self.reason: CloseReason | None = None


class Idler(Exception):
    """There is nothing to do this with."""


class Story:
    """A core, what it should be, and what happens next."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = ManualClock(NOW)
        self.rush = False
        """Many want a connection, and go on wanting it."""
        self.core = Core(
            1,
            4,
            max_waiting=self.random.choice((0, 2)),
            check_after_idle=STALE,
            judge=self.judge,
        )
        self.known: dict[Entry, Known] = {}
        """All but those that are gone."""
        self.idle: list[Entry] = []
        self.waiting: list[Waiter] = []
        self.served: dict[Waiter, Entry] = {}
        """Those that were given a connection, and have not looked yet."""
        self.hands: dict[Entry, Conn] = {}
        """What is lent, or was just connected, in the hands of who has it."""
        self.dropped: set[Entry] = set()
        """What is lent, and was lost by who had it."""
        self.heard: list[Entry] = []
        """Those of whose ends the watch knows, and the core not yet."""
        self.late: list[Entry] = []
        """Those that have ended while they were checked, or reset."""
        self.buried: set[Entry] = set()
        self.ruling: Close | Ask | None = None
        self.judged: list[tuple[Entry, bool]] = []
        self.doubted_at = self.read_only_at = 0.0
        self.drained_at = -math.inf
        self.fewest = self.fewest_free = self.low_water = 0
        self.most_lent = self.most_waiting = 0
        """The fewest idle ones at all, and at takes and closes of idle ones alone."""
        self.look_due = False
        self.usage = 0.0
        self.taken = self.opened = 0
        self.joins = 0
        self.queued: dict[Waiter, tuple[float, int]] = {}
        self.queued_at: dict[Waiter, float] = {}
        """When those that wait began to, and how many connections had come in by then."""
        self.timed_out = False
        self.waits = 0
        self.waited = 0.0
        self.again: deque[Waiter] = deque(maxlen=4)
        """Those whose connection was refused by a check, and that ask for another."""
        self.taken_by: Counter[Waiter] = Counter()
        self.happened: Counter[str] = Counter()
        often = {
            self.begin: 6,
            self.dial: 6,
            self.arrive: 8,
            self.take: 8,
            self.acquire: 12,
            self.withdraw: 10,
            self.withdraw_and_give_back: 3,
            self.give_back: 20,
            self.check: 3,
            self.check_ends_well: 8,
            self.reset_ends_well: 5,
            self.closing_ends: 4,
            self.tell: 2,
            self.collect: 2,
            self.mend: 1,
        }
        self.often = [move for move, weight in often.items() for _ in range(weight)]
        self.rare: list[Callable[[], None]] = [
            self.fail,
            self.drop,
            self.take_away,
            self.check_ends_badly,
            self.cut,
            self.reset,
            self.reset_ends_badly,
            self.ends_too_late,
            *[self.end] * 4,
            *[self.hear] * 2,
            *[self.close_idle] * 3,
            self.at_once,
            *[self.doubt] * 2,
            self.turn,
            self.resize,
            self.raise_alert,
            self.watch_idle,
            self.misplace,
            self.misplace,
        ]

    # -- telling it

    @property
    def now(self) -> float:
        return self.clock()

    def tell_it(self, seed: int, steps: int) -> None:
        """Have so many steps happen; at last the pool is shut, and all comes to its end."""
        last: deque[str] = deque(maxlen=8)
        step = 0
        try:
            for step in range(steps):
                pause = self.random.random()
                seconds = LONG_PAUSE if pause < 0.005 else PAUSES[int(pause * len(PAUSES))]
                self.clock.advance(seconds)
                self.ruling = self.random.choice(RULINGS)
                self.judged.clear()
                last.append(self.make_a_move())
                self.look()
                if step >= steps - 2000 and len(self.hands) > 1 and not self.core.closed:
                    last.append("shut")
                    self.shut()
                    self.look()
            last.append("wind_up")
            self.wind_up()
        except Exception as error:
            raise AssertionError(
                f"seed {seed}, step {step}, {', '.join(last)}: {error!r}"
            ) from error

    def make_a_move(self) -> str:
        for _ in range(100):
            is_rare = self.random.random() < RARE
            move = self.random.choice(self.rare if is_rare else self.often)
            try:
                move()
            except Idler:
                continue
            return move.__name__
        return "nothing"

    def wind_up(self) -> None:
        for waiter in [*self.waiting, *self.served]:
            self.withdraw_one(waiter, timed_out=False)
        for entry in [*self.hands]:
            if self.known[entry].state == "lent":
                self.give_back_one(entry, "clean", None)
        for entry in [*self.known]:
            if self.known[entry].state not in ("closing", "gone"):
                self.core.close(entry, "shutdown")
                self.closes(entry, "shutdown")
        self.look()
        for entry in [*self.known]:
            self.end_one(entry)
        self.look()
        assert not self.known
        assert not self.core.entries
        assert len(self.buried) == self.opened
        assert self.core.counts().size == 0

    def one_of(self, *states: State) -> Entry:
        """Any entry that is in one of these states."""
        return self.any([e for e, known in self.known.items() if known.state in states])

    def in_hand(self, state: State) -> Entry:
        """Any that is in the hands of a borrower, or of what connects it."""
        return self.any([entry for entry in self.hands if self.known[entry].state == state])

    def any(self, those: list[T]) -> T:
        if not those:
            raise Idler
        return self.random.choice(those)

    def judge(self, entry: Entry, now: float, fresh: bool) -> Close | Ask | None:
        assert now == self.now
        self.judged.append((entry, fresh))
        return self.ruling

    # -- what should be

    def look(self) -> None:
        """Compare the core with what it should be."""
        core, now = self.core, self.now
        assert core.entries.keys() == self.known.keys(), "entries"
        assert [*core.idle] == self.idle, "idle"
        assert [*core.waiting] == self.waiting, "waiting"

        states: dict[str, int] = dict.fromkeys(STATES, 0)
        for entry, known in self.known.items():
            state = known.state
            states[state] += 1
            assert entry.state == state, f"{entry} is not {state}"
            is_kept = state in ("idle", "checking", "resetting")
            assert (entry.kept is not None) == is_kept, f"{entry} is kept"
            assert not is_kept or entry.kept is entry.conn, f"{entry} keeps another"
            assert entry.check == known.check, f"{entry}: check"
            assert (known.check is not None) == (state == "checking")
            assert entry.reason == known.reason, f"{entry}: reason"
            if state == "lent":
                assert entry.lent_at == known.lent_at, f"{entry}: lent_at"
            if state == "idle":
                assert entry.proved_at == known.proved_at, f"{entry}: proved_at"
                assert entry.writable_at >= self.read_only_at or (
                    entry.proved_at <= self.doubted_at
                ), f"{entry} may be read-only"
        assert states["idle"] == len(self.idle)

        held = [id(conn) for conn in self.hands.values()]
        for entry, conn in self.hands.items():
            assert entry.conn is conn, f"{entry} is held by another"
        for waiter, entry in self.served.items():
            assert waiter.conn is not None, f"what {waiter} was given is lost"
            assert waiter.conn is entry.conn, f"{waiter} was given another"
            held.append(id(waiter.conn))
        assert len(set(held)) == len(held), "two have the same connection"
        for waiter in self.waiting:
            assert waiter.conn is None, f"{waiter} waits on"
        for entry in self.dropped:
            assert entry.conn is None, f"{entry} was dropped"
        lent = [entry for entry in self.hands if self.known[entry].state == "lent"]
        assert len(lent) + len(self.served) + len(self.dropped) == states["lent"], "holders"

        assert not self.waiting or all(self.is_stale(entry) for entry in self.idle), "waits in vain"
        counts = core.counts()
        assert counts == Counts(
            states["idle"],
            states["lent"] + states["resetting"],
            states["checking"],
            states["connecting"],
            len(self.waiting),
            core.min_size,
            core.max_size,
        ), "counts"
        assert counts.size == len(self.known) - states["closing"] <= self.opened - len(self.buried)
        assert core.usage == self.usage, "usage"
        assert core.taken_free == self.taken, "taken_free"
        assert (core.queued, core.waited) == (self.waits, self.waited), "waits"
        assert (core.doubted_at, core.read_only_at) == (self.doubted_at, self.read_only_at)
        self.look_at_lows()
        self.look_at_the_stuck(core.stuck_since(), now)

    def look_at_lows(self) -> None:
        self.fewest = min(self.fewest, len(self.idle))
        assert self.fewest <= self.core.idle_low <= self.fewest_free, "idle_low"
        assert self.core.low_water == self.low_water, "low_water"
        self.most_lent = max(self.most_lent, self.core.counts().lent)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        most = self.core.most_lent, self.core.most_waiting
        assert most == (self.most_lent, self.most_waiting), "most"
        assert self.core.look_due == self.look_due, "look_due"

    def look_at_the_stuck(self, since: float | None, now: float) -> None:
        if not self.waiting and not self.timed_out:
            assert since is None, "stuck, though nobody waits"
        elif self.waiting:
            queued_at, joins = self.queued[self.waiting[-1]]
            if joins == self.joins:  # none has come in since
                assert since is not None, "not stuck"
                assert since <= queued_at, "stuck for longer"
        assert since is None or since <= now

    def is_stale(self, entry: Entry) -> bool:
        known = self.known[entry]
        return self.now - known.proved_at > STALE or known.proved_at < self.doubted_at

    def comes_in(self, entry: Entry, fate: Fate, *, plain: bool = False) -> None:
        """Note that it has come in, and compare what becomes of it."""
        known = self.known[entry]
        known.proved_at = self.now
        known.check = None
        judged: list[tuple[Entry, bool]] = []
        expected: Close | Ask | None = None
        if not plain:
            if self.core.closed:
                expected = Close("shutdown")
            elif known.ended or known.severed:
                expected = Close(None)
            elif known.connected_at <= self.drained_at:
                expected = Close("discarded", worn=True)
            else:
                judged.append((entry, known.fresh))
                expected = self.ruling
                if expected is None and known.writable_at < self.read_only_at:
                    expected = Ask(())
            assert entry.verdict is None
            known.fresh, known.plain = False, True
        assert self.judged == judged, "judged"
        if isinstance(expected, Close):
            assert fate == expected
            self.closes(entry, expected.reason)
        elif isinstance(expected, Ask):
            assert fate == expected
            self.happened["asked"] += 1
            known.state = "checking"
            known.check = Check(self.now, writable=known.writable_at < self.read_only_at)
        else:
            self.look_due |= not plain and known.retire_at <= self.now
            self.joins_in(entry, fate)

    def joins_in(self, entry: Entry, fate: Fate) -> None:
        known = self.known[entry]
        self.joins += 1
        self.timed_out = False
        vouched, known.vouched = known.vouched, False
        if self.waiting:
            waiter = self.waiting.pop(0)
            del self.queued[waiter]
            self.waited += self.now - self.queued_at.pop(waiter)
            assert fate is waiter, "another was served"
            assert waiter.free == (vouched and not self.taken_by[waiter]), "waiter.free"
            self.served[waiter] = entry
            known.state, known.lent_at = "lent", self.now
            self.happened["served, vouched" if vouched else "served"] += 1
        else:
            assert fate is None
            known.state = "idle"
            self.idle.append(entry)

    def closes(self, entry: Entry, reason: CloseReason | None) -> None:
        """Note that it is closed."""
        known = self.known[entry]
        if known.state == "idle":
            self.idle.remove(entry)
            self.fewest_free = min(self.fewest_free, len(self.idle))
        self.hands.pop(entry, None)
        self.dropped.discard(entry)
        known.state, known.check, known.plain = "closing", None, False
        known.reason = known.reason or reason
        self.happened[f"closed: {reason}"] += 1
        if known.ended or not known.watched:
            self.goes(entry)

    def goes(self, entry: Entry) -> None:
        assert entry.state == "gone"
        assert entry.kept is None
        assert entry not in self.buried, "it has gone before"
        self.buried.add(entry)
        del self.known[entry]

    # -- what happens: connects

    def begin(self) -> None:
        size = sum(known.state != "closing" for known in self.known.values())
        if self.core.closed or size >= self.core.max_size:
            raise Idler
        entry = Entry(Slot(self.opened), self.now)
        self.core.begin(entry)
        self.known[entry] = Known()
        self.opened += 1

    def dial(self) -> None:
        """The server is reached, but not all is done yet."""
        entry = self.one_of("connecting")
        if entry in self.hands:
            raise Idler
        conn = self.hands[entry] = Conn()
        entry.take(conn)
        entry.watched = self.known[entry].watched = self.random.random() < 0.97

    def arrive(self) -> None:
        entry = self.in_hand("connecting")
        known = self.known[entry]
        known.connected_at = known.writable_at = self.now
        entry.connected_at = entry.proved_at = entry.writable_at = self.now
        entry.retire_at = known.retire_at = self.now + self.random.choice((5.0, 200.0))
        fate = self.core.arrive(entry, self.now)
        self.hands.pop(entry)
        self.happened["arrived"] += 1
        self.comes_in(entry, fate)

    def fail(self) -> None:
        entry = self.one_of("connecting")
        assert self.core.close(entry, None) is self.hands.get(entry)
        self.closes(entry, None)
        self.happened["connect failed"] += 1

    # -- acquires

    def take(self) -> None:
        if self.core.closed:
            raise Idler
        entry = self.idle[0] if self.idle and not self.is_stale(self.idle[0]) else None
        conn = self.core.take(self.now)
        assert (conn is None) == (entry is None), "not the one to be taken"
        if entry is not None:
            self.has_taken(entry, conn)

    def has_taken(self, entry: Entry, conn: Any) -> None:
        assert conn is entry.conn, "another was taken"
        known = self.known[entry]
        known.state, known.lent_at = "lent", self.now
        self.idle.remove(entry)
        self.fewest_free = min(self.fewest_free, len(self.idle))
        if len(self.idle) < self.low_water:
            self.look_due, self.low_water = True, 0
        self.hands[entry] = conn
        self.taken += 1
        self.happened["taken"] += 1

    def acquire(self) -> None:
        if self.core.closed or len(self.waiting) >= (12 if self.rush else 1):
            raise Idler
        fresh = next((entry for entry in self.idle if not self.is_stale(entry)), None)
        waiter = newcomer(self.now)
        if self.again and self.random.random() < 0.3:
            waiter = self.again.pop()
        found = self.core.acquire(self.now, waiter)
        if fresh is not None:
            self.has_taken(fresh, found)
            self.taken_by[waiter] += 1
            assert waiter.taken == self.taken_by[waiter], "waiter.taken"
            assert waiter.free == (waiter.taken == 1), "waiter.free"
            self.again.append(waiter)
            return
        checking = sum(known.state == "checking" for known in self.known.values())
        most = self.core.max_waiting + len(self.idle) + checking
        if self.core.max_waiting and len(self.waiting) >= most:
            assert found == "refused"
        else:
            assert found == "queued"
            size = sum(not k.ended and k.state != "closing" for k in self.known.values())
            may_begin = len(self.known) < self.core.max_size
            is_first = not self.waiting  # others find what the first has found
            self.look_due |= bool(self.idle) or may_begin
            self.look_due |= is_first and size < self.core.max_size
            self.waiting.append(waiter)
            self.queued[waiter] = self.now, self.joins
            self.queued_at[waiter] = self.now
            self.waits += 1
        self.happened[found] += 1

    def withdraw(self) -> None:
        """One stops waiting: mostly one that was served, which so has its connection."""
        patient = self.rush and self.random.random() < 0.9
        waiter = self.any([*self.served] or ([] if patient else self.waiting))
        self.withdraw_one(waiter, timed_out=self.random.choice((False, True)))

    def withdraw_one(self, waiter: Waiter, *, timed_out: bool) -> Entry | None:
        conn = self.core.withdraw(waiter, self.now, timed_out=timed_out)
        assert waiter.conn is None
        entry = self.served.pop(waiter, None)
        if entry is not None:
            assert conn is entry.conn is not None, "it has lost what it was given"
            self.hands[entry] = conn
            self.again.append(waiter)
        else:
            assert conn is None
            self.waiting.remove(waiter)
            del self.queued[waiter]
            self.waited += self.now - self.queued_at.pop(waiter)
            self.timed_out |= timed_out
            self.happened["timed out" if timed_out else "withdrawn"] += 1
        return entry

    def withdraw_and_give_back(self) -> None:
        """One has stopped waiting in the moment in which it was served."""
        waiter = self.any([*self.served])
        entry = self.withdraw_one(waiter, timed_out=self.random.choice((False, True)))
        assert entry is not None
        self.give_back_one(entry, "clean", None)
        self.happened["withdrawn when served"] += 1

    # -- returns

    def give_back(self) -> None:
        entry = self.in_hand("lent")
        condition = self.random.choice(CONDITIONS)
        verdict = "lost" if condition == "lost" else self.random.choice(VERDICTS)
        self.give_back_one(entry, condition, verdict)

    def give_back_one(self, entry: Entry, condition: Condition, verdict: Verdict | None) -> None:
        known = self.known[entry]
        plain = (
            condition == "clean"
            and verdict is None
            and known.plain
            and self.now < known.retire_at
            and not self.core.alert
        )
        entry.verdict = verdict
        fate = self.core.give_back(entry, self.now, condition)
        self.happened[f"returned: {condition}, {verdict}"] += 1
        if not self.core.closed and (condition == "lost" or verdict == "ending"):
            self.doubted_at = self.now
        expected: CloseReason | None = None
        resets = condition in ("clean", "open") and verdict != "ending" and not self.core.closed
        if resets and (condition == "open" or verdict == "read-only"):
            assert fate == Reset()
            self.reset_one(entry)
            return
        del self.hands[entry]
        self.usage += self.now - known.lent_at
        if self.core.closed:
            expected = "shutdown"
        elif condition in ("unfit", "closed") or (verdict == "ending" and condition != "lost"):
            expected = None if (condition, verdict) == ("closed", "ending") else "discarded"
        elif condition == "clean" and verdict is None:
            self.comes_in(entry, fate, plain=plain)
            return
        assert fate == Close(expected)
        self.closes(entry, expected)

    def drop(self) -> None:
        """Somebody loses what it has; one that waited may end with it."""
        if self.random.random() < 0.3:
            waiter = self.any([*self.served])
            entry = self.served.pop(waiter)
            waiter.conn = None
        else:
            entry = self.in_hand("lent")
            del self.hands[entry]
        known = self.known[entry]
        known.reason = known.reason or "discarded"
        self.dropped.add(entry)
        self.happened["dropped"] += 1

    def collect(self) -> None:
        """It is seen that nobody refers to a connection any more."""
        entry = self.any([entry for entry in self.core.those("lent") if entry.conn is None])
        assert entry in self.dropped
        assert self.core.close(entry, "discarded") is None
        self.closes(entry, "discarded")

    def take_away(self) -> None:
        """The borrower is gone, or seemed so: what it has is closed, and taken back no more."""
        entry = self.in_hand("lent")
        assert self.core.close(entry, "discarded") is self.hands[entry]
        self.closes(entry, "discarded")
        with pytest.raises(Misplaced):
            self.core.give_back(entry, self.now)
        self.happened["taken away"] += 1

    # -- checks and resets

    def check(self) -> None:
        entry = self.one_of("idle")
        known = self.known[entry]
        likely, for_waiter = self.random.choice((False, True)), bool(self.waiting)
        conn = self.core.check(entry, self.now, likely=likely, for_waiter=for_waiter)
        assert conn is entry.conn is not None
        self.idle.remove(entry)
        writable = known.writable_at < self.read_only_at
        known.state, known.check = "checking", Check(self.now, likely, for_waiter, writable)

    def check_ends_well(self) -> None:
        entry = self.one_of("checking")
        known = self.known[entry]
        assert known.check is not None
        known.vouched = known.check.for_waiter
        if known.check.writable:
            known.writable_at = known.check.since
        self.comes_in(entry, self.core.was_checked(entry, self.now))
        self.happened["checked well"] += 1

    def check_ends_badly(self) -> None:
        entry = self.one_of("checking")
        known = self.known[entry]
        assert known.check is not None
        reason: CloseReason | None = self.random.choice((None, "discarded"))
        if reason is None:
            self.core.doubt(known.check.since)
            self.doubted_at = max(self.doubted_at, known.check.since)
        conn = entry.conn
        assert self.core.close(entry, reason) is conn is not None
        self.closes(entry, reason)
        self.happened["checked badly"] += 1

    def cut(self) -> None:
        """The answer is late."""
        entry = self.one_of("checking", "connecting")
        entry.cut()
        self.known[entry].severed = True
        self.known[entry].plain = False

    def reset(self) -> None:
        self.reset_one(self.in_hand("lent"))

    def reset_one(self, entry: Entry) -> None:
        self.core.reset(entry, self.now)
        self.usage += self.now - self.known[entry].lent_at
        assert entry.kept is self.hands.pop(entry)
        self.known[entry].state = "resetting"

    def reset_ends_well(self) -> None:
        entry = self.one_of("resetting")
        self.comes_in(entry, self.core.was_reset(entry, self.now, is_fit=True))
        self.happened["reset well"] += 1

    def reset_ends_badly(self) -> None:
        entry = self.one_of("resetting")
        assert self.core.was_reset(entry, self.now, is_fit=False) == Close("discarded")
        self.closes(entry, "discarded")
        self.happened["reset badly"] += 1

    def ends_too_late(self) -> None:
        """The check, or the reset, of one that the server has ended meanwhile."""
        entry = self.any(self.late)
        self.late.remove(entry)
        is_fit = self.random.choice((False, True))
        late = (
            self.core.was_checked(entry, self.now),
            self.core.was_reset(entry, self.now, is_fit=is_fit),
        )
        assert late == (Close(None), Close(None))
        assert entry.state == "gone"

    # -- ends

    def end(self) -> None:
        """The server ends its side of any."""
        self.end_one(self.any([e for e, known in self.known.items() if known.watched]))

    def closing_ends(self) -> None:
        self.end_one(self.one_of("closing"))

    def hear(self) -> None:
        """The watch knows of it first."""
        entry = self.any([e for e, known in self.known.items() if known.watched])
        entry.end()
        self.known[entry].ended = True
        self.known[entry].plain = False
        self.heard.append(entry)

    def tell(self) -> None:
        if not self.heard:
            raise Idler
        self.end_one(self.heard.pop())

    def end_one(self, entry: Entry) -> None:
        known = self.known.get(entry)
        if known is None:  # it has gone meanwhile
            assert self.core.end(entry) is None
            return
        self.happened[f"ended: {known.state}"] += 1
        was, conn = known.state, entry.conn
        known.ended, known.plain = True, False
        closed = self.core.end(entry)
        assert closed is (conn if was == "idle" else None)
        if known.check is not None:
            self.doubted_at = max(self.doubted_at, known.check.since)
        if was in ("idle", "checking", "resetting"):
            self.closes(entry, None)
            if was != "idle":
                self.late.append(entry)
        elif was == "closing":
            self.goes(entry)

    def close_idle(self) -> None:
        """There are too many, or it is old."""
        entry = self.one_of("idle")
        conn = entry.conn
        reason: CloseReason = self.random.choice(("idle", "lifetime", "yielded"))
        assert self.core.close(entry, reason) is conn is not None
        self.closes(entry, reason)

    def shut(self) -> None:
        waiting, conns = self.core.shut(self.now)
        assert waiting == self.waiting
        assert conns == self.close_all_idle("shutdown", conns)
        # Each of those that waited in vain sees so.
        for waiter in [*self.waiting]:
            self.withdraw_one(waiter, timed_out=False)

    def close_all_idle(self, reason: CloseReason, conns: list[Any]) -> list[Any]:
        idle = [*self.idle]
        for entry in idle:
            self.closes(entry, reason)
        return [entry.conn for entry in idle]

    # -- the rest

    def at_once(self) -> None:
        """What happens to all of them at once."""
        all_of_them = (self.drain, self.doubt, self.doubt, self.doubt_writes, self.pause)
        self.random.choice(all_of_them)()

    def drain(self) -> None:
        conns = self.core.drain(self.now)
        assert conns == self.close_all_idle("discarded", conns)
        self.drained_at = self.now
        self.nothing_is_plain()
        self.happened["drained"] += 1

    def doubt(self) -> None:
        since = self.now - self.random.choice((0.0, 0.5, 3.0))
        self.core.doubt(since)
        self.doubted_at = max(self.doubted_at, since)
        self.happened["doubted"] += 1

    def doubt_writes(self) -> None:
        self.core.doubt_writes(self.now)
        self.doubted_at = self.read_only_at = self.now
        self.nothing_is_plain()
        self.happened["doubted writes"] += 1

    def nothing_is_plain(self) -> None:
        for known in self.known.values():
            known.plain = False

    def turn(self) -> None:
        self.rush = self.random.random() < 0.5

    def pause(self) -> None:
        self.clock.advance(LONG_PAUSE)

    def resize(self) -> None:
        most = self.random.randint(1, 8)
        self.core.min_size, self.core.max_size = self.random.randint(0, most), most

    def raise_alert(self) -> None:
        self.core.alert = self.core.closed or self.random.random() < 0.2

    def watch_idle(self) -> None:
        self.core.look_due = self.look_due = False
        what = self.random.random()
        if what < 0.3:
            self.core.note_idle_low()
            self.fewest = self.fewest_free = len(self.idle)
        elif what < 0.6:
            assert self.core.count_anew() == (self.most_lent, self.most_waiting)
            self.most_lent, self.most_waiting = self.core.counts().lent, len(self.waiting)
        else:
            self.low_water = self.random.randint(0, 4)
            self.core.look_below(self.low_water)

    def mend(self) -> None:
        self.core.mend()

    def misplace(self) -> None:
        """A move from where it does not begin changes nothing, as the look afterwards sees."""
        entry = self.one_of(*STATES)
        begins, make = MOVES[self.random.choice([*MOVES])]
        if begins == entry.state:
            raise Idler
        with pytest.raises(Misplaced):
            make(self.core, entry)
        self.happened["misplaced"] += 1


NOTABLE = {
    "arrived",
    "asked",
    "checked badly",
    "checked well",
    "connect failed",
    "doubted",
    "doubted writes",
    "drained",
    "dropped",
    "misplaced",
    "queued",
    "reset badly",
    "reset well",
    "served",
    "served, vouched",
    "taken",
    "taken away",
    "timed out",
    "withdrawn",
    "withdrawn when served",
    *(f"ended: {state}" for state in STATES if state != "gone"),
    *(
        f"closed: {reason}"
        for reason in (None, "discarded", "idle", "lifetime", "shutdown", "yielded")
    ),
    *(f"returned: {condition}, {None}" for condition in ("clean", "open", "unfit", "closed")),
    *(f"returned: clean, {verdict}" for verdict in ("ending", "read-only")),
    "returned: lost, lost",
    "returned: closed, ending",
}
"""What each story is to have: it would be worth little without."""


@pytest.mark.parametrize("seed", range(max(2, STEPS // STORY)))
def test_whatever_happens_it_is_where_it_should_be(seed: int) -> None:
    gc.collect()  # connections are to be collected when the last reference goes, and not before
    story = Story(seed)
    story.tell_it(seed, STORY)
    missing = NOTABLE - story.happened.keys()
    assert not missing, f"seed {seed} has told nothing of {missing}"
