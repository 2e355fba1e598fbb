"""``poolguard check`` against real servers: what it finds, its exit status, what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from poolguard.cli import database
from poolguard.lab.binaries import find_all
from poolguard.lab.pgbouncer import PgBouncer
from poolguard.lab.postgres import PrivatePostgres
from tests.cli.conftest import Run, elsewhere
from tests.support import HOSTILE, obeyed

KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


@pytest.fixture(scope="module")
def app(postgres: PrivatePostgres) -> str:
    """A role of its own, set up as the remedies say."""
    conninfo = postgres.create_role("shop", connection_limit=40)
    with postgres.connect() as admin:
        for name, value in (
            ("client_connection_check_interval", "1s"),
            ("tcp_keepalives_idle", "60"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "6"),
        ):
            statement = sql.SQL("ALTER ROLE shop SET {} = {}")
            admin.execute(statement.format(sql.Identifier(name), sql.Literal(value)))
    return make_conninfo(conninfo, **KEEPALIVES)


@pytest.fixture
def pooled(app: str, pgbouncer: None) -> Iterator[str]:
    """The way through a pooler of transactions."""
    with PgBouncer(app, pool_mode="transaction") as bouncer:
        yield bouncer.conninfo()


def levels(told: dict[str, Any]) -> dict[str, str]:
    """The worst of each topic."""
    order = ("ok", "note", "warning", "error")
    worst: dict[str, str] = {}
    for finding in told["findings"]:
        topic, level = finding["topic"], finding["level"]
        worst[topic] = max(worst.get(topic, "ok"), level, key=order.index)
    return worst


def test_a_role_set_up_as_the_remedies_say(run: Run, app: str) -> None:
    """Nothing but ok, also when warnings count."""
    ran = run("check", "--dsn", app, "--workers", "4", "--strict")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "database postgres as role shop"
    assert all(line.startswith(("ok  ", " ")) for line in lines[2:-2])
    assert "ok  budget      36 of 40 connections: an instance gets 36, a worker keeps 4" in ran.out
    assert lines[-1] == "0 errors, 0 warnings, 0 notes"
    assert "\x1b" not in ran.out


def test_a_superuser_at_the_servers_defaults(run: Run, postgres: PrivatePostgres) -> None:
    """Warnings, which fail only where they are to."""
    ran = run("check", "--dsn", postgres.dsn, "--workers", "4", "--json")
    told = json.loads(ran.out)
    assert ran.status == 0
    assert (told["errors"], told["warnings"]) == (0, 1)
    assert levels(told) == {
        "version": "ok",
        "pooler": "ok",
        "budget": "ok",
        "others": "ok",
        "role": "warning",
        "orphans": "note",
        "keepalives": "note",
    }
    assert told["capacity"]["superuser"] is True
    assert told["plan"]["budget"] == 90
    assert run("check", "--dsn", postgres.dsn, "--workers", "4", "--strict").status == 1


def test_a_budget_that_is_not_there(run: Run, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLGUARD_BUDGET", "41")
    monkeypatch.setenv("POOLGUARD_DSN", app)
    ran = run("check")
    assert ran.status == 1
    text = " ".join(ran.out.split())
    assert "variable POOLGUARD_BUDGET=41 is more than the 40 that the server grants" in text
    assert "→ lower budget, or raise what the server grants" in text
    assert "1 error, 0 warnings, 0 notes" in text


def test_the_worker_class_counts_once_it_is_named(run: Run, app: str) -> None:
    """Eight threads and room for four is a warning; without their number nobody can know."""
    options = ("check", "--dsn", app, "--workers", "4", "--max-size", "4")
    assert run(*options, "--strict").status == 0
    ran = run(*options, "--threads", "8", "--strict")
    assert ran.status == 1
    assert "a worker handles 8 requests at once but holds at most 4" in ran.out


def test_others_on_the_server(run: Run, app: str, postgres: PrivatePostgres) -> None:
    """Whatever they call themselves, it does nothing to the terminal."""
    evil = postgres.create_role("evil\x1b[2J")
    with psycopg.connect(evil, application_name=""), postgres.connect(application_name="psql"):
        told = json.loads(run("check", "--dsn", app, "--json").out)
        [others] = [each["found"] for each in told["findings"] if each["topic"] == "others"]
        assert "\x1b" not in run("check", "--dsn", app).out
    assert others.startswith(
        "2 other connections on the server now (1 of evil\\x1b[2J, 1 of postgres"
    )
    assert "1 of postgres (psql)" in others


@pytest.mark.parametrize("command", [("check",), ("check", "--json"), ("plan",)])
def test_what_a_server_says_is_one_line(
    run: Run, postgres: PrivatePostgres, command: tuple[str, ...]
) -> None:
    """It repeats the name of a database that it has not, as it is."""
    ran = run(*command, "--dsn", postgres.conninfo(dbname=HOSTILE))
    assert (ran.status, ran.out) == (1, "")
    assert "forged" in ran.err
    assert (obeyed(ran.err), ran.err.count("\n")) == ([], 1)


def test_a_unix_socket(run: Run, app: str, postgres: PrivatePostgres) -> None:
    ran = run("check", "--dsn", make_conninfo(app, host=str(postgres.folder)), "--strict")
    assert ran.status == 0
    assert "a Unix socket needs none" in ran.out


def test_keepalives_switched_off(run: Run, app: str) -> None:
    ran = run("check", "--dsn", make_conninfo(app, keepalives=0))
    assert "warning  keepalives  the dsn switches keepalives off" in ran.out


def test_a_pooler(run: Run, pooled: str) -> None:
    """It is seen, and an automatic budget is an error there."""
    ran = run("check", "--dsn", pooled, "--json")
    told = json.loads(ran.out)
    assert ran.status == 1
    assert told["pooler"] == "transaction"
    assert told["plan"] is None
    assert levels(told) == {
        "version": "ok",
        "pooler": "warning",
        "budget": "error",
        "role": "ok",
        "keepalives": "ok",
    }
    ran = run("check", "--dsn", pooled, "--budget", "20", "--workers", "2")
    assert ran.status == 0
    assert "20 clients of the pooler: an instance gets 20" in ran.out


def test_the_plan_through_a_pooler(run: Run, pooled: str) -> None:
    ran = run("plan", "--dsn", pooled)
    assert ran.status == 1
    assert "cannot be worked out behind a pooler" in ran.err
    ran = run("plan", "--dsn", pooled, "--budget", "20")
    assert 'poolguard.Guard(budget=20, pooler="transaction")' in ran.out


def test_a_pooler_that_lets_nobody_else_in(run: Run, app: str, pooled: str) -> None:
    """Of which kind it is cannot be found out, but it can be said."""
    with PgBouncer(app, settings={"max_client_conn": "1"}) as bouncer:
        ran = run("check", "--dsn", bouncer.conninfo(), "--budget", "20")
        assert ran.status == 1
        assert "a pooler stands before the server, but of which kind could not" in ran.err
        assert "say it with --pooler session or --pooler transaction" in ran.err
        options = ("--budget", "20", "--pooler", "session")
        ran = run("check", "--dsn", bouncer.conninfo(), *options)
        assert ran.status == 0
        assert "one that pools sessions, as pooler says" in ran.out


@pytest.mark.parametrize("binaries", find_all(), ids=lambda binaries: binaries.version)
def test_each_version(run: Run, binaries: Any) -> None:
    with PrivatePostgres(binaries=binaries) as server:
        told = json.loads(run("check", "--dsn", server.create_role("app"), "--json").out)
    assert told["version"].startswith(binaries.version)
    assert levels(told)["version"] == "ok"
    assert levels(told)["orphans"] == "note"


# -- what goes wrong


def test_a_wrong_password(run: Run, app: str) -> None:
    ran = run("check", "--dsn", make_conninfo(app, password="s3cret"))
    assert ran.status == 1
    assert ran.out == ""
    assert 'password authentication failed for user "shop"): check user and password\n' in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "s3cret" not in ran.err


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("postgresql://app:s3cr@et@db/x", "--dsn: libpq cannot read it"),
        ("postgresql://app:s3cr/et@db/x", "--dsn: libpq cannot read it"),
        ("postgresql://app:s3%cret@db/x", "--dsn: libpq cannot read it"),
        ("host=db password=s3cr et", "--dsn: libpq cannot read it"),
        ("host=app:s3cret@db user=app", "--dsn: libpq cannot read it"),
        ("host=127.0.0.1 port=1 password=s3cret", "Connection refused"),
        ("host=nowhere.invalid password=s3cret", "see that it runs, and that host and port"),
        ("mysql://app:s3cret@db/x", "--dsn=<str>: it takes a libpq string"),
        ("service=s3cret", 'definition of service "s3cret" not found'),
    ],
)
def test_a_dsn_that_leads_nowhere(run: Run, dsn: str, says: str) -> None:
    """One line, and nothing of a password."""
    ran = run("check", "--dsn", dsn)
    assert ran.status == 1
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    if "service" not in dsn:
        assert "s3" not in ran.err
        assert "et@" not in ran.err


def test_a_url_in_the_wrong_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq takes it for a host, and quotes it."""
    monkeypatch.setenv("PGHOST", "postgresql://app:s3cret@db/x")
    ran = run("check")
    assert ran.status == 1
    assert ran.err.startswith("poolguard: cannot connect to the database (")
    assert "s3cret" not in ran.err


