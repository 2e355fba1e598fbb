"""``poolguard history --create``, and what is read of the table and said of it: a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard.history.minutes import Demand
from poolguard.history.table import Table
from poolguard.lab.postgres import PrivatePostgres
from tests.cli.conftest import Run
from tests.history.hosts import Host

TABLE = Table("listed", "history")


@pytest.fixture
def admin(postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch, run: Run) -> str:
    """The dsn of who may make the table, which is not there."""
    monkeypatch.setenv("POOLGUARD_HISTORY", f"database:{TABLE}")
    with postgres.connect() as conn:
        conn.execute(f"DROP SCHEMA IF EXISTS {TABLE.schema} CASCADE")
    return postgres.conninfo()


@pytest.fixture(scope="module")
def app(postgres: PrivatePostgres) -> str:
    """The dsn of the workers' role."""
    return postgres.create_role("listed_app")


@pytest.fixture
def told(admin: str, app: str, run: Run, tmp_path: Path) -> None:
    """A host has told of the last two hours."""
    assert run("history", "--create", "--role", "listed_app", "--dsn", admin).status == 0
    host = Host(tmp_path / "host", TABLE)
    last = int(host.now // 60) - 3
    for minute in range(last - 119, last + 1):
        host.record(minute, Demand(7, 7, 0, 0, 3))
    with psycopg.connect(app, autocommit=True) as conn:
        host.ask(conn)
    host.memory.close()


def finding(run: Run, dsn: str) -> dict[str, Any]:
    ran = run("check", "--json", "--workers", "2", "--dsn", dsn)
    assert ran.err == ""
    [found] = [each for each in json.loads(ran.out)["findings"] if each["topic"] == "history"]
    return dict(found)


def test_it_makes_the_table_once(run: Run, admin: str) -> None:
    ran = run("history", "--create", "--dsn", admin)
    assert ran.out.startswith(
        'made: the table listed.history. Workers use it with history="database:listed.history"\n'
    )
    again = run("history", "--create", "--dsn", admin)
    assert (again.status, again.out.splitlines()[0]) == (0, "the table listed.history is there")


def test_who_owns_the_schema_need_not_be_able_to_make_one(
    run: Run, admin: str, app: str, postgres: PrivatePostgres
) -> None:
    with postgres.connect() as conn:
        conn.execute(f"CREATE SCHEMA {TABLE.schema} AUTHORIZATION listed_app")
    assert run("history", "--create", "--dsn", app).status == 0
    assert finding(run, app)["level"] == "ok"


def test_who_may_not_make_it_is_shown_the_sql(
    run: Run, admin: str, app: str, postgres: PrivatePostgres
) -> None:
    """It is what makes the table, and lets the role that was to make it use it."""
    ran = run("history", "--create", "--dsn", app)
    assert ran.status == 1
    assert "listed_app may not make the table listed.history: have one who may run" in ran.err
    with postgres.connect() as conn:
        conn.execute(ran.out.encode())
    assert finding(run, app)["level"] == "ok"


def test_the_sql_alone_needs_no_server(run: Run, admin: str, postgres: PrivatePostgres) -> None:
    ran = run("history", "--create", "--sql", "--role", "Odd Role", "--dsn", "host=nowhere.invalid")
    assert (ran.status, ran.err) == (0, "")
    assert 'TO "Odd Role";' in ran.out
    unnamed = run("history", "--create", "--sql", "--dsn", "postgresql://shop@nowhere.invalid/x")
    assert "TO shop;" in unnamed.out
    with postgres.connect() as conn:
        conn.execute('DROP ROLE IF EXISTS "Odd Role"; CREATE ROLE "Odd Role"')
        conn.execute(ran.out.encode())
        conn.rollback()


def test_check_says_what_is_missing(run: Run, admin: str, app: str) -> None:
    missing = finding(run, app)
    assert missing["found"].startswith("there is no table listed.history")
    assert (missing["level"], missing["remedy"]) == ("warning", "run poolguard history --create")
    run("history", "--create", "--dsn", admin)
    denied = finding(run, app)
    assert denied["found"].startswith("listed_app lacks SELECT, INSERT, UPDATE, DELETE on")
    with psycopg.connect(admin) as conn:
        conn.execute(denied["remedy"].removeprefix("as its owner: ").encode())
    assert finding(run, app) == {
        "level": "ok",
        "topic": "history",
        "found": "all hosts learn from the table listed.history, as listed_app",
        "remedy": "",
    }


def test_check_says_nothing_of_it_where_it_is_not_wanted(
    run: Run, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POOLGUARD_HISTORY")
    assert "poolguard history" not in run("check", "--dsn", admin).out


def test_it_draws_what_all_hosts_have_recorded(run: Run, told: None, app: str) -> None:
    ran = run("history", "--database", "--dsn", app)
    assert (ran.status, ran.err) == (0, "")
    assert "floor 7 would have covered 100 %" in ran.out


def test_plan_takes_its_numbers_from_there(run: Run, told: None, app: str) -> None:
    ran = run("plan", "--history", "--database", "--workers", "2", "--json", "--dsn", app)
    [learned] = json.loads(ran.out)["history"]
    assert (learned["guard"], learned["numbers"]["floor"]) == ("default", 7)


def test_what_is_not_there_is_one_error(run: Run, admin: str, app: str) -> None:
    assert "there is no table listed.history" in run("history", "--database", "--dsn", app).err
    run("history", "--create", "--dsn", admin)
    assert "may not read the table" in run("history", "--database", "--dsn", app).err
    nothing = run("history", "--database", "--dsn", admin)
    assert "nothing is recorded of postgres in the table listed.history" in nothing.err


def test_a_guard_of_another_name_is_refused(run: Run, told: None, app: str) -> None:
    ran = run("history", "--database", "--guard", "x", "--dsn", app)
    assert "no guard x has a history in the table listed.history: --guard may be one" in ran.err


@pytest.mark.parametrize("option", [("--sql",), ("--role", "x"), ("--dsn", "x")])
def test_options_that_mean_nothing_alone(run: Run, option: tuple[str, ...]) -> None:
    ran = run("history", *option)
    assert ran.status == 2
    assert f"{option[0]} says" in ran.err


def test_a_host_that_has_recorded_nothing_is_told_where_all_is(run: Run, admin: str) -> None:
    assert "--database reads what all hosts have recorded" in run("history").err
