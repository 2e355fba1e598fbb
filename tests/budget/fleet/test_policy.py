"""What one host of a fleet does next. Pure: no server, and time as the test says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolguard.budget.fleet.arrivals import ARRIVING
from poolguard.budget.fleet.board import Board, Line
from poolguard.budget.fleet.debts import ASKED_FOR
from poolguard.budget.fleet.keys import DOOR
from poolguard.budget.fleet.policy import (
    CLAIMS,
    LOOK,
    LOST,
    MOST_NOTIFIED,
    QUIET,
    REST,
    SPARE,
    TRIM,
    Ask,
    Calm,
    Claim,
    Figures,
    Give,
    Look,
    Note,
    Peek,
    Policy,
    Prove,
    Step,
)
from poolguard.budget.fleet.room import room_for_pools
from poolguard.budget.sharing import Owed, Right
from poolguard.settings import MOST_SLOTS

ME, OTHER = 1, 2


def figures(granted: int = 8, used: int = 8, need: int = 0, **more: Any) -> Figures:
    """What a host of two workers has; the fleet's budget is 40."""
    free = granted - used
    return Figures(40, 2, 8, granted, used, free, need)._replace(**more)


def line(granted: int = 8, need: int = 0, **more: Any) -> Line:
    """Another host, as it is on the board."""
    return Line("web", 40, 2, 8, granted, granted, need)._replace(**more)


def policy(f: Figures, others: Mapping[int, Line], *, slot: int = 3, now: float = 0.0) -> Policy:
    """A host that has joined, and has read the board."""
    one = Policy("me")
    one.joined(now, ME, slot, lost=False, restarted=True)
    see(one, now, f, others)
    return one


def see(one: Policy, now: float, f: Figures, others: Mapping[int, Line]) -> None:
    one.saw(now, Board({one.me: one.line(now, f), **others}), f)
    if not one.notifies:
        one.peeked(now, f, 1 + len(others), urgent=False)


def in_vain(one: Policy, now: float, f: Figures) -> Claim:
    """Its claim is due, and brings nothing."""
    claim = one.next(now, f)
    assert isinstance(claim, Claim)
    one.claimed(now, claim, [])
    return claim


# -- claims ------------------------------------------------------------------------------------


def test_a_host_claims_what_it_needs_and_one_to_spare() -> None:
    f = figures(8, 8, need=3)
    assert policy(f, {OTHER: line()}).next(0.0, f) == Claim(3 + SPARE, 40, urgent=True)


def test_a_host_that_has_its_fair_share_leaves_slots_to_those_below_theirs() -> None:
    """40 less two control sessions and the door are 37, and 18 for each of two."""
    f = figures(18, 18, need=3)
    assert policy(f, {OTHER: line()}).next(0.0, f) == Claim(3 + SPARE, 40, urgent=False)


def test_a_host_that_needs_more_than_its_fair_share_first_claims_that() -> None:
    f = figures(16, 16, need=9)
    one = policy(f, {OTHER: line()})
    claim = one.next(0.0, f)
    assert claim == Claim(2, 40, urgent=True)
    assert isinstance(claim, Claim)
    one.claimed(0.0, claim, [7, 8])
    f = figures(18, 18, need=7)
    assert one.next(0.0, f) == Calm()
    one.calmed()
    assert one.next(0.0, f) == Claim(7 + SPARE, 40, urgent=False)


def test_what_vanished_hosts_still_occupy_is_no_part_of_what_the_others_share() -> None:
    """40 less three control sessions, the door and 8 lost slots are 28, and 9 for each of three."""
    f = figures(4, 4, need=4)
    one = policy(f, {OTHER: line(12), 3: line(12)})
    assert one.right(f).fair == 12
    claim = one.next(0.0, f)
    assert isinstance(claim, Claim)
    one.claimed(0.0, claim, [], lost=8)
    assert one.right(f).fair == 9
    ask = one.next(0.0, f)
    assert isinstance(ask, Ask)
    assert sum(order.returned for order in ask.orders.values()) == 4
    one.next(LOST - 0.1, f)
    assert one.right(f).fair == 9
    one.next(LOST, f)
    assert one.right(f).fair == 12


def test_lost_slots_are_counted_anew_once_a_host_comes() -> None:
    """It may be one that had lost its control session alone, and uses them."""
    f = figures(4, 4, need=4)
    one = policy(f, {OTHER: line(12)})
    claim = one.next(0.0, f)
    assert isinstance(claim, Claim)
    one.claimed(0.0, claim, [], lost=8)
    see(one, 0.1, f, {OTHER: line(12)})
    assert one.lost == 8
    see(one, 0.2, f, {OTHER: line(12), 3: line(8)})
    assert one.lost == 0


