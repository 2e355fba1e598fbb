"""The ledger of a fleet, on a real server: hosts that are runtime folders of their own."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from poolguard.budget.fleet import policy, statements
from poolguard.budget.fleet.keys import Keys
from tests.support import becomes, until

from .member import Member

if TYPE_CHECKING:
    from poolguard.lab.postgres import PrivatePostgres

    from .conftest import Join, Open, Rows

SEATS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'
   AND classid = (%s::bigint & 4294967295)::oid
"""
CONTROL = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'poolguard 1 ' || %s || ':%%'"
)


def occupied(rows: Rows, label: str) -> int:
    """The slots that sessions occupy, those of the control sessions among them."""
    [(n,)] = rows(SEATS, Keys.of(label).seat)
    return int(n)


def slots(rows: Rows, label: str) -> list[int]:
    """Those that sessions occupy."""
    return sorted(
        slot for (slot,) in rows(SEATS.replace("count(*)", "objid::int"), Keys.of(label).seat)
    )


def control(rows: Rows, label: str) -> list[int]:
    """The pids of the control sessions."""
    return [pid for (pid,) in rows(CONTROL, Keys.of(label).short)]


def held(*members: Member) -> list[int]:
    return [len(member.sessions) for member in members]


def test_hosts_together_have_the_budget_less_their_control_sessions_and_the_door(
    join: Join, rows: Rows, label: str
) -> None:
    one, other = join("one", 12), join("other", 12)
    one.want(12)
    other.want(12)
    becomes(lambda: sum(held(one, other)), 12 - 2 - 1)
    until(lambda: occupied(rows, label) == 11)  # one that is looked at is locked for an instant


def test_processes_of_one_host_share_its_control_session(
    join: Join, rows: Rows, label: str
) -> None:
    members = [join("one") for _ in range(3)]
    assert [member.hold(2) for member in members] == [2, 2, 2]
    becomes(lambda: occupied(rows, label), 7)
    assert members[0].ledger.standing.hosts == 1


def test_a_host_that_joins_gets_its_fair_share_of_a_fleet_that_uses_all(join: Join) -> None:
    """Those who have more than theirs give it up, though they need it, and no more than that."""
    old = [join("one", 22), join("other", 22)]
    for member in old:
        member.want(30)
    becomes(lambda: sum(held(*old)), 22 - 2 - 1)
    new = join("third", 22)
    new.want(30)
    becomes(lambda: held(*old, new), [6, 6, 6], within=5)


def test_what_a_host_does_not_need_goes_to_the_others(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "TRIM", 0.2)
    one, other = join("one", 13), join("other", 13)  # five for each
    assert one.hold(5) == 5
    other.want(10)
    becomes(lambda: held(one, other), [5, 5])
    one.want(0)
    one.close_idle()
    assert other.hold(10 - policy.SPARE, within=5) == 10 - policy.SPARE


def test_an_idle_host_gives_what_another_needs_down_to_its_floor(join: Join) -> None:
    idle, busy = join("idle", 14), join("busy", 14)
    assert idle.hold(9) == 9
    idle.want(0)
    busy.want(20)
    becomes(lambda: held(idle, busy), [2, 9], within=5)


def test_a_host_takes_no_slot_that_it_was_not_granted(join: Join) -> None:
    one = join("one")
    one.hold(3)
    granted = one.ledger._table.granted()
    assert {slot.number for slot in one.sessions} < granted
    one.wanted = 20
    leased = one.ledger.lease(20)
    assert {slot.number for slot in leased} <= granted
    for slot in leased:
        one.ledger.release(slot)


def test_nothing_is_leased_from_the_moment_at_which_the_control_session_has_ended(
    join: Join, rows: Rows, label: str
) -> None:
    """And once there is another one, what was granted is so again."""
    one, sibling = join("one"), join("one")
    assert [one.hold(2), sibling.hold(2)] == [2, 2]
    doorbell = one.ledger._keeper._reigning._doorbell  # type: ignore[union-attr]
    assert doorbell is not None
    waits, goes_on, wait = Event(), Event(), doorbell.wait

    def hang(timeout: float) -> None:
        waits.set()
        goes_on.wait(30)
        wait(timeout)

    doorbell.wait = hang  # type: ignore[method-assign]
    one.ledger._keeper.ring()
    assert waits.wait(10)
    granted = one.ledger._table.granted()
    assert len(granted) > 4
    rows("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid", control(rows, label))
    until(lambda: not sibling.ledger._keeper.is_granting())
    assert sibling.ledger.lease(1) == one.ledger.lease(1) == []
    goes_on.set()

    def is_granted_again() -> bool:
        seat = one.ledger._file.reign().slot  # which may have been free, and granted, before
        return one.ledger._table.granted() >= granted - {seat}

    until(is_granted_again, within=3)
    assert sibling.hold(3) == 3


def test_a_slot_that_is_withheld_as_it_is_taken_is_not_taken(join: Join) -> None:
    """It was granted when it was looked for."""
    one = join("one")
    assert one.hold(1) == 1
    table = one.ledger._table
    withheld = next(slot for slot in range(1, 20) if slot not in table.granted())
    with one.ledger._access.lock:
        assert not table.take_this(withheld)
        assert not table.is_taken(withheld)


