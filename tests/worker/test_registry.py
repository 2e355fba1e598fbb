"""The guards of a process: one for each name, and what becomes of the one from the environment."""

from __future__ import annotations

import threading

import psycopg
import pytest

import poolguard
from poolguard import Guard, SettingsError
from poolguard.budget.plan import Workplace
from poolguard.runtime.lookup import guards_to_open
from poolguard.settings import Settings
from poolguard.worker import context, registry
from poolguard.worker.context import WorkerContext

from ..runtime.test_guard import backends, named

ONE, TWO = "host=one", "host=two"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", ONE)


def test_the_same_name_and_settings_give_the_same_guard() -> None:
    """However the settings are spelled."""
    first = Guard(ONE, floor=3, max_size=3)
    assert Guard(ONE, floor="3", max_size=3, budget="auto") is first
    assert Guard(dsn=ONE, floor=3, max_size=3) is first
    assert poolguard.guard() is first
    assert registry.registered("default") is first


def test_the_database_is_named_once() -> None:
    """``conninfo`` is the setting ``dsn``, whose name the table of settings and the errors use."""
    with pytest.raises(SettingsError, match="the same setting"):
        Guard(ONE, dsn=ONE)


def test_one_that_is_not_open_gives_way_to_the_next_of_its_name(dsn: str) -> None:
    """Be it inert or closed. Held by whoever made it, it may take its name back."""
    first = Guard(dsn, name="main", budget=3)
    second = Guard(dsn, name="main", budget=4)
    assert poolguard.guard("main") is second
    with second:
        pass
    third = Guard(dsn, name="main", budget=5)
    assert registry.guards() == [third]
    with first:
        assert poolguard.guard("main") is first


def test_other_settings_for_the_name_of_an_open_one_are_refused(dsn: str) -> None:
    """The error tells the difference, and the way out. So is opening one that has given way."""
    replaced = Guard(dsn, name="main", budget=3)
    with Guard(dsn, name="main", budget=4) as guard:
        with pytest.raises(
            SettingsError, match=r"'main' is open .*budget=4\), not .*=5\).* of its"
        ):
            Guard(dsn, name="main", budget=5)
        with pytest.raises(SettingsError, match="'main' is open"):
            replaced.open()
        assert registry.guards() == [guard]


def test_callables_are_not_compared(dsn: str) -> None:
    """A file that is run again makes new ones. The newest is asked, unless the guard is open."""
    first = Guard(lambda: "host=nowhere", name="main", budget=2)
    guard = Guard(lambda: dsn, name="main", budget=2)
    assert guard is not first
    with guard:
        assert Guard(lambda: "host=elsewhere", name="main", budget=2) is guard
        with pytest.raises(SettingsError, match="is open"):
            Guard(lambda: dsn, name="main", budget=3)


def test_a_file_that_is_run_again_forgets_what_it_makes_no_more() -> None:
    """What others have made stays, and so does all where the file cannot be run to its end."""
    made_by_it = compile("Guard(ONE, name=name, floor=floor)", "gunicorn.conf.py", "exec")
    names = {"__name__": "__config__", "Guard": Guard, "ONE": ONE}

    def run_file(**floors: int) -> None:
        for name, floor in floors.items():
            exec(made_by_it, {**names, "name": name, "floor": floor})

    run_file(stays=1, changes=1, goes=1)
    hooks = Guard(ONE, name="hooks")
    before = registry.begin_file()
    run_file(stays=1, changes=2)
    registry.end_file()
    assert {each.name: each.settings.floor for each in registry.guards()} == {
        "stays": 1,
        "changes": 2,
        "hooks": "auto",
    }
    assert poolguard.guard("stays") is before["stays"]
    assert poolguard.guard("hooks") is hooks

    whole = registry.guards()
    before = registry.begin_file()
    run_file(changes=3)
    registry.restore(before)
    assert registry.guards() == whole
    registry.begin_file()
    registry.end_file()  # an empty one
    assert registry.guards() == [hooks]


def test_guards_are_known_by_name_in_the_order_of_their_making() -> None:
    made = [Guard(ONE, name=name) for name in ("b", "a", "c")]
    assert registry.guards() == made
    assert poolguard.guard("a") is made[1]


def test_an_unknown_name_is_refused(environment: None) -> None:
    """Only the default guard can come from the environment."""
    with pytest.raises(SettingsError, match="there is no guard named 'replica'"):
        poolguard.guard("replica")
    assert registry.guards() == []


def test_threads_that_ask_at_once_get_one_default_guard(environment: None) -> None:
    together = threading.Barrier(8)
    found: list[Guard] = []

    def ask() -> None:
        together.wait(10)
        found.append(poolguard.guard())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert set(found) == set(registry.guards())
    assert len(registry.guards()) == 1