def test_a_budget_is_not_taken_to_have_shrunk_by_what_is_lost() -> None:
    f = figures(18, 18)
    one = policy(f, {OTHER: line(19)})
    one.lost = 8
    assert one.excess(f) == 0


def test_a_control_session_leaves_the_door_first_of_all() -> None:
    f = figures(0, 0, need=2)
    one = policy(f, {OTHER: line(29)}, slot=DOOR)
    assert one.next(0.0, f) == Claim(1 + 2 + SPARE, 40, urgent=True, moves=True)
    f = figures(0, 0)
    assert one.next(0.0, f) == Claim(1, 40, urgent=True, moves=True)


def test_while_hosts_come_slots_are_left_to_as_many_as_have_just_come() -> None:
    """One for its session, and one for each of its two workers. 3 has come long ago, 4 and 5 just
    now."""
    f = figures(8, 8, need=3)
    one = policy(f, {OTHER: line()})
    ages = {ME: 0.1, 3: ARRIVING + 1, 4: ARRIVING - 0.1}
    one.saw(0.0, Board({ME: one.line(0.0, f), **dict.fromkeys((3, 4, 5), line())}, ages=ages), f)
    assert one.next(0.0, f) == Claim(3 + SPARE, 40, urgent=False, left=3)
    one.heard(0.0, Note("hello", 5))
    assert one.next(0.0, f) == Claim(3 + SPARE, 40, urgent=False, left=6)
    assert one.next(0.2, f) == Claim(3 + SPARE, 40, urgent=False, left=3)
    assert one.next(ARRIVING, f) == Claim(3 + SPARE, 40, urgent=False)


def test_none_is_left_of_what_lets_a_process_have_its_first_connection() -> None:
    f = figures(1, 1, need=5)
    one = policy(f, {OTHER: line()}, slot=DOOR)
    one.heard(0.0, Note("hello", OTHER))
    claim = Claim(1 + 5 + SPARE, 40, urgent=True, moves=True, sure=1 + 1, left=3)
    assert one.next(0.0, f) == claim


def test_claims_in_vain_become_rarer_and_those_of_a_host_in_its_right_stay_frequent() -> None:
    def pauses(f: Figures) -> list[float]:
        one, now, found = policy(f, {OTHER: line()}), 0.0, list[float]()
        for _ in range(20):
            in_vain(one, now, f)
            at = now
            while not isinstance(one.next(now, f), Claim):
                step = one.next(now, f)
                if isinstance(step, Look):
                    see(one, now, f, {OTHER: line()})
                elif step is None:
                    now = one.wake(now, f)
            found.append(now - at)
        return found

    for below, pace in zip((figures(8, 8, need=3), figures(18, 18, need=3)), CLAIMS, strict=True):
        found = pauses(below)
        assert found[0] <= 1.2 * pace.first
        assert 0.8 * pace.last <= found[-1] <= 1.2 * pace.last


def test_freed_slots_are_claimed_at_once_by_a_host_below_its_fair_share() -> None:
    f = figures(8, 8, need=3)
    one = policy(f, {OTHER: line()})
    for _ in range(9):
        in_vain(one, one._claim_at if one._in_vain else 0.0, f)
    now = one._claimed_at
    one.heard(now + 0.03, Note("freed", OTHER))
    assert isinstance(one.next(now + 0.03, f), Claim)


def test_others_claim_freed_slots_a_moment_later_and_not_all_at_once() -> None:
    f, at = figures(18, 18, need=3), set[float]()
    for me in range(10, 20):
        one = Policy("me")
        one.joined(0.0, me, 3, lost=False, restarted=True)
        see(one, 0.0, f, {OTHER: line()})
        for _ in range(9):
            in_vain(one, one._claim_at if one._in_vain else 0.0, f)
        now = one._claimed_at + 1.0
        one.heard(now, Note("freed", OTHER))
        assert 0.0 < one._claim_at - now <= CLAIMS[0].first
        at.add(one._claim_at - now)
    assert len(at) == 10


def test_a_need_that_is_over_leaves_no_pause_to_the_next() -> None:
    f = figures(18, 18, need=3)
    one = policy(f, {OTHER: line()})
    for _ in range(9):
        in_vain(one, one._claim_at if one._in_vain else 0.0, f)
    now = one._claimed_at
    one.next(now, figures(18, 18))
    assert isinstance(one.next(now + CLAIMS[0].first, f), Claim)


