"""The plan: the arithmetic at its edges, what is refused, what is warned of. No server."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pytest

from poolguard.budget.capacity import Capacity
from poolguard.budget.plan import (
    Plan,
    Workplace,
    known_budget,
    make_plan,
    shares,
    took_the_reserve,
)
from poolguard.errors import PlanError
from poolguard.settings import Percent, Settings

HUNDRED = Capacity(97, max_connections=100, for_superusers=3)
THREADS = Workplace(workers=4, at_once=8, mode="sync", bounded=True)


def plan(
    capacity: Capacity | None = HUNDRED, workplace: Workplace = THREADS, **settings: Any
) -> Plan:
    return make_plan(capacity, Settings(**settings), workplace)


def refusal(
    capacity: Capacity | None = HUNDRED, workplace: Workplace = THREADS, **settings: Any
) -> str:
    with pytest.raises(PlanError) as caught:
        plan(capacity, workplace, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_whole_of_it() -> None:
    """Capacity, less reserve, by instances and workers; the rest is lent."""
    made = plan(instances=3)
    assert (made.capacity, made.budget, made.instance, made.workers) == (97, 87, 29, 4)
    assert (made.floor, made.shared, made.max_size, made.ledger) == (3, 17, 20, "host")
    assert made.warm_on_reload == 12
    assert made.warnings == ()
    assert made.explain() == (
        "capacity  97  = 100 max_connections − 3 superuser_reserved_connections\n"
        "budget    87  = 97 − 10 reserve (the greater of 3 and 10 %)\n"
        "instance  29  = 87 ÷ 3 instances\n"
        "workers    4  = gunicorn's, else WEB_CONCURRENCY, else 1\n"
        "floor      3  = the least of 8 used at once and 29 ÷ (2 × 4) = 3\n"
        "shared    17  = 29 − 12, what the workers' floors leave to borrow\n"
        "max_size  20  = 3 floor + 17 shared"
    )


@pytest.mark.parametrize(
    ("capacity", "settings", "budget"),
    [
        (97, {}, 87),  # 10 % is 9.7, and is rounded in favour of the others
        (30, {}, 27),
        (31, {}, 27),
        (29, {}, 26),
        (4, {}, 1),
        (97, {"reserve": 20}, 77),
        (97, {"reserve": 0}, 97),
        (97, {"budget": "80%"}, 77),  # 77.6
        (97, {"budget": "100%"}, 97),
        (97, {"budget": 97}, 97),
        (97, {"budget": 5}, 5),
    ],
)
def test_the_budget(capacity: int, settings: dict[str, Any], budget: int) -> None:
    assert plan(Capacity(capacity), Workplace(), **settings).budget == budget


@pytest.mark.parametrize(
    ("instance", "at_once", "floor"),
    [
        (64, 8, 8),  # exactly half
        (63, 8, 7),
        (200, 8, 8),
        (8, 8, 1),
        (7, 8, 1),  # half of it is less than one
        (4, 8, 1),
        (100, 1, 1),
    ],
)
def test_an_automatic_floor(instance: int, at_once: int, floor: int) -> None:
    """What is used at once, at most half of what the instance has, at least one."""
    made = plan(None, Workplace(4, at_once), budget=instance)
    assert made.floor == floor
    assert made.shared == instance - 4 * floor
    assert made.max_size == floor + made.shared


def test_an_automatic_floor_keeps_below_max_size() -> None:
    made = plan(max_size=5)
    assert (made.floor, made.max_size) == (5, 5)
    assert "max_size, below the least of 8 used at once" in made.explain()


def test_numbers_that_are_set() -> None:
    """They are taken as they are, and explained by where they came from."""
    made = plan(floor=2, max_size=9, workers=6)
    assert (made.workers, made.floor, made.max_size, made.shared) == (6, 2, 9, 75)
    text = made.explain()
    assert "workers    6  = as set by keyword workers" in text
    assert "floor      2  = as set by keyword floor" in text
    assert "max_size   9  = as set by keyword max_size; 77 at most" in text


def test_the_origin_of_a_variable_is_named() -> None:
    settings = Settings.build(environ={"POOLGUARD_FLOOR": "2", "POOLGUARD_BUDGET": "40"})
    text = make_plan(HUNDRED, settings, THREADS).explain()
    assert "= as set by variable POOLGUARD_FLOOR" in text
    assert "= as set by variable POOLGUARD_BUDGET" in text


# -- the ledgers


def test_static_lends_nothing() -> None:
    """A worker may hold its part and no more, and a reload counts nobody twice."""
    made = plan(ledger="static", budget=30, floor=2)
    assert (made.max_size, made.shared) == (7, 0)
    assert (made.held, made.held_on_reload) == (28, 56)
    assert made.warm_on_reload == 8
    assert "shared" not in made.explain()
    assert made.warnings == (
        "a worker handles 8 requests at once but holds at most 7 connections: the other requests "
        "wait, and those that take a second connection while they hold one can wait for each "
        "other. Raise max_size or budget, or lower threads",
        "with ledger=static a reload may hold up to 56 connections, twice the workers' 28, since "
        "old and new workers do not know of each other. Take another ledger, or halve budget",
    )


def test_a_reload_stays_within_the_instance() -> None:
    made = plan(budget=30, floor=5)
    assert (made.shared, made.held, made.held_on_reload) == (10, 30, 30)
    assert made.warm_on_reload == 10
    assert made.warnings == (
        "a reload warms 10 of the new workers' 20 connections, the rest only as the old workers "
        "let go of theirs. Lower floor to 3, or raise what the instance gets to 40",
    )


def test_a_low_max_size_bounds_what_is_held() -> None:
    made = plan(budget=80, floor=1, max_size=8)
    assert (made.held, made.held_on_reload) == (32, 64)
    assert plan(budget=40, floor=1, max_size=8).held_on_reload == 40


def test_a_reload_that_cannot_be_warm_at_any_floor() -> None:
    [warning] = plan(None, Workplace(4, 1), budget=6).warnings
    assert warning.endswith("Raise what the instance gets to 8")


def test_every_plan_keeps_to_its_budget() -> None:
    """Whatever the numbers: floors fit, nobody may hold more than there is, half can be lent."""
    ledgers: tuple[Literal["static", "host"], ...] = ("static", "host")
    numbers = itertools.product(range(1, 40), (1, 2, 3), (1, 2, 5), (1, 3, 10), ledgers)
    made = 0
    for budget, instances, workers, at_once, ledger in numbers:
        settings = Settings(instances=instances, ledger=ledger, reserve=0)
        try:
            it = make_plan(Capacity(budget), settings, Workplace(workers, at_once))
        except PlanError:
            assert budget // instances < workers
            continue
        made += 1
        assert it.instance * instances <= budget
        assert workers * it.floor + it.shared <= it.instance
        assert 1 <= it.floor <= it.max_size <= it.instance
        assert it.held <= it.instance
        if ledger == "static":
            assert workers * it.max_size <= it.instance
        else:
            assert it.max_size == it.floor + it.shared
            assert it.held_on_reload <= it.instance
            if it.instance >= 2 * workers:
                assert it.warm_on_reload == workers * it.floor
    assert made > 1000


# -- a fleet


def test_the_whole_of_a_fleet() -> None:
    """What one host can have, what each has if all have the same, and the floors by the latter."""
    made = plan(instances=3, ledger="fleet", budget=40)
    assert (made.budget, made.instance, made.equal, made.workers) == (40, 36, 12, 4)
    assert (made.floor, made.shared, made.max_size, made.ledger) == (1, 32, 33, "fleet")
    assert made.most_hosts == 7
    assert made.warnings == ()
    assert made.explain().splitlines()[1:] == [
        "budget    40  = as set by keyword budget",
        "instance  36  = 40 − 3 control sessions − 1 kept free for the next host",
        "each      12  = if all have the same: (40 − 1) ÷ 3 hosts − 1",
        "workers    4  = gunicorn's, else WEB_CONCURRENCY, else 1",
        "floor      1  = the least of 8 used at once and 12 ÷ (2 × 4) = 1",
        "shared    32  = 36 − 4, what the workers' floors leave to borrow",
        "max_size  33  = 1 floor + 32 shared",
        "locks     80  = 2 × 40, in the lock table of the ledger's server",
    ]


def test_every_plan_of_a_fleet_keeps_to_its_budget() -> None:
    """All floors and control sessions fit, and the door stays free."""
    made = 0
    for budget, n, workers, at_once in itertools.product(
        range(1, 60), (1, 2, 3, 7), (1, 2, 5), (1, 3, 10)
    ):
        settings = Settings(instances=n, ledger="fleet", reserve=0)
        try:
            it = make_plan(Capacity(budget), settings, Workplace(workers, at_once))
        except PlanError:
            assert budget < n * (workers + 1) + 1
            continue
        made += 1
        assert n * (it.equal + 1) + 1 <= budget
        assert workers * it.floor <= it.equal <= it.instance == budget - n - 1
        assert it.most_hosts >= n
        assert it.most_hosts * (workers * it.floor + 1) + 1 <= budget
        assert it.max_size == it.instance - (workers - 1) * it.floor
        assert it.warm_on_reload <= it.equal - workers * it.floor
    assert made > 1000


def test_a_reload_in_a_fleet_is_warmed_by_what_its_host_has_when_all_have_the_same() -> None:
    made = plan(instances=3, ledger="fleet", budget=40, floor=2)
    assert (made.warm_on_reload, made.held_on_reload) == (4, 36)
    assert made.warnings == (
        "a reload warms 4 of the new workers' 8 connections, the rest only as the old workers let "
        "go of theirs. Lower floor to 1, or raise what the instance gets to 16",
    )


def test_a_fleet_whose_floors_do_not_fit() -> None:
    text = refusal(instances=3, ledger="fleet", budget="80%", floor=7)
    assert "each 24 = if all have the same: (77 − 1) ÷ 3 hosts − 1, but 4 workers × 7 " in text
    assert "Raise budget to at least 88 (or what" in text
    assert plan(instances=3, ledger="fleet", budget=88, floor=7).equal == 28
    assert plan(None, instances=3, ledger="fleet", budget=40).most_hosts == 7


def test_the_reserve_gives_way_to_what_a_fleet_needs_beside_its_floors() -> None:
    made = plan(Capacity(30), instances=4, ledger="fleet", floor=1, workers=6)
    assert (made.budget, made.equal, made.most_hosts) == (29, 6, 4)
    refusal(Capacity(28), instances=4, ledger="fleet", floor=1, workers=6)


def test_a_fleet_counts_no_more_than_it_can() -> None:
    made = plan(Capacity(20_000), ledger="fleet")
    assert (made.budget, made.instance) == (16384, 16382)
    assert "16384  = what a fleet can count, below 20000 − 2000 reserve" in made.explain()


@pytest.mark.parametrize(("budget", "fits"), [(20, True), (21, False)])
def test_a_fleet_takes_no_more_than_half_of_the_lock_table(budget: int, fits: bool) -> None:
    """Whoever finds it full fails, and that may be any session of the server."""
    settings = Settings(ledger="fleet", budget=budget)
    if fits:
        made = make_plan(None, settings, THREADS, locks=80)
        assert made.explain().endswith(
            "locks     40  = 2 × 20, in the lock table of the ledger's server, which is sure to "
            "hold 80"
        )
        return
    with pytest.raises(PlanError) as caught:
        make_plan(None, settings, THREADS, locks=80)
    assert str(caught.value) == (
        "a fleet with a budget of 21 takes 42 locks (2 for each connection), and that is more than "
        "half of the 80 that the lock table of its ledger's server is sure to hold "
        "(max_locks_per_transaction × (max_connections + max_prepared_transactions)). Raise "
        "max_locks_per_transaction there to 2 times what it is, or lower budget"
    )
    assert make_plan(None, settings.replace(ledger="host"), THREADS, locks=80).budget == 21


def test_a_fleets_share_is_no_sign_that_it_runs_with_less() -> None:
    """One host's share is most of the budget, whatever the others have."""
    settings = Settings(ledger="fleet", instances=3, reserve=3)
    share = make_plan(HUNDRED, settings, THREADS).instance
    assert not took_the_reserve(97, share, settings)
    assert took_the_reserve(97, share + 1, settings)


