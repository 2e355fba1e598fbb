"""A server that grants less than it did, or has given to others what the plan counted on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolguard import Guard
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.errors import PoolTimeout

from ..support import until

LIMIT = 8
NAME = "held_to_8"


@pytest.fixture
def role(postgres: PrivatePostgres, admin: psycopg.Connection) -> Iterator[str]:
    """The way of a role that is held to 8 connections."""
    yield postgres.create_role(NAME, connection_limit=LIMIT)
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    until(lambda: admin.execute(query, [NAME]).fetchone() == (0,))
    admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(NAME)))


@pytest.fixture
def limit(admin: psycopg.Connection) -> Callable[[int], None]:
    """Sets what the server grants the role."""

    def limit(n: int) -> None:
        query = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}")
        admin.execute(query.format(sql.Identifier(NAME), sql.Literal(n)))

    admin.autocommit = True
    return limit


Others = Callable[[str, int], "ExitStack"]


@pytest.fixture
def cron(admin: psycopg.Connection) -> Callable[[str, int], ExitStack]:
    """Takes so many connections for others; when that is closed, the server has them back."""

    def cron(role: str, n: int) -> ExitStack:
        stack = ExitStack()
        stack.callback(lambda: until(lambda: admin.execute(query).fetchone() == (0,)))
        for _ in range(n):
            stack.enter_context(psycopg.connect(role, application_name="cron"))
        return stack

    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cron'"
    admin.autocommit = True
    return cron


def have(guard: Guard) -> int:
    status = guard.status()
    return int(status["idle"] + status["used"])


def test_while_others_hold_what_the_plan_counts_on_it_is_said_and_then_taken(
    role: str, cron: Others, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"workers": 1, "floor": 2, "reserve": 0, "acquire_timeout": 1.5}
    with Guard(role, **settings) as guard, cron(role, LIMIT - 2) as others, ExitStack() as lent:
        assert guard.status()["max_size"] == LIMIT
        for _ in range(2):
            lent.enter_context(guard.connection())
        with pytest.raises(PoolTimeout, match=r"has no room for more.*too many connections"):
            guard.connection().__enter__()
        until(lambda: have(guard) == 2)
        lent.close()  # one that comes back asks the server
        until(lambda: guard.status()["budget"]["others"])
        told = guard.status()["budget"]["others"]
        assert {"role": NAME, "application": "cron", "connections": LIMIT - 2} in told
        until(lambda: f"{LIMIT - 2} of {NAME} (cron)" in caplog.text)
        refused = [each for each in caplog.messages if "error connecting" in each]
        assert len(refused) <= 3
        others.close()
        guard.pool.inquire_after(0.0)
        until(lambda: not guard.status()["budget"]["others"])
        for _ in range(4):
            lent.enter_context(guard.connection())
        assert guard.status()["last_error"] is None


def test_with_all_connections_in_use_it_is_tried_whether_there_is_room_again(
    role: str, cron: Others
) -> None:
    with (
        Guard(role, workers=1, floor=2, reserve=0) as guard,
        cron(role, LIMIT - 2) as others,
        guard.connection(),
        guard.connection(),
    ):
        with pytest.raises(PoolTimeout, match="has no room"):
            guard.connection(timeout=0.3).__enter__()
        others.close()
        with guard.connection(timeout=10) as conn:  # none is free to ask the server
            conn.execute("SELECT 1")


@pytest.mark.parametrize("budget", [{"reserve": 0}, {"budget": LIMIT}])
def test_a_sibling_gives_up_idle_ones_for_one_whom_the_server_has_no_room_for(
    role: str, cron: Others, budget: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Though they are its floor: of what the two can have, each has its share."""
    settings: dict[str, Any] = {"workers": 2, "floor": 4, **budget}
    with Guard(role, name="old", **settings) as old, cron(role, LIMIT - 4) as others:
        assert have(old) == 4
        with Guard(role, name="new", **settings) as new:
            until(lambda: have(new) == have(old) == 2)
            assert old.ready
            assert new.ready
            with new.connection() as conn:
                conn.execute("SELECT 1")
            others.close()
            for each in (old, new):
                each.pool.inquire_after(0.0)
            until(lambda: have(new) == have(old) == 4, within=20)
    assert "the smaller rules" not in caplog.text


def test_what_siblings_with_a_ledger_of_their_own_hold_does_not_lower_the_share(role: str) -> None:
    """What they hold is counted nowhere, but it is no others'."""
    settings: dict[str, Any] = {"workers": 2, "floor": 4, "reserve": 0, "ledger": "static"}
    with Guard(role, name="old", **settings) as old, Guard(role, name="new", **settings) as new:
        until(lambda: have(old) == have(new) == 4)


def test_behind_a_pooler_siblings_help_too(
    role: str, cron: Others, caplog: pytest.LogCaptureFixture
) -> None:
    """What it grants can only be found out by trying."""
    settings: dict[str, Any] = {"workers": 2, "floor": 4, "budget": 10, "pooler": "transaction"}
    with Guard(role, name="old", **settings) as old, cron(role, LIMIT - 4):
        assert have(old) == 4
        with Guard(role, name="new", **settings) as new:
            until(lambda: have(new) and new.ready and have(old), within=5)
    assert "the smaller rules" not in caplog.text


def test_a_service_that_runs_goes_on_with_less_than_its_settings_need(
    role: str, limit: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with Guard(role, workers=4, floor=1) as guard:
        assert guard.plan is not None
        assert (guard.plan.capacity, guard.plan.instance, guard.plan.short) == (LIMIT, 5, False)
        limit(3)
        with guard.connection() as conn:
            conn.close()
        until(lambda: guard.plan is not None and guard.plan.capacity in (3, LIMIT))
        guard.pool.inquire_after(0.0)
        until(lambda: guard.plan is not None and guard.plan.short)
        assert guard.plan.instance == 3
        assert "goes on with 3 connections for 4 workers" in caplog.text
        with guard.connection() as conn:
            conn.execute("SELECT 1")
        limit(LIMIT)
        guard.pool.inquire_after(0.0)
        until(lambda: guard.plan is not None and guard.plan.instance == 5)