def test_without_a_budget_there_is_one_connection_for_each_worker_to_learn_it() -> None:
    f = figures(0, 0, need=2, budget=0)
    one = policy(f, {OTHER: line(0, budget=0)})
    assert one.next(0.0, f) == Claim(2 + SPARE - 1, 4, urgent=False)


def test_until_a_budget_is_known_a_host_claims_ever_more_rarely() -> None:
    """It cannot know what is its by right."""
    f = figures(0, 0, need=2, budget=0)
    one, now = policy(f, {}), 0.0
    for _ in range(9):
        in_vain(one, now, f)
        assert not one.urgent
        assert one.next(now, f) is None
        now = one.wake(now, f)
    assert now > 9 * CLAIMS[0].last


def test_a_host_that_knows_no_budget_goes_by_that_of_the_others() -> None:
    f = figures(0, 0, need=2, budget=0)
    one = policy(f, {OTHER: line(8)})
    assert one.next(0.0, f) == Claim(2 + SPARE, 40, urgent=True)


@pytest.mark.parametrize(("others", "rules"), [(30, 30), (50, 40), (0, 40)])
def test_the_smallest_of_the_known_budgets_rules(others: int, rules: int) -> None:
    f = figures(8, 8, need=1)
    one = policy(f, {OTHER: line(budget=others)})
    assert one.budget(f) == rules
    claim = one.next(0.0, f)
    assert isinstance(claim, Claim)
    assert claim.end == rules


# -- rest --------------------------------------------------------------------------------------


def claim_one(one: Policy, now: float, f: Figures) -> list[int]:
    """Claim successfully; the slots that can be used at once."""
    claim = one.next(now, f)
    assert isinstance(claim, Claim)
    return one.claimed(now, claim, [7])


def test_slots_can_be_used_at_once_where_nobody_is_missing() -> None:
    f = figures(8, 8, need=1)
    assert claim_one(policy(f, {OTHER: line()}), 0.0, f) == [7]


def test_slots_rest_once_a_host_has_vanished_without_a_word() -> None:
    """A connect of its own may be under way for one of them."""
    f = figures(8, 8, need=1)
    one = policy(f, {OTHER: line()})
    see(one, 1.0, f, {})
    assert claim_one(one, 1.0, f) == []
    assert one.line(1.0, f).granted == 9
    assert not isinstance(one.next(1.0, f), (Claim, Prove))  # it has what it needs, for later
    assert one.wake(1.0, f) <= 1.0 + REST
    assert one.next(1.0 + REST, f) == Prove((7,))
    one.proved(Prove((7,)))
    assert one.resting == {}
    assert claim_one(one, 1.0 + REST, f) == [7]


def test_nothing_rests_where_a_host_has_said_bye() -> None:
    f = figures(8, 8, need=1)
    one = policy(f, {OTHER: line()})
    one.heard(1.0, Note("bye", OTHER))
    see(one, 1.0, f, {})
    assert claim_one(one, 1.0, f) == [7]


def test_what_rests_can_be_used_once_the_missing_host_has_said_bye() -> None:
    """A takeover says so of the session before."""
    f = figures(8, 8, need=1)
    one = policy(f, {OTHER: line()})
    see(one, 1.0, f, {})
    assert claim_one(one, 1.0, f) == []
    one.heard(1.1, Note("bye", OTHER))
    assert one.next(1.1, f) == Prove((7,))


def test_who_joins_waits_for_what_a_host_has_lost_that_it_has_never_seen() -> None:
    f = figures(8, 8, need=1)
    assert claim_one(policy(f, {OTHER: line(rejoined=True)}), 0.0, f) == []
    one = policy(f, {OTHER: line()})
    see(one, 1.0, f, {OTHER: line(rejoined=True)})  # it was there before: nobody is missing
    assert claim_one(one, 1.0, f) == [7]


def test_a_host_that_has_lost_its_session_says_so_for_a_while() -> None:
    f = figures()
    one = policy(f, {OTHER: line()})
    one.joined(5.0, 9, 4, lost=True, restarted=False)
    assert one.line(5.0, f).rejoined
    assert not one.line(5.0 + REST, f).rejoined
    see(one, 5.0, f, {OTHER: line()})  # its own session of before is no missing host
    assert claim_one(one, 5.0, figures(8, 8, need=1)) == [7]


# -- giving ------------------------------------------------------------------------------------


