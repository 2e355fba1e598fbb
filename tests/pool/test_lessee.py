"""One pool's dealings with its ledger: a ledger that records, times as arguments, no server."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

import pytest

from poolguard.budget.ledger import Backend, Orphan, Slot, StaticLedger, Wanted
from poolguard.listener import Listener
from poolguard.pool._seams import Counts
from poolguard.pool.books import Books
from poolguard.pool.lessee import ASK_CALMLY, ASK_EVERY, TEND_EVERY, Lessee
from poolguard.pool.seat import Seat
from poolguard.pool.upkeep import Pace

NOW = 1000.0
DEAD = [Orphan(7, Backend(4711, 1.0))]


def unsaid(level: int, text: str) -> None:
    raise AssertionError(text)


class Recording(StaticLedger):
    """One that shares its slots, and is told of by what was called."""

    def __init__(self, limit: int | None = None, recheck: float | None = 0.25) -> None:
        super().__init__(limit)
        self.told: list[Any] = []
        self.asks = Wanted(0, 0)
        self.taken_over = False
        self.dead = False
        self._recheck = recheck

    @property
    def recheck(self) -> float | None:
        return self._recheck

    @property
    def unsettled(self) -> bool:
        return self.taken_over

    def wanted(self) -> Wanted:
        return self.asks

    def starving(self, n: int) -> None:
        self.told.append(n)

    def tend(self, say: Callable[[int, str], None]) -> bool:
        self.told.append("tend")
        return self.dead

    def release(self, slot: Slot) -> None:
        self.told.append("release")
        super().release(slot)

    def abandon(self, slot: Slot) -> None:
        self.told.append("abandon")

    def orphans(self) -> list[Orphan]:
        return DEAD

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        self.told.append((list(orphans), list(gone)))

    def drain(self) -> None:
        self.told.append("drain")


def hungry(ledger: Recording | None = None) -> Lessee:
    """One whose lease has just fallen short."""
    lessee = Lessee(ledger or Recording(0))
    lessee.lease(2, NOW)
    return lessee


# -- needing


def test_a_need_is_told_only_after_a_lease_fell_short_and_taken_back_when_it_is_over() -> None:
    ledger = Recording(1)
    lessee = Lessee(ledger)
    starved: list[bool] = []
    assert len(lessee.lease(1, NOW)) == 1
    for need in (3, 2, 0, 1, -2):  # the first is a queue that grows slowly
        lessee.need(need)
        starved.append(lessee.starved)
        if need == 3:
            assert lessee.lease(1, NOW) == []
    assert ledger.told == [0, 2, 0, 0, 0]
    assert starved == [False, True, False, False, False]


def test_what_one_step_finds_does_not_end_the_need_for_the_next() -> None:
    """Or the others would take what is meant for it."""
    ledger = Recording(1)
    lessee = hungry(ledger)  # of two
    lessee.need(3)
    lessee.vacate(Seat(Slot(9), NOW))
    assert len(lessee.lease(1, NOW)) == 1
    lessee.need(2)
    lessee.need(0)
    assert ledger.told == [3, "release", 2, 0]


def test_while_starved_the_ledger_is_asked_again_after_a_while_only() -> None:
    lessee = hungry()
    assert lessee.starved_until(NOW) == NOW + 0.25
    assert lessee.starved_until(NOW + 0.24) == NOW + 0.25
    assert lessee.starved_until(NOW + 0.25) is None
    lessee.lease(1, NOW + 0.3)
    assert lessee.starved_until(NOW + 0.3) == NOW + 0.55


def test_a_ledger_that_tells_of_every_change_is_not_asked_before() -> None:
    assert hungry(Recording(0, recheck=None)).starved_until(NOW + 1e9) == math.inf


def test_a_ring_makes_it_worth_asking_at_once() -> None:
    ledger, rung = Recording(0), []
    lessee = Lessee(ledger)
    lessee.opened(lambda: rung.append(lessee.starved_until(NOW)))
    lessee.lease(1, NOW)
    StaticLedger.release(ledger, Slot(1))
    assert rung == [None]  # it is known before the pool looks
    assert lessee.starved
    lessee.close()
    StaticLedger.release(ledger, Slot(1))
    assert rung == [None]


def test_a_ring_while_the_ledger_answers_is_not_forgotten() -> None:
    class Late(Recording):
        def lease(self, n: int) -> list[Slot]:
            self._callbacks.call()
            return []

    lessee = Lessee(Late())
    lessee.opened(lambda: None)
    lessee.lease(1, NOW)
    assert lessee.starved
    assert lessee.starved_until(NOW) is None


def test_nothing_lacks_once_enough_was_leased_or_nothing_is_wanted() -> None:
    lessee = Lessee(Recording(3))
    lessee.lease(3, NOW)
    assert lessee.starved_until(NOW) is None
    lessee.lease(1, NOW)
    lessee.need(0)
    assert lessee.starved_until(NOW) is None


@pytest.mark.parametrize(("recheck", "wake"), [(0.25, 0.25), (None, None)])
def test_a_pool_that_starves_looks_again_when_it_may_ask_again(
    *, recheck: float | None, wake: float | None
) -> None:
    """Not before the ring where every change is told; a thread cannot wait for infinity."""
    books = Books(
        ledger=Recording(0, recheck=recheck),
        listener=Listener(),
        pace=Pace(25.0, 1.0, 600.0),
        max_connecting=32,
        max_lifetime=3600.0,
        reconnect_timeout=300.0,
    )
    began = monotonic()
    books.opened("shop", began, lambda: None)
    counts = Counts(size=0, idle=0, waiting=1, idle_low=0, min_size=0, max_size=1, taken_free=0)
    for _ in range(2):
        openings, actions, at = books.look(began, counts, [])
        assert (openings, actions) == ([], [])
    assert at == (None if wake is None else pytest.approx(began + wake, abs=0.2))


# -- owing


def test_what_is_on_its_way_is_owed_no_more() -> None:
    """Of both kinds: a slot is a slot."""
    ledger = Recording()
    ledger.asks = Wanted(3, 2)
    lessee = Lessee(ledger)
    assert lessee.owed() == (3, 2)
    seats = [Seat(slot, NOW) for slot in lessee.lease(4, NOW)]
    for seat in seats[:3]:
        seat.reason = "yielded"
        lessee.yields()
    assert lessee.owed() == (0, 0)
    lessee.vacate(seats[0])
    lessee.vacate(seats[3])  # ended by itself: it was not counted on
    assert lessee.owed() == (1, 0)
    lessee.vacate(seats[1], certainly=False)
    lessee.vacate(seats[2])
    assert lessee.owed() == (3, 2)


def test_it_leaves_once() -> None:
    ledger = Recording()
    lessee = Lessee(ledger)
    lessee.leave()
    lessee.leave()
    assert ledger.told == ["drain"]


# -- seats


@pytest.mark.parametrize(("certainly", "told"), [(True, "release"), (False, "abandon")])
def test_a_slot_is_given_back_once(*, certainly: bool, told: str) -> None:
    """As free, or as one to be asked about."""
    ledger = Recording()
    lessee = Lessee(ledger)
    seat = Seat(lessee.lease(1, NOW)[0], NOW)
    lessee.seated(seat, Backend(1, 2.0))
    assert seat.slot is not None
    assert seat.slot.backend == Backend(1, 2.0)
    lessee.vacate(seat, certainly=certainly)
    lessee.vacate(seat)
    assert ledger.told == [told]
    lessee.seated(seat, Backend(1, 2.0))  # its end was faster


# -- asking


def unsettled() -> Lessee:
    ledger = Recording()
    ledger.taken_over = True
    return Lessee(ledger)


def test_who_needs_nothing_asks_nothing() -> None:
    assert Lessee(Recording()).orphans(NOW) == []


@pytest.mark.parametrize("make", [hungry, unsettled])
def test_the_dead_are_asked_about_now_and_then(make: Callable[[], Lessee]) -> None:
    """By who is hungry, or has taken a slot over."""
    lessee = make()
    assert lessee.orphans(NOW) == DEAD
    assert lessee.orphans(NOW + ASK_EVERY * 0.9) == []
    assert lessee.orphans(NOW + ASK_EVERY * 1.1) == DEAD


def test_a_shared_ledger_is_tended_now_and_then() -> None:
    ledger = Recording()
    lessee = Lessee(ledger)
    again = lessee.tend(NOW, unsaid)
    assert again == NOW + TEND_EVERY
    assert lessee.tend(again - 0.01, unsaid) == again
    assert ledger.told == ["tend"]
    assert lessee.tend(again, unsaid) == again + TEND_EVERY
    assert Lessee(Recording(recheck=None)).tend(NOW, unsaid) is None


def test_who_needs_nothing_asks_calmly_about_the_dead_it_sees() -> None:
    ledger = Recording()
    ledger.dead = True
    lessee = Lessee(ledger)
    assert lessee.orphans(NOW) == []
    lessee.tend(NOW, unsaid)
    assert lessee.orphans(NOW) == DEAD
    assert lessee.orphans(NOW + ASK_CALMLY * 0.9) == []
    assert lessee.orphans(NOW + ASK_CALMLY * 1.1) == DEAD
    ledger.dead = False
    lessee.tend(NOW + TEND_EVERY, unsaid)
    assert lessee.orphans(NOW + 9) == []


def test_a_fresh_connection_asks_out_of_turn() -> None:
    """A look without any connection has had the turn."""
    lessee = unsettled()
    assert lessee.orphans(NOW) == DEAD
    assert lessee.orphans(NOW + 0.01, fresh=True) == DEAD
    assert Lessee(Recording()).orphans(NOW, fresh=True) == []


def test_the_answer_is_passed_on() -> None:
    ledger = Recording()
    lessee = Lessee(ledger)
    lessee.settle([], [])
    lessee.settle(DEAD, ())
    lessee.settle(DEAD, DEAD)
    assert ledger.told == [(DEAD, []), (DEAD, DEAD)]
