"""``poolguard plan``: what it says with and without a database, and lines that can be pasted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poolguard.lab.postgres import PrivatePostgres
from poolguard.settings import Settings
from poolguard.worker import registry
from tests.cli.conftest import Run, elsewhere

EXAMPLE = ("plan", "--capacity", "100", "--workers", "4", "--threads", "8", "--instances", "3")


def test_without_a_database(run: Run) -> None:
    ran = run(*EXAMPLE)
    assert (ran.status, ran.err) == (0, "")
    assert (
        ran.out
        == """\
                     each  together
budget                           90  all instances, at their peak
  instance             30        90  instances: 3
    worker, warm        3        36  floor; workers of each instance: 4
    shared             18        54  borrowed by workers that are busy
    worker, at most    21            max_size
left to others                   10  migrations, cron, people

reload   an instance holds at most 30; 12 of the new workers' 12 connections can be warm before the
         old ones let go
rollout  with 1 more at the same time, 4 instances may hold 120 of the budget of 90: set instances
         to 4 where rollouts do that. An instance then gets 22, a worker 2 warm and 16 at most

arithmetic
  capacity  100  = as given
  budget     90  = 100 − 10 reserve (the greater of 3 and 10 %)
  instance   30  = 90 ÷ 3 instances
  workers     4  = as set by --workers
  floor       3  = the least of 8 used at once and 30 ÷ (2 × 4) = 3
  shared     18  = 30 − 12, what the workers' floors leave to borrow
  max_size   21  = 3 floor + 18 shared

gunicorn.conf.py
  import poolguard
  from poolguard.gunicorn import *

  workers = 4
  threads = 8
  poolguard.Guard(instances=3)
"""
    )


def test_for_machines(run: Run) -> None:
    told = json.loads(run(*EXAMPLE, "--json", "--surge", "2").out)
    assert told["arithmetic"][0] == {"name": "capacity", "value": 100, "how": "as given"}
    del told["arithmetic"]
    assert told == {
        "capacity": 100,
        "budget": 90,
        "left_to_others": 10,
        "instances": 3,
        "instance": 30,
        "workers": 4,
        "floor": 3,
        "shared": 18,
        "max_size": 21,
        "ledger": "host",
        "fleet": None,
        "pooler": "none",
        "reload": {"held": 30, "warm": 12, "wanted": 12},
        "rollout": {
            "surge": 2,
            "instances": 5,
            "held": 150,
            "instance": 18,
            "floor": 2,
            "max_size": 12,
        },
        "history": None,
        "warnings": [],
        "gunicorn_conf": "import poolguard\nfrom poolguard.gunicorn import *\n\nworkers = 4\n"
        "threads = 8\npoolguard.Guard(instances=3)\n",
    }


def test_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options win; what stays in the environment is shown beside the lines to paste."""
    monkeypatch.setenv("POOLGUARD_INSTANCES", "3")
    monkeypatch.setenv("POOLGUARD_FLOOR", "2")
    monkeypatch.setenv("WEB_CONCURRENCY", "6")
    ran = run("plan", "--capacity", "100", "--floor", "1")
    assert "workers     6  = gunicorn's, else WEB_CONCURRENCY, else 1" in ran.out
    assert "floor       1  = as set by --floor" in ran.out
    assert "poolguard.Guard(floor=1)" in ran.out
    assert ran.out.endswith("  # in the environment: POOLGUARD_INSTANCES=3\n")


def test_a_budget_alone(run: Run) -> None:
    """With it no capacity is needed, and nothing is said of what is left to others."""
    ran = run("plan", "--budget", "40")
    assert ran.status == 0
    assert "left to others" not in ran.out
    assert json.loads(run("plan", "--budget", "40", "--json").out)["capacity"] is None


def test_a_rollout_without_room(run: Run) -> None:
    ran = run("plan", "--budget", "8", "--workers", "4", "--instances", "2")
    assert ran.status == 0
    assert "3 instances may hold 12 of the budget of 8" in ran.out
    text = " ".join(ran.out.split())
    assert "- a rollout with 1 more at the same time has no room: --budget=8 ÷" in text
    assert json.loads(
        run("plan", "--budget", "8", "--workers", "4", "--instances", "2", "--json").out
    )["rollout"] == {
        "surge": 1,
        "instances": 3,
        "held": 12,
        "instance": None,
        "floor": None,
        "max_size": None,
    }
    assert "rollout" not in run("plan", "--budget", "8", "--surge", "0").out


def test_each_ledger_in_a_reload_and_a_rollout(run: Run) -> None:
    def held(*options: str) -> tuple[int, int]:
        told = json.loads(run("plan", "--budget", "30", "--workers", "4", *options, "--json").out)
        return told["reload"]["held"], told["rollout"]["held"]

    assert held() == (30, 60)
    assert held("--ledger", "static") == (56, 56)
    assert held("--max-size", "3") == (24, 24)


