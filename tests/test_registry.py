"""The guards of a process: one for each name, and what becomes of the one from the environment."""

from __future__ import annotations

import threading

import psycopg
import pytest

import poolguard
from poolguard import Guard, SettingsError, registry
from poolguard.budget.plan import Workplace
from poolguard.settings import Settings

from .test_guard import backends, named

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


def test_other_settings_for_the_same_name_are_refused() -> None:
    """The error tells the difference, and the way out."""
    Guard(ONE, name="main", floor=3)
    with pytest.raises(SettingsError, match=r"'main' .*floor=3\), not .*floor=4\).* of its own"):
        Guard(ONE, name="main", floor=4)


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
    with pytest.raises(SettingsError, match="exists with other settings"):
        Guard(TWO)


def test_the_workplace_is_one_process_alone_unless_told() -> None:
    assert registry.workplace() == Workplace(workers=1, at_once=10, mode=None)
    registry.set_workplace(Workplace(workers=4, at_once=1, mode="async"))
    assert Guard(ONE).mode == "async"
    registry.forget_all()
    assert registry.workplace() == Workplace()
