"""One pool's dealings with its ledger: a ledger that records, times as arguments, no server."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import pytest

from poolguard.budget.ledger import TEND_EVERY
from poolguard.budget.sharing import Owed
from poolguard.budget.slots import Backend, Orphan, Slot
from poolguard.budget.static import NoOrphans, NoSiblings, StaticLedger
from poolguard.pool.entry import Entry
from poolguard.pool.events import Listener
from poolguard.pool.housekeeper import Housekeeper
from poolguard.pool.leases import ASK_CALMLY, ASK_EVERY, Leases
from poolguard.pool.upkeep import Pace
from poolguard.pool.waiter import Waiter

NOW = 1000.0
DEAD = [Orphan(7, Backend(4711, 1.0))]


def unsaid(level: int, text: str) -> None:
    raise AssertionError(text)


class Recording(StaticLedger, NoSiblings, NoOrphans):
    """One that shares its slots, and is told of by what was called."""

    def __init__(self, limit: int | None = None, recheck: float | None = 0.25) -> None:
        super().__init__(limit)
        self.siblings = self.orphans = self
        self.told: list[Any] = []
        self.asks = Owed(0, 0)
        self.took_over = False
        self.dead = False
        self._recheck = recheck

    @property
    def recheck(self) -> float | None:
        return self._recheck

    left_alone = 5.0

    @property
    def has_taken_over(self) -> bool:
        return self.took_over

    def owed(self) -> Owed:
        return self.asks

    def report_starving(self, n: int) -> None:
        self.told.append(n)

    def maintain(self, say: Callable[[int, str], None]) -> bool:
        self.told.append("maintain")
        return self.dead

    def release(self, slot: Slot) -> None:
        self.told.append("release")
        super().release(slot)

    def abandon(self, slot: Slot, *, overdue: bool = False) -> None:
        self.told.append("overdue" if overdue else "abandon")

    def claim(self) -> list[Orphan]:
        return DEAD

    def resolve(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        self.told.append((list(orphans), list(gone)))

    def drain(self) -> None:
        self.told.append("drain")


def hungry(ledger: Recording | None = None) -> Leases:
    """One whose lease has just fallen short."""
    leases = Leases(ledger or Recording(0))
    leases.lease(2, NOW)
    return leases


# -- needing


def test_a_need_is_told_only_after_a_lease_fell_short_and_taken_back_when_it_is_over() -> None:
    ledger = Recording(1)
    leases = Leases(ledger)
    starved: list[bool] = []
    assert len(leases.lease(1, NOW)) == 1
    for need in (3, 2, 0, 1, -2):  # the first is a queue that grows slowly
        leases.need(need)
        starved.append(leases.starved)
        if need == 3:
            assert leases.lease(1, NOW) == []
    assert ledger.told == [0, 2, 0, 0, 0]
    assert starved == [False, True, False, False, False]


def test_what_one_step_finds_does_not_end_the_need_for_the_next() -> None:
    """Or the others would take what is meant for it."""
    ledger = Recording(1)
    leases = hungry(ledger)  # of two
    leases.need(3)
    leases.vacate(Entry(Slot(9), NOW))
    assert len(leases.lease(1, NOW)) == 1
    leases.need(2)
    leases.need(0)
    assert ledger.told == [3, "release", 2, 0]


def test_while_starved_the_ledger_is_asked_again_after_a_while_only() -> None:
    leases = hungry()
    assert leases.starved_until(NOW) == NOW + 0.25
    assert leases.starved_until(NOW + 0.24) == NOW + 0.25
    assert leases.starved_until(NOW + 0.25) is None
    leases.lease(1, NOW + 0.3)
    assert leases.starved_until(NOW + 0.3) == NOW + 0.55


def test_a_ledger_that_tells_of_every_change_is_not_asked_before() -> None:
    assert hungry(Recording(0, recheck=None)).starved_until(NOW + 1e9) == math.inf


def test_a_ring_makes_it_worth_asking_at_once() -> None:
    ledger, rung = Recording(0), []
    leases = Leases(ledger)
    leases.opened(lambda: rung.append(leases.starved_until(NOW)))
    leases.lease(1, NOW)
    StaticLedger.release(ledger, Slot(1))
    assert rung == [None]  # it is known before the pool looks
    assert leases.starved
    leases.close()
    StaticLedger.release(ledger, Slot(1))
    assert rung == [None]


def test_a_ring_while_the_ledger_answers_is_not_forgotten() -> None:
    class Late(Recording):
        def lease(self, n: int) -> list[Slot]:
            self._callbacks.call()
            return []

    leases = Leases(Late())
    leases.opened(lambda: None)
    leases.lease(1, NOW)
    assert leases.starved
    assert leases.starved_until(NOW) is None


def test_nothing_lacks_once_enough_was_leased_or_nothing_is_wanted() -> None:
    leases = Leases(Recording(3))
    leases.lease(3, NOW)
    assert leases.starved_until(NOW) is None
    leases.lease(1, NOW)
    leases.need(0)
    assert leases.starved_until(NOW) is None


@pytest.mark.parametrize(("recheck", "wake"), [(0.25, NOW + 0.25), (None, None)])
def test_a_pool_that_starves_looks_again_when_it_may_ask_again(
    *, recheck: float | None, wake: float | None
) -> None:
    """Not before the ring where every change is told; a thread cannot wait for infinity."""
    keeper = Housekeeper(
        0,
        1,
        ledger=Recording(0, recheck=recheck),
        listener=Listener(),
        pace=Pace(25.0, 1.0, 600.0),
        max_connecting=32,
        max_lifetime=3600.0,
        reconnect_timeout=300.0,
    )
    keeper.opened("shop", NOW, lambda: None)
    assert keeper.core.acquire(NOW, Waiter(NOW, NOW + 1)) == "queued"
    for _ in range(2):
        todo = keeper.look(NOW)
        assert (todo.openings, todo.dead, todo.surplus, todo.checks) == ([], [], [], [])
    assert todo.wake == wake


# -- owing


def test_what_is_on_its_way_is_owed_no_more() -> None:
    """Of both kinds: a slot is a slot."""
    ledger = Recording()
    ledger.asks = Owed(3, 2)
    leases = Leases(ledger)
    assert leases.owed() == (3, 2)
    entries = [Entry(slot, NOW) for slot in leases.lease(4, NOW)]
    for entry in entries[:3]:
        entry.reason = "yielded"
        leases.yields()
    assert leases.owed() == (0, 0)
    leases.vacate(entries[0])
    leases.vacate(entries[3])  # ended by itself: it was not counted on
    assert leases.owed() == (1, 0)
    leases.vacate(entries[1], certainly=False)
    leases.vacate(entries[2])
    assert leases.owed() == (3, 2)


def test_it_leaves_once() -> None:
    ledger = Recording()
    leases = Leases(ledger)
    leases.leave()
    leases.leave()
    assert ledger.told == ["drain"]


# -- entries


@pytest.mark.parametrize(
    ("certainly", "broken", "told"),
    [
        (True, False, "release"),
        (False, False, "abandon"),
        (True, True, "overdue"),
        (False, True, "overdue"),
    ],
)
def test_a_slot_is_given_back_once(*, certainly: bool, broken: bool, told: str) -> None:
    """As free, or as one to be asked about."""
    ledger = Recording()
    leases = Leases(ledger)
    entry = Entry(leases.lease(1, NOW)[0], NOW)
    entry.broken = broken
    leases.record_backend(entry, Backend(1, 2.0))
    assert entry.slot is not None
    assert entry.slot.backend == Backend(1, 2.0)
    leases.vacate(entry, certainly=certainly)
    leases.vacate(entry)
    assert ledger.told == [told]
    leases.record_backend(entry, Backend(1, 2.0))  # its end was faster


# -- asking


def unsettled() -> Leases:
    ledger = Recording()
    ledger.took_over = True
    return Leases(ledger)


def test_who_needs_nothing_asks_nothing() -> None:
    assert Leases(Recording()).orphans(NOW) == []


@pytest.mark.parametrize("make", [hungry, unsettled])
def test_the_dead_are_asked_about_now_and_then(make: Callable[[], Leases]) -> None:
    """By who is hungry, or has taken a slot over."""
    leases = make()
    assert leases.orphans(NOW) == DEAD
    assert leases.orphans(NOW + ASK_EVERY * 0.9) == []
    assert leases.orphans(NOW + ASK_EVERY * 1.1) == DEAD


def test_a_shared_ledger_is_tended_now_and_then() -> None:
    ledger = Recording()
    leases = Leases(ledger)
    again = leases.tend(NOW, unsaid)
    assert again == NOW + TEND_EVERY
    assert leases.tend(again - 0.01, unsaid) == again
    assert ledger.told == ["maintain"]
    assert leases.tend(again, unsaid) == again + TEND_EVERY
    assert Leases(Recording(recheck=None)).tend(NOW, unsaid) is None


def test_at_rest_a_shared_ledger_is_tended_ever_more_rarely() -> None:
    """Until the pool is asked for something, or slots of the dead are found."""
    ledger = Recording()
    leases = Leases(ledger)
    now, pauses = NOW, []

    def tend(*, at_rest: bool = True) -> float:
        nonlocal now
        again = leases.tend(now, unsaid, at_rest=at_rest)
        assert again is not None
        pauses.append(again - now)
        now = again
        return pauses[-1]

    assert [tend() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert tend(at_rest=False) == TEND_EVERY
    assert [tend(), tend()] == [1, 2]
    ledger.dead = True
    assert tend() == TEND_EVERY
    ledger.dead = False
    assert tend() == 1


@pytest.mark.parametrize("at_rest", [True, False])
def test_a_ledger_is_tended_soon_that_is_not_left_alone_any_more(at_rest: bool) -> None:
    """But not at once: a request may be what has ended the rest."""
    ledger = Recording()
    leases = Leases(ledger)
    now = NOW
    for _ in range(5):
        now = leases.tend(now, unsaid, at_rest=True) or 0.0
    ledger.told.clear()
    now -= 3
    if at_rest:
        ledger.left_alone = TEND_EVERY
    assert leases.tend(now, unsaid, at_rest=at_rest) == now + TEND_EVERY
    assert ledger.told == []
    leases.tend(now + TEND_EVERY, unsaid, at_rest=at_rest)
    assert ledger.told == ["maintain"]


def test_who_needs_nothing_asks_calmly_about_the_dead_it_sees() -> None:
    ledger = Recording()
    ledger.dead = True
    leases = Leases(ledger)
    assert leases.orphans(NOW) == []
    leases.tend(NOW, unsaid)
    assert leases.orphans(NOW) == DEAD
    assert leases.orphans(NOW + ASK_CALMLY * 0.9) == []
    assert leases.orphans(NOW + ASK_CALMLY * 1.1) == DEAD
    ledger.dead = False
    leases.tend(NOW + TEND_EVERY, unsaid)
    assert leases.orphans(NOW + 9) == []


def test_a_fresh_connection_asks_out_of_turn() -> None:
    """A look without any connection has had the turn."""
    leases = unsettled()
    assert leases.orphans(NOW) == DEAD
    assert leases.orphans(NOW + 0.01, fresh=True) == DEAD
    assert Leases(Recording()).orphans(NOW, fresh=True) == []


def test_the_answer_is_passed_on() -> None:
    ledger = Recording()
    leases = Leases(ledger)
    leases.settle([], [])
    leases.settle(DEAD, ())
    leases.settle(DEAD, DEAD)
    assert ledger.told == [(DEAD, []), (DEAD, DEAD)]