def test_what_is_not_needed_for_a_while_is_given_back_but_for_one_to_spare() -> None:
    f = figures(12, 8)
    one = policy(f, {OTHER: line()})
    assert one.next(0.0, f) is None
    assert one.wake(0.0, f) == TRIM
    assert one.next(0.9 * TRIM, f) is None
    assert one.next(TRIM, f) == Give(4 - SPARE)
    one.gave(4 - SPARE)
    assert one.next(TRIM, figures(9, 8)) is None


def test_what_is_needed_meanwhile_begins_the_while_anew() -> None:
    one = policy(figures(12, 8), {OTHER: line()})
    one.next(0.0, figures(12, 8))
    one.next(1.0, figures(12, 12))
    assert one.next(TRIM, figures(12, 8)) is None


def test_a_host_that_ends_and_one_with_slots_beyond_the_budget_give_at_once() -> None:
    f = figures(12, 8, draining=True)
    assert policy(f, {OTHER: line()}).next(0.0, f) == Give(4)
    f = figures(12, 10, beyond=2)
    assert policy(f, {OTHER: line()}).next(0.0, f) == Give(2)


def test_what_others_ask_for_is_given_as_it_becomes_free() -> None:
    one = policy(figures(20, 20), {OTHER: line(9, need=3)})
    one.heard(0.0, Note("ask", OTHER, {ME: Owed(3, 2)}))
    assert one.next(0.0, figures(20, 20)) is None
    assert one.ordered(0.0) == Owed(3, 2)
    assert one.next(0.1, figures(20, 19)) == Give(1)
    one.gave(1)
    assert one.ordered(0.1) == Owed(2, 1)
    assert one.next(0.2, figures(19, 17)) == Give(2)
    one.gave(2)
    assert one.ordered(0.2) == Owed(0, 0)


def test_a_host_in_need_gives_only_what_is_not_its_own_by_right() -> None:
    one = policy(figures(20, 20, need=5), {OTHER: line(9, need=3)})
    one.heard(0.0, Note("ask", OTHER, {ME: Owed(3, 2)}))
    assert one.next(0.0, figures(20, 17, need=5)) == Give(2)


def test_what_was_asked_for_is_not_owed_for_ever() -> None:
    one = policy(figures(20, 20), {OTHER: line(9, need=3)})
    one.heard(0.0, Note("ask", OTHER, {ME: Owed(3, 2)}))
    assert one.ordered(ASKED_FOR) == Owed(0, 0)
    assert one.next(ASKED_FOR, figures(20, 20 - SPARE)) is None


def test_two_askers_ask_for_the_same_since_each_counts_what_all_need() -> None:
    one = policy(figures(20, 20), {OTHER: line(9, need=3), 3: line(5, need=1)})
    one.heard(0.0, Note("ask", OTHER, {ME: Owed(3, 2)}))
    one.heard(0.5, Note("ask", 3, {ME: Owed(1, 3)}))
    assert one.ordered(0.6) == Owed(3, 3)
    assert one.ordered(1.2) == Owed(1, 3)


def test_who_has_just_given_does_not_take_it_again() -> None:
    f = figures(20, 20, need=5)
    one = policy(f, {OTHER: line(9, need=3)})
    one.heard(0.0, Note("ask", OTHER, {ME: Owed(0, 2)}))
    assert not isinstance(one.next(0.0, f), Claim)
    assert one.wake(0.0, f) > 0.0
    assert isinstance(one.next(ASKED_FOR, f), Claim)


def test_who_is_asked_by_a_host_that_it_does_not_know_yet_does_not_take_it_again() -> None:
    """Its fair share is smaller than the board says, from the moment at which it hears of it."""
    f = figures(18, 18, need=5)
    one = policy(f, {OTHER: line(18)})
    one.heard(0.0, Note("hello", 3))
    assert one.right(f) == Right(8, 12)
    one.heard(0.0, Note("ask", 3, {ME: Owed(0, 1)}))
    assert one.next(0.0, figures(18, 17, need=5)) == Give(1)
    one.gave(1)
    assert not isinstance(one.next(0.0, figures(17, 17, need=6)), Give)
    assert not one.lacks(figures(17, 17, need=6))


def test_more_than_the_budget_is_given_up_by_all_in_parts_that_add_up() -> None:
    """It was 40 and is 30 now, of which 27 are for pools: 32 are held."""
    boards = {1: (12, 12), 2: (10, 10), 3: (10, 10)}
    owed = []
    for me, (mine, _) in boards.items():
        one = Policy("me")
        one.joined(0.0, me, 3, lost=False, restarted=True)
        f = figures(mine, mine, budget=30)
        all_ = {pid: line(granted, budget=30) for pid, (granted, _) in boards.items()}
        one.saw(0.0, Board(all_), f)
        owed.append(one.ordered(0.0).returned)
        assert one.wake(0.0, f) <= ASKED_FOR
    assert sum(owed) == 32 - room_for_pools(30, 3)