def test_whatever_a_message_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that held the password would not be shown; one that is the user's name is no secret."""
    error = psycopg.OperationalError("no luck\nwith s3cret")
    assert database._text(error) == "no luck with s3cret"
    hidden = "its message is not shown, since it may hold the password"
    assert database._text(error, {"password": "s3cret"}) == hidden
    assert database._text(error, {"password": "s3cret", "user": "s3cret"}) != hidden
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    assert database._text(error) == hidden


def test_a_database_that_does_not_exist(run: Run, app: str) -> None:
    ran = run("check", "--dsn", make_conninfo(app, dbname="none"))
    assert 'database "none" does not exist): check the name' in ran.err


def test_no_room_for_another(run: Run, app: str, postgres: PrivatePostgres) -> None:
    narrow = postgres.create_role("narrow", connection_limit=0)
    ran = run("check", "--dsn", narrow)
    assert "too many connections for role" in ran.err
    assert ran.err.endswith(": end some of the connections, or raise what the server grants\n")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--strickt"], 2, "poolguard check: unrecognized arguments: --strickt"),
        (["--threads", "0"], 2, "argument --threads: '0' is no whole number from 1"),
        (["--ledger", "fleets"], 1, "--ledger='fleets': it takes 'static' or 'host' or 'fleet'"),
        (["--ledger-dsn", "host=db"], 1, "--ledger-dsn=<str> means nothing beside default ledger"),
    ],
)
def test_a_mistake_is_one_line(run: Run, options: list[str], status: int, says: str) -> None:
    ran = run("check", *options)
    assert ran.status == status
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_it_needs_no_rich(app: str) -> None:
    done = elsewhere("rich", "check", "--dsn", app, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