# -- what is refused


def test_more_workers_than_connections() -> None:
    assert refusal(Capacity(90), Workplace(96, 1)) == (
        "the budget is too small to be divided: budget 81 = 90 − 9 reserve (the greater of 3 and "
        "10 %), instance 81 = 81 ÷ 1 instance, but 96 workers × 1 warm connection = 96. Raise "
        "budget to at least 96 (or what the server grants, where budget follows it), or lower "
        "workers or instances"
    )


def test_more_instances_than_connections() -> None:
    text = refusal(instances=30)
    assert "instance 2 = 87 ÷ 30 instances, but 4 workers × 1 warm connection = 4" in text
    assert "Raise budget to at least 120" in text


def test_a_floor_for_which_there_is_no_room() -> None:
    text = refusal(floor=9, instances=3)
    assert "instance 29 = 87 ÷ 3 instances, but 4 workers × 9 warm connections = 36" in text
    assert "Raise budget to at least 108" in text
    assert text.endswith("or lower workers, floor or instances")
    assert plan(floor=7, instances=3).shared == 1


@pytest.mark.parametrize(
    ("capacity", "settings", "reserve"),
    [
        (97, {"floor": 8, "instances": 3}, 1),
        (97, {"instances": 24}, 1),
        (20, {"workers": 20}, 0),
        (20, {"workers": 18, "ledger": "static"}, 2),
        (3, {"workers": 1}, 2),
        (1, {"workers": 1}, 0),
    ],
)
def test_the_default_reserve_gives_way_to_what_workers_need(
    capacity: int, settings: dict[str, Any], reserve: int
) -> None:
    made = plan(Capacity(capacity), **settings)
    assert made.budget == capacity - reserve
    assert f"= {capacity} − {reserve} reserve (what {made.budget} for the workers" in made.explain()
    assert f"and leave {reserve} instead of" in made.warnings[-1]
    refusal(Capacity(capacity), **settings, reserve=reserve + 1)  # one that was set does not