# -- asking ------------------------------------------------------------------------------------


def steps_of_need(one: Policy, now: float, f: Figures, others: Mapping[int, Line]) -> list[Step]:
    """What is done by a host whose claims are in vain, until it has to wait."""
    steps: list[Step] = []
    while (step := one.next(now, f)) is not None:
        steps.append(step)
        assert len(steps) < 9
        if isinstance(step, Claim):
            one.claimed(now, step, [])
        elif isinstance(step, Look):
            see(one, now + 1e-6, f, others)
    return steps


def test_who_claims_in_vain_looks_and_then_asks_those_who_can_give() -> None:
    f, others = figures(2, 2, need=6), {OTHER: line(25), 3: line(8)}
    one = policy(f, others)
    claim, look, ask = steps_of_need(one, 1.0, f, others)
    assert isinstance(claim, Claim)
    assert look == Look()
    assert ask == Ask({OTHER: Owed(6, 6)})


def test_what_is_asked_for_is_what_is_needed_and_not_one_of_each() -> None:
    others = {pid: line(10) for pid in range(2, 12)}
    f = figures(8, 8, need=2, budget=130)
    one = policy(f, {pid: each._replace(budget=130) for pid, each in others.items()})
    ask = Ask({pid: it for pid, it in one.orders(f).items() if any(it)})
    assert sum(order.idle for order in ask.orders.values()) == 2


def test_of_equals_it_is_not_always_the_same_that_are_asked() -> None:
    """Those after the asker come first."""
    asked = list[int]()
    for me in (1, 3, 5):
        others = {pid: line(10, budget=73) for pid in range(1, 7) if pid != me}
        one = Policy("me")
        one.joined(0.0, me, 9, lost=False, restarted=True)
        f = figures(8, 8, need=1, budget=73)
        see(one, 0.0, f, others)
        *_, ask = steps_of_need(one, 1.0, f, others)
        assert isinstance(ask, Ask)
        asked += ask.orders
    assert len({*asked}) == 3


def test_nobody_is_asked_who_has_nothing_to_give() -> None:
    f, others = figures(18, 18, need=6), {OTHER: line(18, need=6)}
    steps = steps_of_need(policy(f, others), 1.0, f, others)
    assert [type(step) for step in steps] == [Claim, Look]


# -- the mark of a host in need ----------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 9), st.integers(0, 40), st.integers(0, 9), st.booleans())
def test_the_mark_does_not_stay_where_nothing_is_lacking(
    granted: int, need: int, others: int, others_need: int, draining: bool
) -> None:
    one = policy(figures(2, 2, need=5), {OTHER: line(30)})
    in_vain(one, 0.0, figures(2, 2, need=5))
    assert one.urgent
    f = figures(granted, granted, need, draining=draining)
    keeper = Keeper(one, f, {OTHER: line(others, others_need)}, 0)
    see(one, 1.0, f, keeper.others)
    while (step := one.next(keeper.now, keeper.f)) is not None:
        keeper.take(step)
    assert one.urgent == (need > 0 and granted < one.right(f).fair)


# -- any state ---------------------------------------------------------------------------------

small = st.integers(0, 30)
hosts = st.builds(
    lambda workers, floors, granted, need, budget, draining: Line(
        "h", budget, workers, floors, granted, granted, need, draining
    ),
    st.integers(0, 16),
    st.integers(0, 40),
    small,
    small,
    st.sampled_from([0, 3, 20, 60, 200]),
    st.booleans(),
)


