"""The host's ledger: several owners in one process are as many processes, since every claim is a
lock of an open file; those that must die are processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from poolguard.budget.host import leasing, usage, view
from poolguard.budget.host.file import HostFile, SlotRecord
from poolguard.budget.host.leasing import PATIENCE
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.host.view import PAST
from poolguard.budget.slots import POOLED, Backend, Slot
from poolguard.budget.terms import ANYWHERE, Granted, Scope, Terms
from poolguard.errors import ForkError, RuntimeDirError
from poolguard.util.rundir import RuntimeDir
from tests.support import until

Join = Callable[..., HostLedger]


def unsaid(level: int, text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """One more process takes part: 3 workers, floors of 2, 12 slots, unless told otherwise."""
    ledgers: list[HostLedger] = []

    def another(
        instance: int | None = 12, workers: int = 3, floor: int = 2, scope: Scope = ANYWHERE
    ) -> HostLedger:
        folder = RuntimeDir(tmp_path / "run")
        ledger = HostLedger(folder, "shop", workers=workers, scope=scope)
        ledgers.append(ledger)
        if instance is not None:
            ledger.agree(Terms(None, instance, workers, floor))
        return ledger

    yield another
    for ledger in ledgers:
        ledger.close()


def rings(ledger: HostLedger) -> bool:
    """Whether siblings have news for it; they are taken note of."""
    try:
        heard = bool(os.read(ledger.siblings.fileno(), 4096))
    except BlockingIOError:
        return False
    ledger.siblings.catch_up()
    return heard


def leased_in_time(ledger: HostLedger, n: int) -> list[Slot]:
    """Lease until there are *n*: what the dead leave is not found at every moment."""
    leased: list[Slot] = []

    def enough() -> bool:
        leased.extend(ledger.lease(n - len(leased)))
        return len(leased) == n

    until(enough)
    return leased


# --- slots


def test_nobody_gets_more_than_there_is(join: Join) -> None:
    ledgers = [join() for _ in range(3)]
    leased = [ledger.lease(12) for ledger in ledgers]
    assert [len(slots) for slots in leased] == [8, 2, 2]
    assert ledgers[0].in_use == 12
    numbers = {slot.number for slots in leased for slot in slots}
    assert numbers == set(range(12))
    assert ledgers[1].lease(1) == []
    ledgers[0].release(leased[0][0])
    assert len(ledgers[1].lease(5)) == 1


def test_the_floor_of_a_living_worker_is_lent_to_nobody(join: Join) -> None:
    """Two workers hold nothing: their floors are still theirs."""
    greedy, idle, late = join(), join(), join()
    assert len(greedy.lease(99)) == 8
    assert len(idle.lease(99)) == 2
    assert len(late.lease(2)) == 2


def test_a_worker_beyond_the_plan_lives_on_what_is_left(join: Join) -> None:
    for _ in range(3):
        join().lease(2)
    beyond = join()
    assert len(beyond.lease(99)) == 6


def test_a_worker_beyond_the_plan_takes_the_place_of_one_that_ends(join: Join) -> None:
    """What it had borrowed goes back to be shared."""
    first, second, third = join(), join(), join()
    slots = first.lease(2)
    beyond = join()
    beyond.lease(2)
    for slot in slots:
        first.release(slot)
    first.close()
    assert len(beyond.lease(1)) == 1  # it takes the place now
    assert len(second.lease(99)) == 2 + 5
    assert len(third.lease(99)) == 2


def test_what_is_given_back_is_what_others_can_use(join: Join) -> None:
    """A connection in a slot of the floor is closed: a borrowed one moves there."""
    one, other = join(), join()
    join()
    leased = one.lease(8)
    assert other.lease(3)[2:] == []
    own = leased[0]
    one.record_backend(leased[7], Backend(4711, 1.0))
    one.release(own)
    assert len(other.lease(9)) == 1
    assert len({slot.number for slot in leased[1:]}) == 7
    assert other.in_use == 10


def test_a_draining_worker_gives_up_its_floor(join: Join) -> None:
    old = [join() for _ in range(3)]
    for ledger in old:
        ledger.lease(2)
    new = join()
    held = new.lease(6)
    assert len(held) == 6
    assert new.lease(1) == []
    old[0].siblings.drain()
    assert rings(new)
    assert old[1].in_use == 12  # what it holds it holds until the server has ended it
    assert len(old[0].lease(1)) == 0


def test_what_siblings_hold_another_worker_will_use(join: Join) -> None:
    first = join(instance=24)
    assert first.usage.expected() == 0
    first.lease(5)
    assert join(instance=None).usage.expected() == 5, (
        "also where it knows the terms by its sibling only"
    )
    first.siblings.drain()
    first.lease(9)
    assert join(instance=24).usage.expected() == 12, "two that stay have a share of 12 each"


def test_what_one_held_that_has_ended_matters_for_a_while(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = join(instance=24)
    for slot in ended.lease(7)[1:]:
        ended.release(slot)
    ended.lease(3)
    ended.siblings.drain()
    ended.close()
    idler = join(instance=24)
    idler.lease(1)
    idler.siblings.drain()
    idler.close()
    began = monotonic()
    assert join(instance=24).usage.expected() == 4
    for later, expected in ((PAST - 1, 4), (PAST + 1, 0), (1 - began, 0)):  # rebooted
        monkeypatch.setattr(view, "monotonic", partial(float.__add__, began, later))
        assert join(instance=24).usage.expected() == expected


def test_slots_of_a_floor_that_an_elder_still_holds_are_waited_for(join: Join) -> None:
    old = join(instance=4, workers=2, floor=1)
    slot = old.lease(1)[0]
    join(instance=4, workers=2, floor=1)
    old.siblings.drain()
    new = join(instance=4, workers=2, floor=1)
    assert len(new.lease(1)) == 1
    old.release(slot)
    new.siblings.catch_up()
    assert new.in_use == 1
    old.close()


def test_who_joins_gets_one_whatever_the_others_floors_hold(join: Join) -> None:
    """Two hold all as their floors. What the third is sure of is theirs no more."""
    elders = [join(instance=12, workers=1, floor=6) for _ in range(2)]
    held = [elder.lease(6) for elder in elders]
    late = join(instance=12, workers=1, floor=6)
    assert late.lease(6) == []
    late.siblings.report_starving(late.siblings.guaranteed(6))
    for elder, slots in zip(elders, held, strict=True):
        assert rings(elder)
        assert elder.siblings.guaranteed(6) == 4
        assert elder.siblings.owed().idle == 2
        for slot in slots[:2]:
            elder.release(slot)
    assert len(late.lease(99)) == 4
    late.siblings.report_starving(0)
    assert [elder.siblings.owed().idle for elder in elders] == [0, 0]
    late.close()
    assert rings(elders[0])
    assert elders[0].siblings.guaranteed(6) == 6


def test_what_a_worker_that_ends_may_still_need_is_not_lent(join: Join) -> None:
    old, new = join(instance=4, workers=1, floor=4), join(instance=4, workers=1, floor=4)
    last = old.lease(1)[0]
    old.siblings.drain()
    assert len(new.lease(99)) == 3
    new.siblings.report_starving(1)
    assert rings(old)
    assert old.siblings.owed() == (0, 0)
    assert old.siblings.could_help, "though whoever it accepts keeps the other waiting"
    old.release(last)
    assert len(new.lease(99)) == 1


def test_who_cannot_connect_has_no_floor_kept(join: Join) -> None:
    healthy, ill = join(), join()
    ill.siblings.report_failing(True)
    assert ill.siblings.guaranteed(2) == 1
    assert len(healthy.lease(99)) == 11
    ill.siblings.report_failing(False)
    assert ill.siblings.guaranteed(2) == 2


def test_the_share_is_told_without_a_look_unless_somebody_comes_or_may_have_been_killed(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status tells it again and again, and a look costs a lock for each process."""
    looks: list[int] = []
    terms = Terms(Granted(15, database=14), 12, 1, 2, server=12)
    one = join(None, scope=Scope.of("shop", "app"))
    one.agree(terms)
    assert one.usage.database_share == 12
    remove_dead = one._access.members._remove_dead

    def looked() -> None:
        looks.append(1)
        remove_dead()

    monkeypatch.setattr(one._access.members, "_remove_dead", looked)
    assert (one.usage.database_share, looks) == (12, [])
    other = join(None, scope=Scope.of("stock", "app"))
    other.agree(terms)
    assert (one.usage.database_share, looks != []) == (6, True)
    looks.clear()
    assert (one.usage.database_share, looks) == (6, [])
    monkeypatch.setattr(usage, "NOTICED", 0.0)
    assert (one.usage.database_share, looks != []) == (6, True)


