"""What a guard's status says of the fleet: real keepers, whose hosts are folders of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard import Guard
from poolguard.lab.postgres import PrivatePostgres

from ..support import StartPgBouncer, until

Join = Callable[..., Guard]


@pytest.fixture
def join(dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Join]:
    """Opens a guard of a host of its own, in a fleet of the test's own: 12 connections, 9 of which
    are for the pools of two hosts."""
    with ExitStack() as open_ones:

        def joined(host: str, *, wait: float = 10, **settings: Any) -> Guard:
            given = {
                "budget": 12,
                "floor": 2,
                "ledger": "fleet",
                "ledger_label": request.node.name[:40],
                "runtime_dir": tmp_path / host,
                **settings,
            }
            guard = Guard(dsn, name=host, **given)
            open_ones.callback(guard.close)
            guard.open(wait=wait)
            return guard

        yield joined


def fleet(guard: Guard) -> dict[str, Any]:
    found = guard.status()["budget"]["fleet"]
    assert isinstance(found, dict)
    return found


def test_each_host_tells_how_the_fleet_stands(join: Join) -> None:
    """Its board is read at each claim: so the other's connections are seen once one more is used.
    What is the host's own stays so beside it."""
    one, two = join("one"), join("two")
    with ExitStack() as lent:
        for _ in range(4):
            lent.enter_context(two.connection())
        until(lambda: two.status()["budget"]["in_use"] >= 4)
        for _ in range(4):
            lent.enter_context(one.connection())
        until(lambda: fleet(one)["used"] >= 6)
        for guard in (one, two):
            told = fleet(guard)
            assert told.keys() == {
                *("hosts", "budget", "granted", "used", "needed"),
                *("guaranteed", "fair", "unreachable"),
            }
            assert (told["hosts"], told["budget"]) == (2, 12)
            assert (told["guaranteed"], told["fair"]) == (2, 4), "9 for pools: two shares of 4"
            assert told["used"] <= told["granted"] <= 9
            assert told["needed"] <= 2
            assert told["unreachable"] is None
        own = one.status()["budget"]
        assert own["instance"] == 10, "what a host could have alone: 12 - 2"
        assert 4 <= own["in_use"] < own["fleet"]["used"], "this host's"
        json.dumps(one.status())


def test_a_host_that_has_left_counts_no_more(join: Join) -> None:
    one, two = join("one"), join("two")
    until(lambda: fleet(one)["hosts"] == 2)
    two.close()
    until(lambda: fleet(one)["hosts"] == 1)
    assert fleet(one)["fair"] == 10
    assert not any(fleet(two).values()), "it is closed"


def test_a_ledger_out_of_reach_is_told_and_why(
    join: Join, postgres: PrivatePostgres, admin: psycopg.Connection
) -> None:
    """The pool keeps what it has. Nobody can log in as the keeper's role meanwhile."""
    ledger = postgres.create_role("barred_keeper")
    guard = join("one", ledger_dsn=ledger)
    assert fleet(guard)["unreachable"] is None
    admin.execute("ALTER ROLE barred_keeper NOLOGIN")
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'barred_keeper'"
    admin.execute(ended)
    until(lambda: "not permitted to log in" in (fleet(guard)["unreachable"] or ""))
    assert guard.status()["idle"] == 2
    assert fleet(guard)["budget"] == 12, "what was known last"
    admin.execute("ALTER ROLE barred_keeper LOGIN")
    until(lambda: fleet(guard)["unreachable"] is None)


def test_a_pooler_in_between_is_named_as_the_reason(
    join: Join, start_pgbouncer: StartPgBouncer
) -> None:
    """Its sessions are nobody's own, so that nothing is granted."""
    guard = join("one", wait=0, ledger_dsn=start_pgbouncer("transaction").conninfo())
    until(lambda: guard.status()["budget"]["fleet"])  # once there is a ledger
    until(lambda: "set ledger_dsn" in (fleet(guard)["unreachable"] or ""))
    assert (guard.status()["idle"], fleet(guard)["granted"]) == (0, 0)


@pytest.mark.parametrize("ledger", ["host", "static"])
def test_where_there_is_no_fleet_nothing_is_told(dsn: str, ledger: str) -> None:
    guard = Guard(dsn, budget=4, floor=1, ledger=ledger)
    assert guard.status()["budget"]["fleet"] is None, "it is not open"
    assert guard.open(wait=10)
    assert guard.status()["budget"]["fleet"] is None