class Keeper:
    """Takes steps as a keeper does, before a server that has so many slots free."""

    def __init__(self, one: Policy, f: Figures, others: dict[int, Line], free: int) -> None:
        self.one, self.f, self.others, self.free, self.now = one, f, others, free, 1.0

    def take(self, step: Step) -> None:
        """The step, and what comes of it."""
        if isinstance(step, Claim):
            self._claim(step)
        elif isinstance(step, Give):
            assert 0 < step.n <= self.f.free
            self.one.gave(step.n)
            self.f = self.f._replace(granted=self.f.granted - step.n, free=self.f.free - step.n)
        elif isinstance(step, Calm):
            self.one.calmed()
        elif isinstance(step, Prove):
            self.one.proved(step)
        elif isinstance(step, Peek):
            self.one.peeked(self.now, self.f, 1 + len(self.others), urgent=False)
        elif isinstance(step, Look):
            self.now += 1e-6
            see(self.one, self.now, self.f, self.others)

    def happens(self, event: str) -> None:
        """What comes from outside."""
        if event == "ask":
            self.one.heard(self.now, Note("ask", OTHER, {ME: Owed(3, 2)}))
        elif event == "urgent":
            self.one.peeked(self.now, self.f, 1 + len(self.others), urgent=True)
        elif event == "vanish":
            self.others = dict([*self.others.items()][1:])
            see(self.one, self.now, self.f, self.others)
        else:
            self.one.heard(self.now, Note(event, OTHER))

    def _claim(self, step: Claim) -> None:
        one, f = self.one, self.f
        budget, had = one.budget(f), f.granted + len(one.resting)
        assert step.n >= 1
        assert step.end == (budget or 2 + max(1, f.workers))
        if step.urgent:  # so what is taken while another is in need is no more than what is fair
            assert step.n - step.moves <= max(0, one.right(f).fair - had)
        elif budget:
            assert not any(one.ordered(self.now))
        got = [*range(100, 100 + min(step.n, self.free))]
        self.free -= len(got)
        usable = one.claimed(self.now, step, got)
        if step.moves and got:
            one.slot = got[0]
            one.resting.pop(got[0], None)
        n = len([slot for slot in usable if slot != one.slot])
        self.f = f._replace(granted=f.granted + n, used=f.used + n, need=max(0, f.need - n))


@given(
    st.tuples(hosts, st.dictionaries(st.integers(2, 99), hosts, max_size=8)),
    st.sampled_from([DOOR, 5]),
    small,
    st.lists(st.sampled_from(["freed", "hello", "bye", "ask", "urgent", "vanish"]), max_size=4),
    st.integers(0, 9),
)
def test_in_any_state_a_host_soon_waits_and_claims_no_more_than_it_may(
    fleet: tuple[Line, dict[int, Line]], slot: int, idle: int, events: list[str], free: int
) -> None:
    """Whatever the server answers: none spins, and none takes more than what is fair while it says
    that it is in need."""
    mine, others = fleet
    f = Figures(*mine[1:4], mine.granted + idle, mine.granted, idle, mine.need, mine.draining)
    keeper = Keeper(policy(f, others, slot=slot), f, others, free)
    for event in events:
        keeper.happens(event)
    steps = list[Step]()
    while (step := keeper.one.next(keeper.now, keeper.f)) is not None:
        steps.append(step)
        assert len(steps) < 40
        keeper.take(step)
    assert keeper.one.wake(keeper.now, keeper.f) > keeper.now


@given(st.integers(0, 400), st.lists(hosts, min_size=1, max_size=20))
def test_the_rights_of_all_hosts_never_add_up_to_more_than_there_is(
    budget: int, lines: list[Line]
) -> None:
    """And every worker of every host is sure of one while the budget has as many."""
    lines = [each._replace(budget=budget, draining=False) for each in lines]
    board = Board(dict(enumerate(lines, 1)))
    room = room_for_pools(budget, len(lines))
    rights = []
    for pid, each in board.lines.items():
        one = Policy("me")
        one.joined(0.0, pid, 3, lost=False, restarted=True)
        f = Figures(*each[1:6], 0, each.need)
        one.saw(0.0, board, f)
        rights.append(one.right(f))
    if not budget:
        return
    assert sum(each.guaranteed for each in rights) <= room
    assert sum(each.fair for each in rights) <= room
    weights = [max(1, each.workers) for each in lines]
    if sum(weights) <= room:
        assert all(right.guaranteed >= n for right, n in zip(rights, weights, strict=True))


def test_a_host_counts_as_much_as_it_has_workers() -> None:
    small, large = line(workers=1, floors=1), line(workers=16, floors=16)
    f = figures(0, 0, workers=1, floors=1)
    assert policy(f, {OTHER: large}).right(f) == Right(1, 2)
    f = figures(0, 0, workers=16, floors=16)
    assert policy(f, {OTHER: small}).right(f) == Right(16, 35)


