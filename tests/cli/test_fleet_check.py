"""``poolguard check`` of a fleet: whether this server, role and way to it can have the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from psycopg.conninfo import make_conninfo

from poolguard.budget.plan import Workplace, make_plan
from poolguard.cli.finding import Finding
from poolguard.cli.fleet_check import FleetFacts, judge_fleet
from poolguard.lab.pgbouncer import PgBouncer
from poolguard.lab.postgres import PrivatePostgres
from poolguard.settings import Settings
from tests.cli.conftest import Run
from tests.cli.fleet import Sessions, line

SEATED = "pools' sessions occupy their slots themselves"
UNSEATED = "so that pools' sessions do not occupy their slots themselves"
FLEET = ("--ledger", "fleet", "--budget", "20", "--workers", "2")


@pytest.fixture(scope="module")
def dsn(postgres: PrivatePostgres) -> str:
    """A role without privileges, in a database in which nobody else is."""
    role = postgres.create_role("inspector")
    with postgres.connect() as admin:
        admin.execute("CREATE DATABASE shop_check")
    return make_conninfo(role, dbname="shop_check")


@pytest.fixture
def fleet(dsn: str) -> Iterator[Sessions]:
    with Sessions(dsn, "inspector@shop_check") as sessions:
        yield sessions


def said(run: Run, *options: str, status: int = 0) -> list[dict[str, str]]:
    """What is said of the fleet."""
    ran = run("check", *options, "--json")
    assert ran.status == status, ran
    return [each for each in json.loads(ran.out)["findings"] if each["topic"] == "fleet"]


def worst(findings: list[dict[str, str]]) -> list[str]:
    return [each["found"] for each in findings if each["level"] != "ok"]


def test_a_server_that_can_have_the_ledger(run: Run, dsn: str) -> None:
    findings = said(run, "--dsn", dsn, *FLEET)
    assert worst(findings) == []
    text = [each["found"] for each in findings]
    assert text[0].startswith("its 40 locks fit into the ")
    assert text[1] == "no host of inspector@shop_check is there yet"
    assert text[2].startswith(SEATED)


def test_the_budget_of_a_fleet(run: Run, dsn: str) -> None:
    ran = run("check", "--dsn", dsn, *FLEET, "--instances", "3", "--floor", "2")
    assert (
        "20 of 97 connections: a host can have 16, 5 if all 3 have the same, and the floors of 3 "
        "hosts fit, a worker keeps 2 warm"
    ) in " ".join(ran.out.split())


def test_hosts_that_are_there(run: Run, dsn: str, fleet: Sessions) -> None:
    fleet.host(line("web-1"), slot=1, leases=(3, 4))
    fleet.host(line("web-2", budget=18), slot=2)
    ran = run("check", "--dsn", dsn, *FLEET, "--json")
    told = json.loads(ran.out)
    assert (told["fleet"]["hosts"], told["fleet"]["budget"]) == (2, 18)
    findings = [each for each in told["findings"] if each["topic"] == "fleet"]
    assert (
        "2 hosts of inspector@shop_check now, with a budget of 18: 2 leased for pools"
        in (findings[1]["found"])
    )
    [disagree] = worst(findings)
    assert disagree.startswith("the hosts disagree on the budget: web-2 goes by 18")
    [others] = [each["found"] for each in told["findings"] if each["topic"] == "others"]
    assert "2 of inspector (poolguard's control session)" in others
    again = worst(said(run, "--dsn", dsn, *FLEET, "--budget", "30"))
    assert again[0].startswith("the hosts that are there go by a budget of 18, and this deployment")


def test_another_application_takes_its_locks(run: Run, dsn: str, fleet: Sessions) -> None:
    other = fleet.open("batch")
    other.execute("SELECT pg_advisory_lock_shared(%s, 0)", (fleet.keys.urgent,))
    [found] = worst(said(run, "--dsn", dsn, *FLEET, status=1))
    assert found.startswith("another application takes the advisory locks by which the hosts lease")
    assert worst(said(run, "--dsn", dsn, *FLEET, "--ledger-label", "other")) == []


def test_a_role_that_may_not_take_locks(run: Run, postgres: PrivatePostgres) -> None:
    """A sandbox keeps these functions back, and often more."""
    role = postgres.create_role("boxed")
    with postgres.connect() as admin:
        admin.execute("CREATE DATABASE sandbox")
    dsn = make_conninfo(role, dbname="sandbox")
    with postgres.connect(dbname="sandbox") as admin:
        admin.execute("REVOKE EXECUTE ON FUNCTION pg_try_advisory_lock(int, int) FROM public")
        admin.execute("REVOKE SELECT ON pg_locks FROM public")
    denied, unseated = said(run, "--dsn", dsn, *FLEET, status=1)[::2]
    assert denied["found"].startswith("boxed may not use pg_try_advisory_lock(int,int), by which")
    assert "GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(int,int) TO boxed;" in denied["remedy"]
    assert "may not call pg_try_advisory_lock" in unseated["found"]
    with postgres.connect(dbname="sandbox") as admin:
        admin.execute("GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(int, int) TO public")
        admin.execute("REVOKE SELECT ON pg_stat_activity FROM public")
    # What else check asks of the server reads this view, too.
    assert "permission denied for view pg_stat_activity" in run("check", "--dsn", dsn, *FLEET).err
    own = make_conninfo(postgres.dsn, dbname="sandbox")
    options = ("--dsn", own, "--ledger-dsn", dsn, "--ledger-label", "boxed")
    [denied, *_] = said(run, *options, *FLEET, status=1)
    assert denied["found"].startswith("boxed may not use pg_stat_activity, by which")
    assert "GRANT SELECT ON pg_stat_activity TO boxed" in denied["remedy"]
    with postgres.connect(dbname="sandbox") as admin:
        admin.execute("GRANT SELECT ON pg_stat_activity TO public")
    [note] = worst(said(run, "--dsn", dsn, *FLEET))
    assert note.startswith("boxed may not read pg_locks")


def test_where_the_ledger_is(run: Run, postgres: PrivatePostgres, dsn: str) -> None:
    """By what the sessions see of each other, and not by words alone."""
    for ledger, why in (
        (make_conninfo(dsn, host="localhost"), "name the same database in different words"),
        (make_conninfo(dsn, dbname="postgres"), "in another database of the same server"),
    ):
        [found] = worst(said(run, "--dsn", dsn, "--ledger-dsn", ledger, *FLEET))
        assert why in found
        assert UNSEATED in found
    assert worst(said(run, "--dsn", dsn, "--ledger-dsn", dsn, *FLEET)) == []
    with PrivatePostgres() as another:
        [found] = worst(said(run, "--dsn", dsn, "--ledger-dsn", another.dsn, *FLEET))
    assert "the ledger is in another server than the pools connect to" in found


def test_the_ledgers_server_is_away(run: Run, dsn: str) -> None:
    ran = run(
        "check", "--dsn", dsn, "--ledger-dsn", "host=127.0.0.1 port=1 password=s3cret", *FLEET
    )
    assert ran.status == 1
    assert ran.err.startswith("poolguard: cannot connect to the database of the fleet's ledger (")
    assert "s3cret" not in ran.err


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_stands_between(
    run: Run, dsn: str, pgbouncer: None, mode: Literal["session", "transaction"]
) -> None:
    """One of sessions is taken for such where that is said; one of transactions never."""
    with PgBouncer(dsn, pool_mode=mode) as bouncer:
        [refused, unseated] = [
            each
            for each in said(run, "--dsn", bouncer.conninfo(), *FLEET, status=1)
            if each["level"] != "ok"
        ]
        assert refused["level"] == "error"
        assert f"a pooler of {mode}s stands before the ledger's database" in refused["found"]
        assert "set ledger_dsn to the database past the pooler" in refused["remedy"]
        assert ("set pooler to 'session'" in refused["remedy"]) == (mode == "session")
        assert "a pooler stands before the pools' database" in unseated["found"]
        declared = ("--pooler", "session", *FLEET)
        levels = [
            each["level"]
            for each in said(
                run, "--dsn", bouncer.conninfo(), *declared, status=int(mode == "transaction")
            )
        ]
        assert ("error" in levels) == (mode == "transaction")
        past = ("--ledger-dsn", dsn, "--pooler", mode)
        [found] = worst(said(run, "--dsn", bouncer.conninfo(), *past, *FLEET))
        assert "a pooler stands before the pools' database" in found


# -- without a server


def facts(**changed: Any) -> FleetFacts:
    values: dict[str, Any] = {
        **{"label": "orders", "role": "app", "database": "shop"},
        **{"standby": False, "locks": 6400, "pooler": "none"},
    }
    return FleetFacts(**(values | changed))


def found(budget: int = 20, **changed: Any) -> list[Finding]:
    plan = make_plan(None, Settings(ledger="fleet", budget=budget), Workplace(2, 4))
    return [each for each in judge_fleet(facts(**changed), plan) if each.level != "ok"]


def test_a_standby_cannot_have_the_ledger() -> None:
    [error] = [each for each in found(standby=True) if each.level == "error"]
    assert "is a standby, which has no locks in common with its primary" in error.found
    assert error.remedy == "set ledger_dsn to a database of the primary, or ledger to 'host'"


def test_locks_that_do_not_fit() -> None:
    [error] = [each for each in found(1601) if each.level == "error"]
    assert "takes 3202 locks" in error.found
    assert error.remedy.startswith("raise max_locks_per_transaction there to 2 times what it is")
    assert [each for each in found(1600) if each.level == "error"] == []


def test_a_pooler_of_an_unknown_kind_is_taken_at_the_word_of_the_settings() -> None:
    errors = [each.found for each in found(pooler=None) if each.level == "error"]
    assert errors[0].startswith("a pooler of a kind that could not be found out stands before")
    assert [each for each in found(pooler=None, pooler_said=True) if each.level == "error"] == []


def test_names_that_lead_elsewhere_than_they_seem_to() -> None:
    notes = [each for each in found(own=False, own_server=False) if each.level == "note"]
    assert (
        "dsn and ledger_dsn name the same database, and lead to different ones" in notes[-1].found
    )


@pytest.mark.long
def test_a_real_standby_has_neither_hosts_nor_locks_to_show(run: Run) -> None:
    """Nobody would be found there, though all hosts are well."""
    with PrivatePostgres() as server:
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        ran = run("status", "--fleet", "--dsn", server.dsn)
        assert (ran.status, ran.out) == (1, "")
        assert "the server is a standby, which has no locks in common with its primary" in ran.err
        [error] = [
            each
            for each in said(run, "--dsn", server.dsn, *FLEET, status=1)
            if each["level"] == "error"
        ]
        assert "the ledger's server is a standby" in error["found"]