@pytest.mark.parametrize(
    ("ledger", "most", "how"),
    [("static", 21, "87 ÷ 4 workers"), ("host", 63, "8 floor + 55 shared")],
)
def test_a_max_size_that_cannot_be_reached(ledger: str, most: int, how: str) -> None:
    """It contradicts a budget that was set, and is only said of what a server happens to grant."""
    text = (
        f"keyword max_size={most + 1} is more than a worker can ever hold: budget 87 = {{}}, "
        f"instance 87 = 87 ÷ 1 instance, and {how} = {most}. Lower max_size, or raise budget"
    )
    assert plan(ledger=ledger, max_size=most, floor=8, budget=87).max_size == most
    assert refusal(ledger=ledger, max_size=most + 1, floor=8, budget=87) == (
        text.format("as set by keyword budget")
    )
    made = plan(ledger=ledger, max_size=most + 1, floor=8)
    assert made.max_size == most
    assert made.warnings[0] == text.format("97 − 10 reserve (the greater of 3 and 10 %)")


@pytest.mark.parametrize(("max_size", "floor"), [(10, 2), (12, 1), (14, 1)])
def test_the_automatic_floors_of_the_others_give_way_to_max_size(max_size: int, floor: int) -> None:
    made = plan(max_size=max_size, budget=17)
    assert (made.floor, made.max_size) == (floor, max_size)
    assert made.max_size <= made.floor + made.shared
    assert "1 floor + 13 shared = 14" in refusal(max_size=15, budget=17)


