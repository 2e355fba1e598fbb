"""What adapters stand on: guards that workers make, one that is adopted, readied, forgotten."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from time import monotonic as clock
from typing import Any
from weakref import ref

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

import poolguard
from poolguard import Guard, PoolguardError, SettingsError
from poolguard.runtime import warmup
from poolguard.runtime.adoption import guard_for, in_each_worker
from poolguard.runtime.lookup import guards, guards_to_open
from poolguard.util.logs import logger
from poolguard.worker import registry
from poolguard.worker.context import WorkerContext

from .test_guard import SMALL, backends, named


@pytest.fixture
def worker() -> Iterator[None]:
    """This process is a worker of gunicorn's."""
    registry.become(WorkerContext(role="worker", worker_class="gthread"))
    yield
    for guard in guards():
        guard.shut()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, dsn: str) -> str:
    """The environment names the database, and a plan that asks no server."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"POOLGUARD_{name.upper()}", str(value))
    return dsn


def connect_of(dsn: str, **more: Any) -> dict[str, Any]:
    """What a framework gives to ``psycopg.connect`` for that database."""
    return {**conninfo_to_dict(dsn), **more}


# -- which process makes them ------------------------------------------------------------------


def test_a_process_knows_what_it_is_to_gunicorn_and_its_children_are_something_else() -> None:
    assert poolguard.role() is None
    registry.become(WorkerContext(role="worker"))
    assert poolguard.role() == "worker"
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, repr(poolguard.role()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"None"
    os.close(read)
    os.close(write)


def test_outside_of_gunicorn_nothing_is_made(dsn: str) -> None:
    in_each_worker(lambda: [Guard(dsn, mode="sync", **SMALL)])
    assert guards() == []


def test_a_worker_makes_them_at_once_and_begins_to_connect(dsn: str, worker: None) -> None:
    """While it goes on importing. An async one opens in the lifespan."""
    made = [Guard(dsn, mode="sync", **SMALL), Guard(dsn, name="other", mode="async", **SMALL)]
    in_each_worker(lambda: made)
    assert [each.opened for each in made] == [True, False]


def test_what_a_master_has_imported_makes_them_in_the_worker_that_it_forks(dsn: str) -> None:
    """Each of them, before the hooks look which guards there are to open."""
    registry.become(WorkerContext(role="master"))
    in_each_worker(lambda: [Guard(dsn, name="preloaded", mode="sync", **SMALL)])
    assert guards() == []
    for _ in range(2):
        registry.become(WorkerContext(role="worker"))
        assert [each.name for each in guards_to_open()] == ["preloaded"]
        assert not guards()[0].opened


class Engine:
    """What an adapter's framework makes, and may throw away."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def guards(self) -> list[Guard]:
        return [Guard(self._dsn, name="of an engine", mode="sync", **SMALL)]


def test_what_is_gone_before_the_fork_makes_nothing_and_is_not_kept(dsn: str) -> None:
    """A test may make an engine, or an application, a thousand times."""
    registry.become(WorkerContext(role="master"))
    stays = Engine(dsn)
    in_each_worker(stays.guards)
    for _ in range(3):
        gone = Engine(dsn)
        in_each_worker(gone.guards)
        known = ref(gone)
        del gone
        assert known() is None
    assert len(registry._jobs) <= 2  # the last is forgotten with the next
    registry.become(WorkerContext(role="worker"))
    assert [each.name for each in guards()] == ["of an engine"]


def test_a_gunicorn_without_the_hooks_is_told_of_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> list[Guard]:
        return [Guard(dsn, mode="sync", **SMALL)]

    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)
    in_each_worker(make)
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", sys)
    for role in ("master", "worker", None, None):
        found = WorkerContext() if role is None else WorkerContext(role=role)
        if role != poolguard.role():
            registry.become(found)
        in_each_worker(make)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "hooks" in line] == said[-1:]
    assert "from poolguard.gunicorn import *" in said[-1]


def refuse() -> list[Guard]:
    raise SettingsError("DATABASES['default']: wrong")


def test_what_an_adapter_refuses_the_hooks_raise_and_not_the_import(worker: None) -> None:
    in_each_worker(refuse)
    with pytest.raises(SettingsError, match="DATABASES"):
        guards_to_open()


def test_what_it_refuses_in_a_forked_worker_is_raised_there() -> None:
    in_each_worker(refuse)
    registry.become(WorkerContext(role="worker"))
    with pytest.raises(SettingsError, match="DATABASES"):
        guards_to_open()


# -- which guard a database gets ---------------------------------------------------------------


def test_the_open_guard_of_the_environment_is_gone_on_with(
    small: str, worker: None, admin: psycopg.Connection
) -> None:
    """Its warm connections stay. Those that come later are made as the adapter says."""
    environments = poolguard.guard()
    assert environments.open(10)
    count = "SELECT pid FROM pg_stat_activity WHERE application_name = 'poolguard'"
    before = admin.execute(count).fetchall()
    configured: list[Any] = []
    connect = connect_of(small, row_factory=dict_row, client_encoding="UTF8")
    found = guard_for(connect, kind="sync", name="default", configure=configured.append)
    assert found == (environments, True)
    assert admin.execute(count).fetchall() == before
    assert configured == []
    pool: Any = environments.pool
    pool.resize(3, 4)
    pool.wait(10)
    conns = [pool.getconn() for _ in range(3)]
    assert sum(conn.row_factory is dict_row for conn in conns) == len(configured) == 1
    for conn in conns:
        pool.putconn(conn)
    assert not environments.from_environment