def test_two_databases_share_what_the_server_grants(join: Join) -> None:
    terms = Terms(Granted(15, database=14), 12, 1, 2, server=12)
    one = join(None, scope=Scope.of("shop", "app"))
    one.agree(terms)
    assert one.usage.database_share == 12
    other = join(None, scope=Scope.of("stock", "app"))
    assert other.published == Granted(15), "the other database may have another limit"
    other.agree(terms)
    assert (one.usage.database_share, other.usage.database_share) == (6, 6)
    assert len(one.lease(99)) == 10
    assert len(other.lease(99)) == 2
    assert (one.in_use, other.in_use) == (10, 2)


def test_a_budget_that_is_a_number_is_its_databases_own(join: Join) -> None:
    one = join(4, scope=Scope.of("shop", "app"))
    other, second = (join(3, workers=2, floor=1, scope=Scope.of("stock", "app")) for _ in range(2))
    assert len(one.lease(99)) == 4
    assert len(other.lease(99)) == 2
    assert len(second.lease(99)) == 1
    assert (one.limit, other.limit) == (4, 3)
    assert second.lease(1) == []
    second.siblings.report_starving(1)
    assert one.siblings.owed() == (0, 0), "what it holds would not help"
    assert other.siblings.owed() == (1, 0)


def test_a_roles_limit_binds_its_own_alone(join: Join) -> None:
    small = Terms(Granted(15, role=5), 2, 1, 1, server=12, role=2)
    poor = [join(None, scope=Scope.of("shop", "poor")) for _ in range(2)]
    rich = join(None, scope=Scope.of("shop", "rich"))
    rich.agree(Terms(Granted(15), 12, 1, 2, server=12))
    assert (poor[0].published, rich.published) == (Granted(15), None)
    for ledger in poor:
        assert ledger.agree(small).instance == 2
    assert poor[1].published == Granted(15, role=5)
    assert rich.limit == 12
    assert len(poor[0].lease(99)) == 1
    assert len(poor[1].lease(99)) == 1
    assert poor[1].lease(1) == []
    assert len(rich.lease(99)) == 10
    poor[1].siblings.report_starving(1)
    assert rich.siblings.owed() == (0, 0)
    assert "of the 2 connections that this role may have" in poor[1].explain()