def test_the_ledger_of_a_host_counts_no_more_than_it_can() -> None:
    made = plan(None, budget=10**9, workers=16384)
    assert (made.instance, made.floor, made.max_size) == (16384, 1, 1)
    assert "16384  = what a host's ledger can count, below 1000000000 ÷ 1 inst" in made.explain()
    assert plan(None, budget=10**9, ledger="static", workers=16384).max_size == 61035


def test_a_budget_above_capacity() -> None:
    assert refusal(budget=98) == (
        "keyword budget=98 is more than the 97 that the server grants this role (100 "
        "max_connections − 3 superuser_reserved_connections). Lower budget, or raise what the "
        "server grants"
    )
    assert plan(None, budget=98).capacity is None  # nobody asked


def test_a_reserve_that_leaves_nothing() -> None:
    text = refusal(Capacity(3))
    assert "the server grants 3 connections (as given), and 3 (the greater of 3 and 10 %)" in text
    assert "9 (as set by keyword reserve) are reserved" in refusal(Capacity(9), reserve=9)


def test_a_percentage_of_next_to_nothing() -> None:
    assert "budget 0 = 5% of 10" in refusal(Capacity(10), budget="5%")


def test_an_automatic_budget_wants_a_capacity() -> None:
    """That is the caller's mistake and no user's."""
    with pytest.raises(ValueError, match="needs the server's capacity"):
        plan(None)


