"""A guard when things go wrong: the database, the settings, the telemetry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from psycopg.conninfo import make_conninfo

from poolguard import (
    Guard,
    ModeError,
    PoolguardError,
    SettingsError,
    aconnection,
    guard,
)
from poolguard.budget.plan import Plan
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import PoolClosed, PoolTimeout
from poolguard.runtime import sizing
from poolguard.runtime.lookup import guards_to_open
from poolguard.runtime.status import not_warm
from poolguard.telemetry.spans import SpanListener
from poolguard.worker import registry

from ..support import until
from .test_guard import SMALL


@pytest.fixture
def proxy(postgres: PrivatePostgres) -> Iterator[SlowProxy]:
    """A way to the server that a test may cut."""
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0.0) as own:
        yield own


# -- a database that is away -------------------------------------------------------------------


def test_it_opens_without_its_database_and_serves_when_that_comes(
    postgres: PrivatePostgres, proxy: SlowProxy
) -> None:
    proxy.refuse()
    guard = Guard(postgres.conninfo(port=proxy.port), **SMALL)
    assert not guard.open(wait=0.1)
    assert not guard.ready
    until(lambda: guard.status()["last_error"])
    with pytest.raises(PoolTimeout, match=r"Connecting fails: .*[Cc]onnection refused"):
        guard.connection(timeout=0.1).__enter__()
    assert "Connection refused" in not_warm(guard.status(), 1)
    proxy.resume()
    until(lambda: guard.ready)
    with guard.connection() as conn:
        conn.execute("SELECT 1")
    assert guard.status()["last_error"] is None


def test_it_is_not_ready_while_it_has_lost_every_connection(
    postgres: PrivatePostgres, proxy: SlowProxy
) -> None:
    guard = Guard(postgres.conninfo(port=proxy.port), **SMALL)
    assert guard.open(wait=10)
    proxy.refuse()
    proxy.reset_all()
    until(lambda: not guard.ready)
    proxy.resume()
    until(lambda: guard.ready)


# -- settings that cannot work -----------------------------------------------------------------


def test_what_made_opening_impossible_is_raised_at_each_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard("postgresql://localhost:notaport/x", **SMALL)
    with pytest.raises(SettingsError) as first:
        guard.open(wait=10)
    with pytest.raises(SettingsError) as second:
        guard.connection()
    assert first.value is not second.value
    assert str(first.value) == str(second.value) == guard.status()["last_error"]
    assert repr(guard).startswith("<Guard 'default' broken ")
    assert caplog.records == []  # who was told will say it


def test_an_unforeseen_failure_is_logged_with_its_traceback(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **named: object) -> Plan:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(sizing, "make_plan", fail)
    guard = Guard(dsn, **SMALL)
    with pytest.raises(PoolguardError, match="cannot open: RuntimeError"):
        guard.open(wait=10)
    assert "Traceback" in caplog.text


def test_a_process_without_a_thread_to_spare_may_try_again(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for an opening that has not begun."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    guard = Guard(dsn, **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            guard.open()
    with pytest.raises(PoolClosed):
        guard.connection()
    assert guard.open(wait=10)


def test_a_sync_guard_refuses_async_use(dsn: str) -> None:
    """The first use decides where the settings do not; the coroutine is made, never awaited."""
    guard = Guard(dsn, **SMALL)
    guard.open()
    assert guard.mode == "sync"
    with pytest.raises(ModeError, match="'default' is sync here"):
        guard.aconnection()
    with pytest.raises(ModeError):
        guard.aopen().send(None)


def test_an_async_guard_refuses_sync_use(dsn: str) -> None:
    guard = Guard(dsn, mode="async", **SMALL)
    for use in (guard.open, guard.connection):
        with pytest.raises(ModeError, match="'default' is async here"):
            use()
    with pytest.raises(PoolClosed, match=r"await guard\.aopen"):
        _ = guard.pool


@pytest.mark.parametrize("says", ["same", "nothing"])
def test_a_guard_of_another_name_is_why_the_default_one_was_not_open(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, says: str
) -> None:
    """The hooks and the lifespan were there, and have opened that one."""
    if says == "same":
        monkeypatch.setenv("DATABASE_URL", dsn)
    else:
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", "1")  # nobody answers there
    Guard(dsn, name="app", mode="sync")
    assert [each.name for each in guards_to_open()] == ["app"]
    registry.serve(None)

    async def acquire() -> None:
        with suppress(PoolTimeout):
            async with aconnection(0.01):
                pass
        await guard().aclose()

    asyncio.run(acquire())
    [said] = [each.getMessage() for each in caplog.records if "first request" in each.getMessage()]
    assert "no lifespan" not in said
    assert said.endswith(
        "'app' (sync) is for the same database, and is opened in its place. poolguard.guard('app') "
        "is that one"
        if says == "same"
        else "the environment names no database, and the application has made none of that name. "
        "poolguard.guard('app') is one that it has made"
    )


# -- a callable for the conninfo ---------------------------------------------------------------


def test_a_callable_is_asked_at_each_connect(dsn: str) -> None:
    asked: list[int] = []

    def rotating() -> str:
        asked.append(1)
        return dsn

    guard = Guard(rotating, **SMALL)
    assert not asked
    assert guard.open(wait=10)
    assert len(asked) == 2


def test_a_callable_may_be_wrong_for_a_while(dsn: str) -> None:
    """As where the new password is known before the server has it."""
    answers = iter(["postgresql://u:p@ss@localhost/x", make_conninfo(dsn, password="stale")])
    guard = Guard(lambda: next(answers, dsn), budget=1, floor=1)
    failures = set()

    def ready() -> bool:
        failures.add(str(guard.status()["last_error"]))
        return guard.ready

    guard.open()
    until(ready)
    assert any("libpq cannot read it" in failure for failure in failures)
    assert any("password authentication failed" in failure for failure in failures)
    assert not any("ss@localhost" in failure for failure in failures)


# -- telemetry that breaks ----------------------------------------------------------------------


def test_a_listener_that_fails_costs_no_connection(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Telemetry that breaks must neither fail a request nor keep what it has acquired."""

    def fail(*_: object) -> None:
        raise RuntimeError("no exporter")

    monkeypatch.setattr(SpanListener, "acquire_ended", fail)
    guard = Guard(dsn, budget=1, floor=1, spans="all")  # else nobody is told of a free one
    guard.open(wait=10)
    for _ in range(3):
        with guard.connection(timeout=1) as conn:
            conn.execute("SELECT 1")
    assert guard.status()["idle"] == 1
    assert "a listener failed" in caplog.text