def test_who_finds_its_slot_occupied_gives_it_up(join: Join, rows: Rows, label: str) -> None:
    """Whoever occupies it, the host goes on with another one."""
    one = join("one", 6)
    assert one.hold(1) == 1
    keys = Keys.of(label)
    for slot in range(1, 6):
        rows("SELECT pg_try_advisory_lock(%s, %s)", keys.seat, slot)
    one.want(3)
    until(lambda: one.ledger._table.granted() == {slot.number for slot in one.sessions})
    assert held(one) == [1]
    rows("SELECT pg_advisory_unlock_all()")
    assert one.hold(3) == 3


def test_a_claim_that_finds_too_few_counts_the_slots_of_those_that_have_vanished(
    rows: Rows, postgres: PrivatePostgres, label: str
) -> None:
    """Slots 1 and 2 are occupied and leased by nobody, 3 is leased, and 4 and 5 are free."""
    keys = Keys.of(label)
    for lock, slot in ((keys.seat, 1), (keys.seat, 2), (keys.lease, 3)):
        rows("SELECT pg_try_advisory_lock(%s, %s)", lock, slot)
    with postgres.connect(autocommit=True) as control:
        mine: list[int] = []

        def claim(n: int) -> int | None:
            [[got, lost]] = control.execute(statements.claim(keys, n, 6, mine)).fetchall()
            mine.extend(got)
            return None if lost is None else int(lost)

        assert claim(1) is None
        assert claim(2) == 2
        assert claim(1) == 2
        assert sorted(mine) == [4, 5]
    rows("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize(
    ("asks", "claimed"),
    [
        ({"n": 9}, 5),
        ({"n": 9, "left": 2}, 3),
        ({"n": 2, "left": 2}, 2),
        ({"n": 9, "left": 2, "sure": 4}, 4),
        ({"n": 2, "left": 2, "sure": 4}, 2),
        ({"n": 9, "left": 9}, 0),
        ({"n": 9, "left": 9, "sure": 1}, 1),
    ],
)
def test_a_claim_leaves_what_it_is_to_leave(
    postgres: PrivatePostgres, label: str, asks: dict[str, Any], claimed: int
) -> None:
    """Of slots 1 to 5. What is left is free for others, and what is claimed is not."""
    claim = partial(statements.claim, Keys.of(label), end=6, mine=[])
    with postgres.connect(autocommit=True) as one, postgres.connect(autocommit=True) as other:
        [[got, lost]] = one.execute(claim(**asks)).fetchall()
        [[rest, _]] = other.execute(claim(n=9)).fetchall()
    assert len(got) == claimed
    assert lost == (0 if claimed < asks["n"] else None)
    assert sorted([*got, *rest]) == [1, 2, 3, 4, 5]


def test_the_smaller_budget_rules_and_is_named(
    join: Join, rows: Rows, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = join("one", 20), join("other", 10)
    other.hold(1)
    one.want(30)
    until(lambda: "goes by a budget of 10, and this one by 20: the smaller rules" in caplog.text)
    until(lambda: 10 - 2 - 1 - 1 - policy.SPARE <= held(one)[0] <= 10 - 2 - 1)
    since = monotonic()

    def stays() -> bool:
        """For as long as it would take to grow beyond that."""
        nonlocal since
        if occupied(rows, label) > 10:
            since = monotonic()
        return monotonic() - since > 1

    until(stays)


def test_nothing_stays_beyond_a_budget_that_is_smaller_now(
    guard: Open, rows: Rows, label: str
) -> None:
    """Neither a control session, nor a connection that is idle, or that comes back, whatever slots
    they have taken meanwhile."""
    hosts = [guard(each, budget=40, floor=4, max_size=12) for each in ("one", "two", "three")]
    for each in hosts:
        assert each.open(wait=10)
    held = ExitStack()
    for each in hosts:
        for _ in range(10):
            held.enter_context(each.connection())
    with held:
        small = guard("small", budget=16, floor=1)
        small.open()
        until(lambda: (small.status()["budget"]["fleet"] or {}).get("hosts") == 4)
    until(lambda: max(slots(rows, label), default=0) < 16)
    assert len(slots(rows, label)) <= 16


def test_members_of_another_version_are_refused(
    join: Join, rows: Rows, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows("SELECT set_config('application_name', %s, false)", f"poolguard 2 {Keys.of(label).short}:")
    one = join("one")
    one.want(1)
    until(lambda: "version 2 of its protocol, and this one by 1" in one.ledger.explain())
    until(lambda: "version 2 of its protocol" in caplog.text)
    assert held(one) == [0]
    rows("SELECT set_config('application_name', 'gone', false)")
    assert one.hold(1) == 1
    assert "protocol" not in one.ledger.explain()


def test_a_host_for_which_there_is_no_room_is_told_so_and_leaves_the_others_theirs(
    join: Join,
) -> None:
    """Each has a control session, and one slot is the door: with one more there would be none."""
    one, other = join("one", 4), join("other", 4)
    assert one.hold(1) == 1
    third = join("third", 4)
    third.want(1)
    until(lambda: "no room for another host: 2 are there" in third.ledger.explain())
    assert (held(one), held(other), held(third)) == ([1], [0], [0])
    one.want(0)
    assert other.hold(1) == 1


def test_a_host_that_leaves_says_so(join: Join) -> None:
    """Others need not wait for what its connects under way may come to."""
    one, other = join("one", 12), join("other", 12)
    assert one.hold(5) == 5
    other.want(9)
    becomes(lambda: held(other), [4])
    with suppress(AssertionError):
        one.close()
    began = monotonic()
    assert other.hold(9) == 9
    assert monotonic() - began < policy.REST / 2