# -- a fleet

FLEET = ("plan", "--ledger", "fleet", "--workers", "4", "--threads", "8")


def test_a_fleet(run: Run) -> None:
    ran = run(*FLEET, "--budget", "40", "--instances", "3")
    assert (ran.status, ran.err) == (0, "")
    assert (
        ran.out.partition("\narithmetic")[0]
        == """\
                      each  together
budget                            40  all hosts, at their peak
  control session        1         3  instances: 3
  door                             1  kept free for the next host that joins
  host, at most         36            while the others need nothing
  host, all the same    12        36
    worker, warm         1        12  floor; workers of each host: 4
    worker, at most     33            max_size

reload   an instance holds at most 36; 4 of the new workers' 4 connections can be warm before the
         old ones let go
fleet    the budget covers the floors of 7 such hosts, each with a control session; where there are
         more, all floors are cut to one height, and the budget is kept
rollout  with 1 more at the same time, 4 hosts hold no more than the budget of 40: each has 8 if all
         have the same, and their floors of 4 fit
"""
    )
    told = json.loads(run(*FLEET, "--budget", "40", "--instances", "3", "--json").out)
    assert told["fleet"] == {
        **{"control_sessions": 3, "door": 1, "each": 12, "most_hosts": 7, "locks": 80}
    }
    assert told["rollout"]["held"] == 40
    assert json.loads(run("plan", "--budget", "40", "--json").out)["fleet"] is None


def test_a_fleet_of_which_nobody_has_told_how_large_it_is(run: Run) -> None:
    text = " ".join(run(*FLEET, "--budget", "41", "--surge", "3").out.split())
    assert "instances is 1, so these are the figures of a host that is alone" in text
    assert "the floors of 2 such hosts" in text
    assert (
        "4 hosts hold no more than the budget of 41: each has 9 if all have the same, which is"
        in (text)
    )
    assert "warnings" not in text


def test_a_fleets_leftover_and_its_locks_in_a_real_server(
    run: Run, postgres: PrivatePostgres
) -> None:
    ran = run(*FLEET, "--dsn", postgres.dsn, "--instances", "4", "--budget", "80")
    text = " ".join(ran.out.split())
    assert "not given out 3 lent to whoever needs it" in text
    assert "left to others 20 migrations" in text
    assert "locks 160 = 2 × 80, in the lock table of the ledger's server, which is sure to" in text


def test_a_fleet_whose_ledger_is_elsewhere_keeps_that_to_itself(run: Run) -> None:
    """It may hold a password, and so it is not among the lines to paste."""
    options = ("--budget", "40", "--ledger-dsn", "host=db password=s3cret")
    ran = run(*FLEET, *options, "--ledger-label", "orders")
    assert 'ledger="fleet", ledger_label="orders")' in ran.out
    assert "# and, since it may hold a password, from POOLGUARD_LEDGER_DSN" in ran.out
    assert "s3cret" not in ran.out


# -- warnings


def test_warnings_speak_of_options(run: Run) -> None:
    ran = run("plan", "--budget", "40", "--workers", "4", "--threads", "8", "--max-size", "4")
    assert "a worker handles 8 requests at once but holds at most 4 connections" in ran.out
    assert "keyword" not in ran.out


# -- with a database


def test_with_a_database(run: Run, postgres: PrivatePostgres) -> None:
    """The server is asked what it grants, and what stands before it."""
    role = postgres.create_role("planner", connection_limit=40)
    ran = run("plan", "--dsn", role, "--workers", "4")
    assert ran.status == 0
    assert "capacity  40  = the role's CONNECTION LIMIT; the server would grant 97" in ran.out
    assert "budget    36  = 40 − 4 reserve (the greater of 3 and 10 %)" in ran.out


def test_where_the_environment_says(
    run: Run, postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.dsn)
    told = json.loads(run("plan", "--json").out)
    assert (told["capacity"], told["pooler"]) == (100, "none")
    assert json.loads(run("plan", "--capacity", "50", "--json").out)["capacity"] == 50


def test_a_budget_above_what_the_server_grants(run: Run, postgres: PrivatePostgres) -> None:
    ran = run("plan", "--dsn", postgres.dsn, "--budget", "101")
    assert ran.status == 1
    assert ran.err == (
        "poolguard: --budget=101 is more than the 100 that the server grants this role (100 "
        "max_connections). Lower budget, or raise what the server grants\n"
    )


# -- the lines to paste