def test_a_guard_is_made_once_whoever_asks_meanwhile() -> None:
    """Who asks while another thread is still making it waits for that one."""
    settings = Settings(dsn=ONE)
    making, go_on = threading.Event(), threading.Event()
    found: list[Guard] = []

    def make_slowly() -> Guard:
        making.set()
        assert go_on.wait(10)
        return Guard._make("default", settings)

    def ask() -> None:
        found.append(registry.register("default", settings, make_slowly))

    first = threading.Thread(target=ask)
    first.start()
    assert making.wait(10)
    making.clear()
    second = threading.Thread(target=ask)
    second.start()
    assert not making.wait(0.1)
    go_on.set()
    first.join(10)
    second.join(10)
    assert found == [poolguard.guard()] * 2


def test_one_that_is_spelled_out_takes_the_place_of_the_environments(
    dsn: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hooks may have opened that already: it is closed, and its connections end."""
    monkeypatch.setenv("DATABASE_URL", named(dsn, "environment"))
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")
    implied = poolguard.guard()
    implied.open(wait=10)
    spelled_out = Guard(dsn, budget=4, floor=1)
    assert spelled_out is not implied
    assert poolguard.guard() is spelled_out
    assert not implied.opened
    assert backends(admin, "environment") == 0


def test_one_that_is_spelled_out_with_the_environments_settings_stays(environment: None) -> None:
    """From then on it is the application's, and not replaced under it."""
    implied = poolguard.guard()
    assert Guard(ONE) is implied
    assert not implied.from_environment  # which it would follow


# -- which ones a door opens -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "made", "opened"),
    [
        ({}, [], []),
        ({}, ["main"], ["main"]),
        ({"DATABASE_URL": TWO}, [], ["default"]),
        ({"DATABASE_URL": TWO}, ["main"], ["default", "main"]),
        ({"DATABASE_URL": TWO}, ["main", "default"], ["main", "default"]),
        ({"DATABASE_URL": ONE}, ["main"], ["main"]),
        ({"DATABASE_URL": "postgresql://u:p@one:5432/u"}, ["main"], ["default", "main"]),
        ({"DATABASE_URL": "postgresql+psycopg://one", "PGUSER": "app"}, ["main"], ["main"]),
        ({"POOLGUARD_DSN": TWO, "DATABASE_URL": ONE}, ["main"], ["default", "main"]),
        ({"DATABASE_URL": "mysql://u@two/shop"}, [], []),
        ({"DATABASE_URL": "mysql://u@two/shop", "PGHOST": "two"}, [], ["default"]),
        ({"DATABASE_URL": "sqlite:///shop"}, ["main"], ["main"]),
        ({"PGHOST": "two"}, [], ["default"]),
        ({"PGHOST": "two"}, ["main"], ["main"]),  # it may only complete what the guards say
        ({"PGDATABASE": "two"}, ["main"], ["default", "main"]),
    ],
)
def test_the_default_one_stands_beside_others_unless_they_name_its_database(
    environ: dict[str, str], made: list[str], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "PGHOST", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in made:
        Guard(ONE, name=name)
    assert [each.name for each in guards_to_open()] == opened


def test_one_that_was_closed_by_name_is_opened_by_name(dsn: str, environment: None) -> None:
    """Whoever opens all leaves it alone: migrations may have been its only business."""
    migrations = Guard(dsn, name="migrations", budget=2, mode="sync")
    with migrations:
        assert migrations in guards_to_open()
    assert migrations not in guards_to_open()
    assert guards_to_open(migrations) == [migrations]
    assert Guard(dsn, name="migrations", budget=2, mode="sync") is migrations
    assert migrations in guards_to_open()
    migrations.close()
    migrations.open()
    assert migrations in guards_to_open()
    migrations.close()
    with Guard(dsn, budget=2, mode="sync") as closed:
        pass
    (default,) = guards_to_open()
    assert default is poolguard.guard() is not closed
    assert default.settings.dsn == ONE
    migrations.open()
    migrations.shut()  # as a hook or a lifespan does
    assert migrations in guards_to_open()


def test_the_workplace_is_one_process_alone_unless_told() -> None:
    assert context.current().workplace == Workplace(workers=1, at_once=10, mode=None)
    registry.become(WorkerContext(told=Workplace(workers=4, at_once=1, mode="async")))
    assert Guard(ONE).mode == "async"
    registry.forget_all()
    assert context.current().workplace == Workplace()


@pytest.mark.parametrize(("said", "workers"), [(" 4 ", 4), ("0", 1), ("-2", 1), ("four", 1)])
def test_where_no_server_says_how_many_workers_there_are_the_environment_does(
    monkeypatch: pytest.MonkeyPatch, said: str, workers: int
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", said)
    assert context.current().workplace == Workplace(workers=workers)
    registry.become(WorkerContext(told=Workplace(workers=2)))
    assert context.current().workplace.workers == 2