def test_where_there_is_not_one_for_each_host_those_that_wait_longest_come_first() -> None:
    """As the board has told since when."""
    f, others = figures(0, 0, need=1, budget=7), {2: line(0, 1), 3: line(1, 3), 4: line(1, 3)}
    others = {pid: each._replace(budget=7) for pid, each in others.items()}
    one = Policy("me")
    one.joined(0.0, 9, 3, lost=False, restarted=True)
    see(one, 0.0, figures(1, 1, budget=7), others)
    see(one, 5.0, f, others)
    assert room_for_pools(7, 4) == 2
    assert one.right(f) == Right(0, 1)
    see(one, 6.0, f, {**others, 3: line(0, 1, budget=7)})
    assert one.right(f) == Right(0, 1)
    late = Policy("late")
    late.joined(0.0, 1, 3, lost=False, restarted=True)
    see(late, 0.0, figures(1, 1, budget=7), {**others, 9: line(0, 1, budget=7)})
    see(late, 5.0, f, {**others, 9: line(0, 1, budget=7)})
    assert late.right(f) == Right(0, 0)


# -- fleets too large for notifications --------------------------------------------------------

MANY = MOST_NOTIFIED + 49


def large(f: Figures, granted: int = 12, now: float = 0.0) -> Policy:
    """A host of a hundred, each of which has so many of 12 that are fair."""
    budget = 13 * (MANY + 1) + 1
    others = {pid: line(granted, budget=budget) for pid in range(2, MANY + 2)}
    return policy(f._replace(budget=budget), others, now=now)


def of_large(*how: int, **more: Any) -> Figures:
    return figures(*how, budget=13 * (MANY + 1) + 1, **more)


def test_a_host_that_has_something_to_give_sees_now_and_then_who_is_in_need() -> None:
    f = of_large(12, 12)
    one = large(f)
    one.next(0.0, f)
    at = one.wake(0.0, f)
    assert 0.5 < at < 2.0
    assert one.next(at, f) == Peek(2 * (MANY + 1) + 64)
    one.peeked(at, f, MANY + 1, urgent=False)
    assert one.ordered(at) == Owed(0, 0)


def test_a_host_that_has_only_what_it_is_guaranteed_need_not_know() -> None:
    f = of_large(9, 8)
    one = large(f)
    one.next(0.0, f)
    assert one.wake(0.0, f) > LOOK[0] / 2


def test_a_host_where_nothing_changes_looks_at_the_board_half_as_often() -> None:
    f, others = figures(8, 8), {OTHER: line()}
    one, at, looks = policy(f, others), 0.0, list[float]()
    for _ in range(6):
        assert one.next(at, f) is None
        at = one.wake(at, f)
        assert one.next(at, f) == Look()
        see(one, at, f, others)
        looks.append(at)
    pauses = [after - before for before, after in pairwise(looks)]
    assert LOOK[0] / 2 < looks[0] <= LOOK[0] < QUIET
    assert all(LOOK[0] < pause <= LOOK[1] for pause in pauses[2:])
    f = figures(9, 9)
    assert one.next(at, f) is None
    see(one, at, f, others)
    assert one.wake(at, f) - at <= LOOK[0]


def test_who_is_above_its_fair_share_gives_ever_more_while_another_is_in_need() -> None:
    f = of_large(40, 40)
    one, now, owed = large(f, 11), 0.0, list[int]()
    for _ in range(5):
        one.next(now, f)
        now = one.wake(now, f)
        assert isinstance(one.next(now, f), Peek)
        one.peeked(now, f, MANY + 1, urgent=True)
        owed.append(one.ordered(now).returned)
    assert owed == [4, 8, 16, 28, 28]  # and not below what is fair
    one.peeked(now, f, MANY + 1, urgent=False)
    one.peeked(now + 2 * ASKED_FOR, f, MANY + 1, urgent=True)
    assert one.ordered(now + 2 * ASKED_FOR).returned == 4


def test_its_fair_share_follows_the_number_of_hosts_without_a_look() -> None:
    f = of_large(12, 12)
    one = large(f)
    assert one.right(f) == Right(8, 12)
    one.peeked(1.0, f, MANY + 2, urgent=False)
    assert one.right(f) == Right(8, 11)
    one.peeked(2.0, f, 2 * (MANY + 1), urgent=False)
    assert one.right(f) == Right(5, 5)
    one.peeked(3.0, f, MANY + 1, urgent=False)
    assert one.right(f) == Right(8, 12)