# -- behind a pooler


@pytest.mark.parametrize("pooler", ["session", "transaction"])
@pytest.mark.parametrize("budget", ["auto", "80%"])
def test_capacity_says_nothing_behind_a_pooler(pooler: Any, budget: str) -> None:
    with pytest.raises(PlanError, match="Set budget to the number of clients") as caught:
        make_plan(HUNDRED, Settings(budget=budget), THREADS, pooler=pooler)  # type: ignore[arg-type]
    assert "max_client_conn less what others use" in str(caught.value)
    assert "behind a pooler" in refusal(pooler=pooler)  # as set, where nothing was detected


def test_a_number_behind_a_pooler() -> None:
    """It counts the pooler's clients, and may be more than the server grants."""
    made = make_plan(HUNDRED, Settings(budget=400), THREADS, pooler="transaction")
    assert (made.capacity, made.budget, made.floor) == (None, 400, 8)
    assert made.explain().startswith("budget    400  = clients of the pooler, as set by keyword")


def test_what_was_detected_outdoes_what_is_set() -> None:
    made = make_plan(HUNDRED, Settings(pooler="session"), THREADS, pooler="none")
    assert made.capacity == 97


# -- warnings


def test_too_few_for_all_threads() -> None:
    """Only where the worker class sets a bound at all."""
    [warning] = plan(max_size=7).warnings
    assert "handles 8 requests at once but holds at most 7 connections" in warning
    assert plan(max_size=8).warnings == ()
    assert plan(max_size=7, workplace=Workplace(4, 10)).warnings == ()


def test_more_warm_than_can_be_used() -> None:
    [warning] = plan(floor=9).warnings
    assert "floor 9 is more than the 8 connections that a worker uses at once" in warning
    assert warning.endswith("Lower floor to 8")
    assert plan(floor=8).warnings == ()
    assert plan(floor=9, workplace=Workplace(4, 8)).warnings == ()


def test_others_hold_part_of_the_budget() -> None:
    """Those of this role in this database are taken for the service's own."""
    assert plan(Capacity(97, free_now=67, used_server=30, used_own=20)).warnings == ()
    [warning] = plan(Capacity(97, free_now=67, used_server=30, used_own=19)).warnings
    assert warning == (
        "of the budget of 87 only 86 can be opened now, since others hold the rest. Set budget to "
        "86, or have them hold fewer"
    )


@pytest.mark.parametrize(
    ("capacity", "warned"),
    [
        (Capacity(97), True),
        (Capacity(100, database=97), True),
        (Capacity(100, role=97), False),  # the limit of a role of its own hinders nobody else
        (Capacity(98), False),
    ],
)
def test_no_room_for_anybody_else(capacity: Capacity, warned: bool) -> None:
    warnings = plan(capacity, budget=97).warnings
    assert bool(warnings) is warned
    assert all("takes all of the 97 connections" in warning for warning in warnings)


# -- the rest


def test_known_budget() -> None:
    assert known_budget(Settings(budget=7)) == 7
    assert known_budget(Settings(budget="80%")) is None  # type: ignore[arg-type]
    assert known_budget(Settings()) is None


