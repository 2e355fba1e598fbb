"""When a guard greets a connection: as it comes, or afterwards where a request waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard import Guard
from poolguard.lab.postgres import PrivatePostgres
from poolguard.runtime import greeting
from tests.support import until

from .test_async import eventually

SOUGHT = "pg_db_role_setting"
"""What the whole greeting asks for, and a brief one does not."""

Over = Callable[[Any], str]


@pytest.fixture(params=["address", "socket"])
def way(request: pytest.FixtureRequest, postgres: PrivatePostgres) -> str:
    """How the server is reached: what a session is told differs."""
    if request.param == "address":
        return postgres.conninfo(host="127.0.0.1")
    return postgres.conninfo(host=str(postgres.folder))


@pytest.fixture
def over(admin: psycopg.Connection[Any]) -> Over:
    """What the server has last been asked over a connection; empty where it was nothing."""
    admin.autocommit = True
    query = "SELECT query FROM pg_stat_activity WHERE pid = %s"

    def ask(conn: Any) -> str:
        [[text]] = admin.execute(query, [conn.info.backend_pid]).fetchall()
        return str(text)

    return ask


def test_one_that_is_waited_for_is_greeted_once_it_is_idle(way: str, over: Over) -> None:
    with Guard(way, budget=4, floor=1) as guard:
        with guard.connection() as first, guard.connection() as second:
            assert SOUGHT in over(first)
            assert over(second) == ""
        until(lambda: SOUGHT in over(second))


def test_one_that_nobody_waits_for_is_greeted_as_it_comes(dsn: str, over: Over) -> None:
    """Briefly, since the first has found out the rest."""
    with Guard(dsn, budget=4, floor=1) as guard:
        pool = guard.pool
        pool.resize(2, 4)
        until(lambda: guard.status()["idle"] == 2)
        with guard.connection(), guard.connection() as second:
            assert "pg_backend_pid" in over(second)
            assert SOUGHT not in over(second)


def test_so_is_one_of_an_event_loop(way: str, over: Over) -> None:
    async def run() -> None:
        async with Guard(way, budget=4, floor=1, mode="async") as guard:
            async with guard.aconnection() as first, guard.aconnection() as second:
                assert SOUGHT in over(first)
                assert over(second) == ""
            await eventually(lambda: SOUGHT in over(second))

    asyncio.run(run())


def test_what_holds_for_one_is_not_taken_to_hold_for_ever(
    dsn: str, over: Over, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting, "FAMILIAR", 0.0)
    with Guard(dsn, budget=4, floor=1) as guard, guard.connection(), guard.connection() as second:
        assert SOUGHT in over(second)


def test_where_the_operator_has_a_say_each_is_greeted_as_it_comes(
    postgres: PrivatePostgres, over: Over
) -> None:
    """The options that each begins with have overruled what was set for the role."""
    role = postgres.create_role("overruled")
    with postgres.connect() as admin:
        admin.execute("ALTER ROLE overruled SET tcp_keepalives_idle = '15s'")
    with Guard(role, budget=4, floor=1) as guard, guard.connection(), guard.connection() as second:
        assert SOUGHT in over(second)


def test_who_takes_a_seat_in_a_fleet_is_greeted_briefly(
    dsn: str, over: Over, tmp_path: Path
) -> None:
    """It may not be used before it has the lock of its slot."""
    fleet: Any = {"ledger": "fleet", "runtime_dir": str(tmp_path), "ledger_label": "brief"}
    with (
        Guard(dsn, budget=6, floor=1, **fleet) as guard,
        guard.connection() as first,
        guard.connection() as second,
    ):
        assert SOUGHT in over(first)
        assert "pg_backend_pid" in over(second)
        assert SOUGHT not in over(second)