@pytest.mark.parametrize(
    ("more", "settings"),
    [
        ({"dbname": "template1"}, {}),
        ({"user": "somebody"}, {}),
        ({"password": "another"}, {}),
        ({"options": "-c statement_timeout=1000"}, {}),
        ({}, {"floor": 1}),
    ],
)
def test_for_another_place_or_with_settings_it_is_a_guard_of_its_own(
    small: str, worker: None, more: dict[str, Any], settings: dict[str, Any]
) -> None:
    environments = poolguard.guard()
    assert environments.open(10)
    found, adopted = guard_for(
        connect_of(small, **more), kind="sync", name="other", settings=settings
    )
    assert not adopted
    assert found is not environments
    assert environments.opened
    assert environments.from_environment


def test_with_the_same_name_it_takes_the_place_of_the_environments(
    small: str, worker: None
) -> None:
    environments = poolguard.guard()
    assert environments.open(10)
    found, adopted = guard_for(
        connect_of(small), kind="sync", name="default", settings={"floor": 1, "budget": 5}
    )
    assert not adopted
    assert not environments.opened
    assert poolguard.guard() is found
    assert found.settings.floor == 1


def test_one_that_is_not_open_is_replaced_where_nothing_is_lost(small: str, worker: None) -> None:
    environments = poolguard.guard()
    found, adopted = guard_for(connect_of(small), kind="sync", name="default")
    assert (adopted, found is environments, poolguard.guard()) == (False, False, found)


# -- what is done with a warm pool -------------------------------------------------------------


def test_a_warm_pool_is_readied_before_the_worker_serves(dsn: str) -> None:
    """In a thread: what it does may take long, or never end."""
    done: list[str] = []
    guard = Guard(dsn, **SMALL)
    guard.when_warm += [
        lambda: done.append(threading.current_thread().name),
        lambda: done.append("next"),
    ]
    guard.open()
    warmup.wait_warm(guard, clock(), lambda: False, logger)
    guard.close()
    assert done == ["poolguard-default-ready", "next"]


def test_what_does_not_end_in_time_is_waited_for_no_longer(dsn: str) -> None:
    released, ended = threading.Event(), threading.Event()

    def job() -> None:
        released.wait(30)
        ended.set()

    guard = Guard(dsn, warmup_timeout=0.3, **SMALL)
    guard.when_warm.append(job)
    assert guard.open(10)
    warmup.wait_warm(guard, clock(), lambda: False, logger)
    assert not ended.is_set()
    released.set()
    assert ended.wait(10)
    guard.close()


def test_what_fails_then_is_said_and_stops_nothing(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    guard = Guard(dsn, **SMALL)
    guard.when_warm += [lambda: 1 / 0, lambda: done.append("next")]
    guard.open()
    warmup.wait_warm(guard, clock(), lambda: False, logger)
    guard.close()
    assert done == ["next"]
    assert "ZeroDivisionError: division by zero" in caplog.text


def test_an_async_pool_is_readied_on_its_loop(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    done: list[object] = []

    async def job() -> None:
        await asyncio.sleep(0)
        done.append(asyncio.get_running_loop())

    async def fails() -> None:
        raise ValueError("no")

    async def main() -> None:
        guard = Guard(dsn, mode="async", **SMALL)
        guard.when_warm += [fails, job]
        await guard.aopen()
        await warmup.await_warm(guard, clock(), lambda: False, logger, asyncio.sleep)
        await guard.aclose()
        assert done == [asyncio.get_running_loop()]

    asyncio.run(main())
    assert "ValueError: no" in caplog.text


# -- forgetting --------------------------------------------------------------------------------


def test_a_guard_that_is_forgotten_is_closed_and_its_name_is_free(
    dsn: str, admin: psycopg.Connection
) -> None:
    guard = Guard(named(dsn, "forgotten"), name="one", **SMALL)
    assert guard.open(10)
    poolguard.forget(guard)
    assert not guard.opened
    assert backends(admin, "forgotten") == 0
    assert guards() == []
    with pytest.raises(SettingsError, match="no guard named 'one'"):
        poolguard.guard("one")
    other = Guard(dsn, name="one", budget=5, floor=1)
    poolguard.forget(guard)  # again, which is not for the one that has its name now
    assert poolguard.guard("one") is other


def test_an_async_one_is_closed_first(dsn: str) -> None:
    async def main() -> None:
        guard = Guard(dsn, mode="async", **SMALL)
        await guard.aopen(10)
        with pytest.raises(PoolguardError, match=r"await guard\.aclose"):
            poolguard.forget(guard)
        assert guard.opened
        await guard.aclose()
        poolguard.forget(guard)
        assert guards() == []

    asyncio.run(main())