@pytest.mark.parametrize(
    ("worker_class", "threads", "at_once", "mode", "bounded"),
    [
        ("sync", 1, 1, "sync", True),
        ("sync", 8, 8, "sync", True),  # gunicorn makes gthread of that
        ("gthread", 1, 1, "sync", True),
        ("gthread", 8, 8, "sync", True),
        ("gunicorn.workers.gthread.ThreadWorker", 8, 8, "sync", True),
        ("gevent", 8, 10, "sync", False),
        ("asgi", 8, 10, "async", False),
        ("uvicorn_worker.UvicornWorker", 1, 10, "async", False),
    ],
)
def test_worker_classes(
    worker_class: str, threads: int, at_once: int, mode: str, bounded: bool
) -> None:
    found = Workplace.of(worker_class, 3, threads)
    assert (found.workers, found.at_once, found.mode, found.bounded) == (3, at_once, mode, bounded)


@pytest.mark.parametrize(
    ("capacity", "settings", "budget", "floor", "max_size"),
    [
        (6, {"reserve": 3}, 4, 1, 1),  # the reserve gives way
        (6, {"reserve": 3, "ledger": "static"}, 4, 1, 1),
        (20, {"floor": 5, "reserve": 1}, 20, 5, 5),
        (19, {"floor": 5}, 19, 4, 7),  # then the floors
        (19, {"floor": 5, "max_size": 19}, 19, 4, 7),
        (3, {"floor": 5}, 3, 1, 1),  # and in the end not every worker has one
        (1, {"ledger": "static"}, 1, 1, 1),
        (6, {"budget": "50%"}, 4, 1, 1),
        (10, {"instances": 3}, 10, 1, 1),
        (2, {"instances": 3}, 2, 1, 1),
    ],
)
def test_a_service_that_runs_goes_on_with_what_the_server_grants(
    capacity: int, settings: dict[str, Any], budget: int, floor: int, max_size: int
) -> None:
    asked = Settings.build(**settings)
    it = make_plan(Capacity(capacity), asked, THREADS, runs=True)
    assert (it.budget, it.floor, it.max_size) == (budget, floor, max_size)
    assert it.short
    [warning] = it.warnings
    assert warning.startswith("the server grants less than the settings need")
    with pytest.raises(PlanError):
        make_plan(Capacity(capacity), asked, THREADS)


@pytest.mark.parametrize("capacity", [97, 7, 6])
def test_enough_is_divided_alike_whether_the_service_runs_or_not(capacity: int) -> None:
    """Also where only a reserve gives way that nobody has set."""
    it = make_plan(Capacity(capacity), Settings(), THREADS, runs=True)
    assert it == make_plan(Capacity(capacity), Settings(), THREADS)
    assert not it.short


def test_who_goes_by_what_the_settings_give_tells_of_no_service_that_runs() -> None:
    assert not took_the_reserve(97, plan().instance, Settings())


def test_one_who_goes_by_more_than_the_reserve_leaves_tells_of_a_service_that_runs() -> None:
    given = make_plan(Capacity(6), Settings(), THREADS, runs=True).instance
    assert took_the_reserve(6, given, Settings())


def test_the_repr_shows_all_numbers() -> None:
    assert repr(plan(budget=20, floor=1, instances=2)).startswith(
        "Plan(capacity=97, budget=20, instance=10, workers=4, floor=1, max_size=7, shared=6, "
        "ledger='host', warm_on_reload=4, warnings=('a worker handles 8"
    )


@pytest.mark.parametrize(
    ("capacity", "settings", "expected"),
    [
        (HUNDRED, {"instances": 3}, (29, None, None)),
        (None, {"budget": 30, "instances": 3}, (None, 10, None)),
        (HUNDRED, {"budget": 30, "instances": 3}, (None, 10, None)),
        (Capacity(97, role=20), {}, (87, None, 17)),
        (Capacity(97, role=20, database=30), {}, (87, 27, 17)),
        (Capacity(97, role=200, database=30), {}, (87, 27, None)),
        (HUNDRED, {"budget": Percent(50)}, (97, 48, None)),  # the rest is for other databases
        (Capacity(97, role=20), {"budget": Percent(50)}, (97, 48, 10)),
    ],
)
def test_whom_which_share_binds(
    capacity: Capacity | None, settings: dict[str, Any], expected: tuple[int | None, ...]
) -> None:
    """All who use the server, those of the database, those of the role."""
    made = Settings(**settings)
    assert shares(make_plan(capacity, made, THREADS), capacity, made) == expected