def test_what_stands_is_counted_where_the_least_limit_binds(join: Join) -> None:
    rich, poor = (join(None, scope=Scope.of("shop", role)) for role in ("rich", "poor"))
    rich.agree(Terms(Granted(15), 12, 1, 2, server=12))
    poor.agree(Terms(Granted(15, role=6), 3, 1, 1, server=12, role=3))
    for slot in rich.lease(4):
        rich.record_backend(slot, Backend(slot.number + 1, 1.0))
    [slot] = poor.lease(1)
    assert (rich.usage.established, poor.usage.established) == (4, 0), (
        "one that is being opened does not stand yet"
    )
    poor.record_backend(slot, Backend(99, 1.0))
    assert (rich.usage.established, poor.usage.established) == (5, 1)


def test_where_there_is_not_one_for_each_who_has_one_lends_it_to_who_waits_longest(
    join: Join,
) -> None:
    """All of them want one all the time, and each has its turn."""
    ledgers = [join(2, workers=4, floor=1) for _ in range(5)]
    assert all(rings(ledger) for ledger in ledgers[:-1])
    assert [ledger.siblings.guaranteed(1) for ledger in ledgers] == [0] * 5
    held = {n: ledger.lease(1) for n, ledger in enumerate(ledgers)}
    for n, ledger in enumerate(ledgers):
        ledger.siblings.report_starving(not held[n])
    turns = [n for n in held if held[n]]
    assert len(turns) == 2
    for _ in range(8):
        giver = next(n for n in turns[-2:] if held[n])
        assert ledgers[giver].siblings.owed() == (1, 1)
        ledgers[giver].release(held[giver].pop())
        ledgers[giver].siblings.report_starving(1)
        for n in (giver, *range(5)):  # whoever gives one is the first to ask
            if not held[n]:
                held[n] += ledgers[n].lease(1)
                ledgers[n].siblings.report_starving(not held[n])
                turns += [n] * len(held[n])
    assert turns == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_one_that_hangs_lets_its_turn_pass(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, hanging, other = ledgers = [join(1, workers=3, floor=1) for _ in range(3)]
    for ledger in ledgers:
        ledger.siblings.catch_up()
    [slot] = holder.lease(1)
    for ledger in (hanging, other):
        assert ledger.lease(1) == []
        ledger.siblings.report_starving(1)
    holder.release(slot)
    assert other.lease(1) == []
    monkeypatch.setattr(leasing, "monotonic", partial(float.__add__, monotonic(), PATIENCE + 0.1))
    assert len(other.lease(1)) == 1


def test_two_that_lease_for_one_role_at_the_same_moment_have_not_both_the_last(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has taken a slot before the other has written whose it is; the second writes last."""
    join(None, scope=Scope.of("shop", "rich")).agree(Terms(Granted(15), 12, 1, 2, server=12))
    poor = [join(None, scope=Scope.of("shop", "poor")) for _ in range(2)]
    for ledger in poor:
        ledger.agree(Terms(Granted(15, role=6), 3, 1, 1, server=12, role=3))
    for ledger in poor:
        assert len(ledger.lease(1)) == 1
    taken = {name: threading.Event() for name in ("first", "second")}
    first_is_done = threading.Event()
    write = HostFile.write_slot

    def write_late(file: HostFile, number: int, record: SlotRecord) -> None:
        name = threading.current_thread().name
        taken[name].set()
        (taken["second"] if name == "first" else first_is_done).wait(10)
        write(file, number, record)

    monkeypatch.setattr(HostFile, "write_slot", write_late)
    leased: list[Slot] = []

    def lease(ledger: HostLedger) -> None:
        leased.extend(ledger.lease(1))

    first, second = (
        threading.Thread(target=lease, args=[ledger], name=name)
        for ledger, name in zip(poor, taken, strict=True)
    )
    first.start()
    assert taken["first"].wait(10)
    second.start()
    first.join()
    first_is_done.set()
    second.join()
    assert len(leased) == 1


def test_the_error_names_who_holds_what(join: Join) -> None:
    one, other = join(), join()
    one.lease(99)
    assert f"this pool holds 0, another pool of this process {one.in_use}" in other.explain()


def test_random_leases_never_exceed_the_limit(join: Join) -> None:
    """Every number has one holder, whatever is exchanged, and nothing gets lost."""
    rng = random.Random(7)
    ledgers = [join() for _ in range(4)]
    held: list[tuple[HostLedger, Slot]] = []
    for _ in range(4000):
        if held and rng.random() < 0.5:
            ledger, slot = held.pop(rng.randrange(len(held)))
            ledger.release(slot)
        else:
            ledger = rng.choice(ledgers)
            held += [(ledger, slot) for slot in ledger.lease(rng.randrange(1, 4))]
        if rng.random() < 0.1:
            rng.choice(ledgers).siblings.catch_up()
        numbers = [slot.number for _, slot in held]
        assert len(set(numbers)) == len(numbers) <= 12
        assert ledgers[0].in_use == len(held)
    for ledger, slot in held:
        ledger.release(slot)
    assert ledgers[0].in_use == 0


# --- terms


def test_before_the_terms_are_known_each_worker_may_hold_one(join: Join) -> None:
    first, second, third, beyond = (join(None) for _ in range(4))
    assert [len(ledger.lease(3)) for ledger in (first, second, third, beyond)] == [1, 1, 1, 0]
    assert first.lease(1) == []
    assert (first.published, second.published) == (None, None)
    first.agree(Terms(Granted(97), 12, 3, 2))
    assert second.published == Granted(97)
    second.agree(Terms(Granted(97), 12, 3, 2))
    assert len(second.lease(99)) == 1 + 6


def test_who_cannot_tell_the_terms_keeps_nobody_from_asking(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot log in, and gives its slot back each time; or it hangs, and keeps it."""
    ill, healthy = join(None, workers=1), join(None, workers=1)
    slot = ill.lease(1)[0]
    assert healthy.lease(1) == []
    healthy.siblings.report_starving(1)
    ill.release(slot)
    assert rings(healthy)
    slot = healthy.lease(1)[0]
    healthy.release(slot)
    ill.lease(1)
    assert healthy.lease(1) == []
    assert "nobody has learned yet what the server grants" in healthy.explain()
    monkeypatch.setattr(leasing, "PATIENCE", 0.0)
    assert len(healthy.lease(1)) == 1


def test_who_does_not_know_the_terms_goes_by_its_siblings(join: Join) -> None:
    """Workers whose budget is a number hold all places: it may borrow the one it asks with."""
    siblings = [join() for _ in range(3)]
    for sibling in siblings:
        sibling.lease(2)
    late = join(None)
    slots = leased_in_time(late, 1)
    assert [slot.number >= 6 for slot in slots] == [True]
    assert late.lease(1) == []


def test_while_terms_disagree_the_smaller_share_rules(join: Join) -> None:
    one, other = join(12), join(None)
    assert other.agree(Terms(None, 8, 3, 2)) == Terms(None, 8, 3, 2)
    assert rings(one)
    assert one.limit == 8
    third = join(None)
    assert third.agree(Terms(None, 20, 3, 2)).instance == 8
    other.close()
    assert len(leased_in_time(third, 2 + 6)) == 2 + 6  # what the remaining smaller one allows


def test_what_is_held_beyond_a_smaller_share_is_wanted_back(join: Join) -> None:
    one = join(12)
    assert len(one.lease(99)) == 12
    join(8)
    assert rings(one)
    assert one.siblings.owed().idle == 4


# --- siblings


def test_a_starving_worker_is_helped_by_who_has_borrowed(join: Join) -> None:
    hungry, rich, poor = join(), join(), join()
    slots = rich.lease(99)
    hungry.lease(2)
    poor.lease(2)
    assert rich.siblings.owed() == (0, 0)
    assert hungry.lease(3) == []
    hungry.siblings.report_starving(3)
    assert rings(rich)
    assert rich.siblings.owed() == (3, 2)  # 12 among 3: it lacks 2 of its fair share
    assert poor.siblings.owed() == (0, 0)
    for slot in slots[:3]:
        rich.release(slot)
    assert rings(hungry)
    assert len(hungry.lease(3)) == 3
    hungry.siblings.report_starving(0)
    assert rich.siblings.owed() == (0, 0)


def test_nobody_is_rung_while_nobody_starves(join: Join) -> None:
    one, other = join(), join()
    assert rings(one)  # of the other's coming
    slots = one.lease(5)
    for slot in slots:
        one.release(slot)
    assert not rings(other)
    assert not rings(one)


def test_the_same_need_is_rung_for_now_and_then(join: Join) -> None:
    hungry, rich = join(), join()
    rich.lease(99)
    hungry.lease(2)
    hungry.siblings.report_starving(1)
    assert rings(rich)
    hungry.siblings.report_starving(2)
    assert not rings(rich)
    assert rich.siblings.owed().idle == 2

    def rung_again() -> bool:
        hungry.siblings.report_starving(2)
        return rings(rich)

    until(rung_again)
    hungry.siblings.report_starving(0)
    hungry.siblings.report_starving(1)
    assert rings(rich)


def test_who_is_elsewhere_misplaced_makes_room(join: Join) -> None:
    """A worker that warmed up with shared slots, before its elders were gone, holds them no more
    once somebody needs them."""
    elders = [join() for _ in range(3)]
    mine = [elder.lease(2) for elder in elders]
    young = [join() for _ in range(3)]
    for ledger in young:
        assert len(ledger.lease(2)) == 2
    for elder, slots in zip(elders, mine, strict=True):
        elder.siblings.drain()
        for slot in slots:
            elder.release(slot)
        elder.close()
    got = len(young[0].lease(99))
    young[0].siblings.report_starving(1)
    for ledger in young[1:]:
        assert rings(ledger)
    assert got + len(young[0].lease(99)) == 6


# --- the dead

HOLD = """
import sys
from pathlib import Path
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.slots import Backend
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir
ledger = HostLedger(RuntimeDir(Path(sys.argv[1])), "shop", workers=3)
ledger.agree(Terms(None, 12, 3, 2))
slots = ledger.lease(12)
for at, slot in enumerate(slots[: int(sys.argv[2])]):
    ledger.record_backend(slot, Backend(int(sys.argv[3]) + at, 7.0))
ledger.siblings.report_starving(5)
print(len(slots), flush=True)
sys.stdin.read()
"""


def killed(folder: Path, seated: int, first_pid: int = 1000) -> None:
    """A worker that leased all it could, of which so many had a session, was killed."""
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder / "run", str(seated), str(first_pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        assert worker.stdout is not None
        assert int(worker.stdout.readline()) > 0
        worker.send_signal(signal.SIGKILL)
        worker.wait()


def test_a_dead_owners_slots_stay_taken_until_its_backends_are_gone(
    join: Join, tmp_path: Path
) -> None:
    ledger, other = join(), join()
    killed(tmp_path, seated=8)
    assert ledger.in_use == 8
    assert len(ledger.lease(99)) == 2
    orphans = ledger.orphans.claim()
    assert [orphan.backend for orphan in orphans] == [Backend(1000 + n, 7.0) for n in range(8)]
    assert other.orphans.claim() == []  # one asks at a time
    ledger.orphans.resolve(orphans, gone=orphans[:3])
    assert len(ledger.lease(99)) == 3
    assert len(other.orphans.claim()) == 5


def test_a_dead_worker_is_buried(join: Join, tmp_path: Path) -> None:
    """Its hunger impresses nobody, its place and its bell are free for the next."""
    first, second = join(), join()
    killed(tmp_path, seated=8)
    second.lease(2)
    first.siblings.catch_up()
    assert first.siblings.owed() == (0, 0)
    orphans = first.orphans.claim()
    first.orphans.resolve(orphans, gone=orphans)
    third = join()
    assert len(third.lease(99)) == 2 + 6
    assert len([*(tmp_path / "run").glob("*.bell")]) == 3


def test_who_died_while_connecting_is_waited_for(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = join()
    killed(tmp_path, seated=0)
    assert ledger.orphans.claim() == []
    assert ledger.in_use == 10
    monkeypatch.setattr("poolguard.budget.host.orphans.CONNECTING_GRACE", 0.0)
    assert ledger.orphans.claim() == []
    assert ledger.in_use == 0


def test_who_died_while_connecting_is_forgotten_though_nobody_can_ask(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections may be lent, for long."""
    ledger = join()
    killed(tmp_path, seated=0)
    assert ledger.maintain(unsaid)
    monkeypatch.setattr("poolguard.budget.host.orphans.CONNECTING_GRACE", 0.0)
    assert not ledger.maintain(unsaid)
    assert ledger.in_use == 0


def test_who_died_behind_a_pooler_is_not_waited_for(join: Join, tmp_path: Path) -> None:
    ledger = join()
    killed(tmp_path, seated=1, first_pid=POOLED.pid)
    assert ledger.orphans.claim() == []
    assert ledger.in_use == 9


def test_with_nobody_left_to_ask_one_slot_is_taken_over(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All slots are the dead's: one process may connect, and asks for its predecessor too."""
    killed(tmp_path, seated=12)
    one, other = join(), join()
    assert one.in_use == 12
    assert one.lease(1) == []  # the backends are given time to notice
    monkeypatch.setattr("poolguard.budget.host.orphans.OVERDUE", 0.0)
    leased = leased_in_time(one, 1)
    assert other.lease(1) == []
    assert one.in_use == 12

    one.record_backend(leased[0], Backend(5000, 9.0))
    orphans = one.orphans.claim()
    assert len(orphans) == 12
    one.orphans.resolve(orphans, gone=())
    one.release(leased[0])  # the backend before it may still be there: the slot stays taken
    assert one.in_use == 12

    leased = leased_in_time(other, 1)
    other.record_backend(leased[0], Backend(5001, 9.0))
    orphans = other.orphans.claim()
    other.orphans.resolve(orphans, gone=orphans)
    assert other.in_use == 1
    other.release(leased[0])
    assert other.in_use == 0


def test_a_forked_child_has_no_part_in_it(join: Join) -> None:
    ledger = join()
    slots = ledger.lease(3)
    pid = os.fork()
    if pid == 0:
        try:
            ledger.lease(1)
        except ForkError:
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    for slot in slots:
        ledger.release(slot)
    assert ledger.in_use == 0


# --- the file


def test_what_is_no_ledger_is_made_anew_once_nobody_uses_it(
    join: Join, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "shop.ledger"
    before = join()
    content = path.read_bytes()
    path.write_bytes(b"something else".ljust(len(content), b"."))
    with pytest.raises(RuntimeDirError, match=r"no ledger of this version .* others use it"):
        join()
    before.close()
    assert join().lease(6)
    assert "shop.ledger was no ledger of this version of poolguard" in caplog.text
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize("size", [None, 0, 10_000])
def test_it_has_room_on_the_disk_for_all_of_it(
    join: Join, tmp_path: Path, size: int | None
) -> None:
    """Also when somebody has truncated it: what is held stays held, and nobody is killed."""
    path = tmp_path / "run" / "shop.ledger"
    one = join()
    held = one.lease(6)
    whole = path.stat().st_size
    if size is not None:
        os.truncate(path, size)
        assert one.lease(3), "what is gone reads as nobody's"
        one.maintain(unsaid)
    assert path.stat().st_size == whole
    assert path.stat().st_blocks * 512 >= whole
    other, numbers = join(), {slot.number for slot in held}
    assert not {slot.number for slot in other.lease(99)} & numbers


FULL = """
import resource, sys
from pathlib import Path
from poolguard.budget.host.ledger import HostLedger
from poolguard.util.rundir import RuntimeDir
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
HostLedger(RuntimeDir(Path(sys.argv[1])), "shop", workers=1)
"""


def test_no_room_for_it_is_an_error_that_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "run")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "run/shop.ledger cannot be used (File too large)" in said


def test_without_a_doorbell_it_is_looked_instead(
    join: Join, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not every file system has FIFOs, and a disk may have no room for one more name."""
    one = join()
    (tmp_path / "run" / "shop.1.bell").mkdir()
    other = join()
    assert other.siblings.fileno() == -1
    assert "shop.1.bell cannot be used" in caplog.text
    assert other.lease(99)
    one.siblings.report_starving(3)
    other.maintain(unsaid)
    assert other.siblings.owed().idle > 0


@pytest.mark.parametrize("byte", [None, 0x00, 0x01, 0xFF])
def test_nonsense_in_it_heals(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte: int | None
) -> None:
    """Among those who hold slots: nobody loses one, and what nobody holds is found free."""
    monkeypatch.setattr("poolguard.budget.host.orphans.CONNECTING_GRACE", 0.0)
    one, other = join(), join()
    held = [*one.lease(3), *other.lease(3)]
    for slot in held:
        one.record_backend(slot, Backend(1000 + slot.number, 7.0))
    path = tmp_path / "run" / "shop.ledger"
    size = path.stat().st_size
    random.seed(byte)
    path.write_bytes(random.randbytes(size) if byte is None else bytes([byte]) * size)
    for ledger in (one, other, one):
        ledger.maintain(unsaid)
        orphans = ledger.orphans.claim()
        assert not {orphan.number for orphan in orphans} & {slot.number for slot in held}
        ledger.orphans.resolve(orphans, orphans)
    assert (one.in_use, one.limit, one.siblings.owed()) == (6, 12, (0, 0))
    assert not one.maintain(unsaid)
    third = join()
    found = third.lease(99)
    assert len(found) == 6
    assert not {slot.number for slot in found} & {slot.number for slot in held}


def test_the_dead_are_seen_by_who_needs_nothing(join: Join, tmp_path: Path) -> None:
    ledger = join()
    ledger.lease(2)
    assert not ledger.maintain(unsaid)
    killed(tmp_path, seated=99)
    assert ledger.maintain(unsaid)
    orphans = ledger.orphans.claim()
    assert ledger.maintain(unsaid) is False, "they are being asked about"
    ledger.orphans.resolve(orphans, ())
    assert ledger.maintain(unsaid)


def test_a_ledger_that_nobody_uses_any_more_is_used_again(join: Join, tmp_path: Path) -> None:
    before = join()
    slots = before.lease(4)
    for slot in slots:
        before.release(slot)
    before.close()
    assert len(join().lease(99)) == 12


def test_closing_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    ledger = HostLedger(RuntimeDir(tmp_path / "run"), "shop", workers=1)
    ledger.lease(1)
    ledger.close()
    ledger.close()
    assert os.listdir("/proc/self/fd") == before
    assert [path.suffix for path in (tmp_path / "run").iterdir()] == [".ledger"]


def test_its_words_tell_no_more_than_counts(join: Join) -> None:
    ledger = join()
    ledger.lease(2)
    assert repr(ledger) == "<HostLedger shop 2 held, 2 of 12>"