@given(st.integers(60, 200), st.integers(60, 200), st.integers(1, 30), st.integers(1, 9))
def test_the_share_by_the_number_of_hosts_is_that_of_the_board_where_all_are_equal(
    before: int, after: int, share: int, floor: int
) -> None:
    budget = (share + 1) * before + 1
    equal = Line("h", budget, 1, floor, 1, 1, 0)
    f = Figures(budget, 1, floor, 1, 1, 0, 0)

    def of(hosts: int) -> Policy:
        one = Policy("me")
        one.joined(0.0, 1, 3, lost=False, restarted=True)
        one.saw(0.0, Board(dict.fromkeys(range(1, hosts + 1), equal)), f)
        one.peeked(0.0, f, hosts, urgent=False)
        return one

    estimated = of(before)
    estimated.peeked(1.0, f, after, urgent=False)
    assert estimated.hosts == after
    if room_for_pools(budget, after) >= after:
        assert estimated.right(f) == of(after).right(f)


@pytest.mark.parametrize("before", range(51, 200))
def test_no_slot_is_lost_to_rounding(before: int) -> None:
    """Else a host would be content with less, while others think that it has a right to more."""
    budget = 13 * 200 + 1
    equal = Line("h", budget, 8, 8, 8, 8, 0)
    f = Figures(budget, 8, 8, 8, 8, 0, 0)
    one = policy(f, dict.fromkeys(range(2, before + 1), equal))
    one.peeked(1.0, f, 200, urgent=False)
    assert one.right(f) == Right(8, 12)


def test_a_fleet_becomes_too_large_as_one_says_hello() -> None:
    """Those that were there must not wait for their next look to see who is in need."""
    f = figures(8, 8, budget=700)
    others = {pid: line(budget=700) for pid in range(2, MOST_NOTIFIED + 1)}
    one = policy(f, others)
    assert one.next(1.0, f) is None
    one.heard(1.0, Note("hello", 99))
    assert isinstance(one.next(1.0, f), Peek)


def messages_a_minute(one: Policy, f: Figures, others: Mapping[int, Line]) -> int:
    """At rest, once nothing has happened for a while."""
    now, n = 0.0, 0
    while now < 2 * QUIET + 60:
        step = one.next(now, f)
        n += step is not None and now >= 2 * QUIET
        if isinstance(step, Look):
            see(one, now, f, others)
        elif isinstance(step, Peek):
            one.peeked(now, f, 1 + len(others), urgent=False)
        else:
            assert step is None
            now = one.wake(now, f)
    return n


@pytest.mark.parametrize("hosts", [1, 10, 50, 51, 100, 200, 1000])
@pytest.mark.parametrize("granted", [9, 12, 20])
def test_at_rest_a_host_asks_its_server_little_in_a_fleet_of_any_size(
    hosts: int, granted: int
) -> None:
    """Whether it has what it is guaranteed, its fair share, or more."""
    budget = 13 * hosts + 100
    f = figures(granted, granted - SPARE, budget=budget)
    others = {pid: line(9, budget=budget) for pid in range(2, hosts + 1)}
    assert messages_a_minute(policy(f, others), f, others) <= 15


# -- notes -------------------------------------------------------------------------------------

orders = st.builds(Owed, st.integers(0, MOST_SLOTS), st.integers(0, MOST_SLOTS))
notes = st.builds(
    Note,
    st.sampled_from(["hello", "bye", "freed", "ask"]),
    st.integers(0, 1 << 31),
    st.dictionaries(st.integers(0, 1 << 31), orders, max_size=60),
)


@given(notes)
def test_a_note_is_heard_as_it_was_told(note: Note) -> None:
    assert Note.parsed(note.text) == note
    assert len(note.text) < 8000  # what a server takes


@pytest.mark.parametrize("text", ["", "ask", "ask x", "ask 1 2", "ask 1 2:3", "ask 1 2:x/1"])
def test_what_is_no_note_is_passed_over(text: str) -> None:
    assert Note.parsed(text) is None


def test_nobody_can_ask_for_more_than_there_can_be() -> None:
    """Anybody may notify."""
    note = Note.parsed("ask 1 2:99999999999999999999/-5")
    assert note is not None
    assert note.orders == {2: Owed(MOST_SLOTS, 0)}


def test_a_host_does_not_hear_itself() -> None:
    one = policy(figures(20, 20), {OTHER: line()})
    one.heard(0.0, Note("ask", ME, {ME: Owed(3, 2)}))
    assert one.ordered(0.0) == Owed(0, 0)


def test_it_looks_soon_after_another_has_come_or_gone() -> None:
    for word in ("hello", "bye"):
        f = figures()
        one = policy(f, {OTHER: line()})
        assert one.next(0.0, f) is None
        one.heard(0.0, Note(word, OTHER))
        assert 0.0 < one.wake(0.0, f) <= 1.0
        assert one.next(one.wake(0.0, f), f) == Look()