@pytest.mark.parametrize(
    "options",
    [
        ["--capacity", "100", "--workers", "2"],
        ["--capacity", "100", "--workers", "2", "--threads", "4", "--floor", "3"],
        ["--budget", "60", "--worker-class", "gthread", "--threads", "4", "--max-size", "9"],
        ["--capacity", "100", "--budget", "80%", "--ledger", "static"],
        ["--budget", "60", "--pooler", "transaction", "--worker-class", "asgi"],
    ],
)
def test_the_lines_are_a_configuration(run: Run, options: list[str], tmp_path: Path) -> None:
    """gunicorn takes them, and the guard they make has the settings that were asked for."""
    text = json.loads(run("plan", *options, "--json").out)["gunicorn_conf"]
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(text)
    (tmp_path / "app.py").write_text("def app(environ, start_response): ...\n")
    command = [sys.executable, "-m", "gunicorn", "--check-config", "-c", str(conf), "app:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    namespace: dict[str, Any] = {}
    exec(text, namespace)
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    for name in ("workers", "threads"):
        if f"--{name}" in pairs:
            assert namespace[name] == int(pairs[f"--{name}"])
    assert namespace.get("worker_class") == pairs.get("--worker-class")
    settings = [guard.settings for guard in registry.guards()]
    wanted = {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in pairs.items()
        if name not in ("--capacity", "--workers", "--threads", "--worker-class")
    }
    assert settings == ([Settings.build(environ={}, **wanted)] if wanted else [])


# -- what goes wrong


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 1, "what the server grants is not known: give it with --capacity"),
        (["--capacity", "0"], 2, "argument --capacity: '0' is no whole number from 1"),
        (["--capacity", "many"], 2, "'many' is no whole number from 1"),
        (["--surge", "-1"], 2, "argument --surge"),
        (["--capcity", "9"], 2, "unrecognized arguments: --capcity 9. See poolguard plan --help"),
        (["--capacity", "9", "--dsn", "host=db"], 2, "--capacity and --dsn: both say what"),
        (["--capacity", "9", "--floor", "x"], 1, "--floor='x': it takes a whole number from 1"),
        (["--capacity", "9", "--ledger", "x"], 1, "--ledger='x': it takes 'static' or 'host' or"),
        (["--budget", "2", "--ledger", "fleet"], 1, "--budget=2 is too small for --ledger='fleet'"),
        (["--budget", "9", "--ledger-label", "x"], 1, "--ledger-label='x' means nothing beside"),
        (["--ledger-dsn", "host=s3cret"], 1, "--ledger-dsn=<str> means nothing beside default"),
        (["--budget", "9", "--reserve", "1"], 1, "--reserve=1 means nothing beside --budget=9"),
        (["--budget", "9", "--floor", "2", "--max-size", "1"], 1, "--floor=2 must be at most"),
        (["--budget", "80", "--workers", "96"], 1, "needs 96; raise budget to at least 96"),
        (["--capacity", "80", "--workers", "96"], 1, "96 workers × 1 warm connection = 96"),
        (["--capacity", "80", "--pooler", "session"], 1, "Set budget to the number of clients"),
        (["--dsn", "mysql://app:s3cret@db/x"], 1, "--dsn=<str>: it takes a libpq string"),
        (["--dsn", "postgresql://app:s3/cret@db/x"], 1, "--dsn: libpq cannot read it"),
    ],
)
def test_a_mistake_is_one_line(run: Run, options: list[str], status: int, says: str) -> None:
    ran = run("plan", *options)
    assert ran.status == status
    assert ran.out == ""
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "cret" not in ran.err


def test_each_of_several_mistakes_has_its_line(run: Run) -> None:
    ran = run("plan", "--capacity", "9", "--floor", "x", "--instances", "0")
    assert [line.partition("=")[0] for line in ran.err.splitlines()] == [
        "poolguard: --instances",
        "poolguard: --floor",
    ]


def test_the_database_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    ran = run("plan", "--dsn", "postgresql://app@127.0.0.1:1/shop")
    assert ran.status == 1
    assert 'connection to server at "127.0.0.1", port 1 failed: Connection refused' in ran.err
    assert ran.err.endswith(": see that it runs, and that host and port are right\n")
    assert len(ran.err.splitlines()) == 1


# -- where it runs


def test_it_needs_neither_rich_nor_psycopg() -> None:
    done = elsewhere("rich,psycopg,psycopg_pool", *EXAMPLE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_in_a_pipe_without_unicode() -> None:
    """No colours, no characters that the encoding does not have."""
    done = elsewhere("rich", *EXAMPLE, PYTHONIOENCODING="ascii", FORCE_COLOR="1")
    text = done.stdout.decode("ascii")
    assert "budget     90  = 100 - 10 reserve" in text
    assert "30 / (2 x 4) = 3" in text
    assert "\x1b" not in text


def test_with_a_database_it_needs_no_rich(postgres: PrivatePostgres) -> None:
    done = elsewhere("rich", "plan", "--dsn", postgres.dsn, "--json")
    assert (done.returncode, json.loads(done.stdout)["capacity"]) == (0, 100)
