"""The simulation of fleets, small ones. It asserts with each lease that the budget holds."""

from __future__ import annotations

from benchmarks.fleet.simulated.host import Host
from benchmarks.fleet.simulation import Fleet


def test_a_fleet_shares_a_budget_evenly_and_makes_room_for_one_more() -> None:
    fleet = Fleet(13 * 5 + 1, seed=1)
    fleet.later(5, 1.0, 20)
    fleet.played(10)
    assert [host.has for host in fleet.hosts] == [12] * 5
    one = fleet.join(20)
    fleet.played(5)
    assert one.floors_at is not None
    assert one.floors_at - one.asked_at < 1.0
    assert sorted(host.has for host in fleet.hosts) == [9, 10, 10, 10, 10, 10]


def test_a_host_has_as_much_as_it_has_workers() -> None:
    fleet = Fleet(60, seed=1)
    large = [Host(fleet.world, fleet.hosts, 40, workers=16, floors=16) for _ in range(3)]
    small = Host(fleet.world, fleet.hosts, 40, workers=1, floors=1)
    fleet.played(20)
    assert [host.has for host in large] == [18] * 3
    assert small.has == 1


def test_where_there_is_not_one_for_each_host_all_have_their_turns() -> None:
    fleet = Fleet(20, seed=1)
    for _ in range(12):
        fleet.join(8)
    seen = set[int]()
    for _ in range(300):
        fleet.played(0.1)
        seen |= {host.pid for host in fleet.hosts if host.has}
    assert len(seen) == 12


def test_those_that_leave_and_those_that_are_killed_leave_nothing_behind() -> None:
    fleet = Fleet(13 * 5 + 1, seed=1)
    fleet.later(5, 1.0, 8)
    fleet.played(5)
    fleet.hosts[0].leave()
    fleet.hosts[1].vanish()
    fleet.played(5)
    assert [host.lives for host in fleet.hosts] == [False, False, True, True, True]
    held = sum(host.has + 1 for host in fleet.hosts if host.lives)
    assert len(fleet.world.leased) == held
