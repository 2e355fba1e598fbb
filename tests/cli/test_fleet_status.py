"""``poolguard status --fleet``: what it finds, prints and refuses, against a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from poolguard.budget.fleet.board import Line
from poolguard.budget.fleet.keeper import FleetSettings
from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.ledger import FleetLedger
from poolguard.budget.fleet.survey import Survey
from poolguard.budget.terms import Terms
from poolguard.cli.fleet_text import frame, report
from poolguard.lab.postgres import PrivatePostgres
from poolguard.runtime.control import control_connect
from poolguard.settings import Settings
from poolguard.util.rundir import RuntimeDir
from tests.cli.conftest import Run, elsewhere
from tests.cli.fleet import Sessions, line
from tests.cli.test_status import Terminal
from tests.support import HOSTILE, obeyed, until

NOW = 1_790_000_000.0


@pytest.fixture(scope="module")
def dsn(postgres: PrivatePostgres) -> str:
    """A role without privileges, in a database in which nobody else is."""
    role = postgres.create_role("onlooker")
    with postgres.connect() as admin:
        admin.execute("CREATE DATABASE shop_status")
    return make_conninfo(role, dbname="shop_status")


@pytest.fixture
def fleet(dsn: str) -> Iterator[Sessions]:
    with Sessions(dsn, "orders") as sessions:
        yield sessions


def cells(text: str) -> list[dict[str, str]]:
    """The rows of the table, by its heads; nothing in it may hold a blank."""
    table = re.sub(r"(\d) (s|min)\b", r"\1\2", text.partition("\n\n")[0])
    head, *lines = table.splitlines()
    return [dict(zip(head.split(), row.split(), strict=False)) for row in lines]


def test_every_host_and_what_the_slots_are_used_for(
    run: Run, fleet: Sessions, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    fleet.host(line("web-1"), slot=1, leases=(3, 4, 5))
    fleet.host(line("web-2", draining=True, rejoined=True), slot=2, leases=(7,))
    fleet.pooled((3, 4, 7))
    ran = run("status", "--fleet", "--dsn", dsn, "--ledger-label", "orders")
    assert (ran.status, ran.err) == (0, "")
    one, two = cells(ran.out)
    del one["since"], two["since"]
    assert one == {
        **{"host": "web-1", "address": "127.0.0.1", "budget": "20", "workers": "2"},
        **{"floors": "4", "fair": "15", "leased": "3", "used": "2", "needs": "0"},
    }
    assert (two["leased"], two["used"]) == ("1", "1")
    assert "draining, rejoined" in ran.out
    text = " ".join(ran.out.partition("\n\n")[2].split())
    assert text == (
        "fleet orders in the database shop_status: 2 hosts, 4 workers slots budget 20: 2 of "
        "control sessions, 4 leased for pools, 13 free, 1 kept for a host that joins, which is "
        "free. Sessions of pools that occupy slots: 3"
    )


def test_real_hosts(run: Run, dsn: str, tmp_path: Path) -> None:
    """As their own ledgers lease slots: by the name that follows from the role, whoever asks."""
    settings = Settings(dsn=dsn, ledger="fleet")
    ledgers = [
        FleetLedger(
            RuntimeDir(tmp_path / name),
            "shop",
            workers=1,
            fleet=FleetSettings(control_connect(settings, None), None, name),
        )
        for name in ("web-1", "web-2")
    ]
    try:
        for ledger in ledgers:
            ledger.agree(Terms(None, 12, 1, 2, 12))
            ledger.siblings.report_starving(2)

        def slots() -> dict[str, int]:
            told = json.loads(run("status", "--fleet", "--dsn", dsn, "--json").out)
            [found] = told["fleets"]
            assert found["label"] == "onlooker@shop_status"
            assert [each["found"] for each in found["findings"] if each["level"] != "note"] == []
            return {host["host"]: host["leased"] for host in found["hosts"]}

        until(lambda: len(found := slots()) == 2 and min(found.values()) >= 2, within=20)
    finally:
        for ledger in ledgers:
            ledger.close()


def test_what_is_worth_a_word(run: Run, fleet: Sessions, dsn: str) -> None:
    keys = fleet.keys
    fleet.host(line("web-1", granted=0, need=2, floors=16), slot=1)
    fleet.host(line("web-2", budget=18), slot=0, leases=(19,))
    fleet.pooled((5, 6), name=f"lost {HOSTILE}")
    fleet.open(f"poolguard 3 {keys.short}:web-3")
    foreign = fleet.open("batch")
    foreign.execute("SELECT pg_advisory_lock(%s, 8)", (keys.lease,))
    ran = run("status", "--fleet", "--dsn", dsn, "--ledger-label", "orders")
    assert ran.status == 0
    assert obeyed(ran.out) == []
    text = " ".join(ran.out.split())
    escape = r"\x1b" if foreign.info.server_version >= 160000 else "?"  # as the server tells it
    for says in (
        "error hosts of this label go by version 3 of the fleet's protocol, and this poolguard by "
        "1: they do not share a budget. End those first",
        f"locks by which the hosts lease slots: 1 of onlooker (batch) from 127.0.0.1 (pid "
        f"{foreign.info.backend_pid}). Give the fleet another ledger_label",
        "the hosts disagree on the budget: web-2 goes by 18, and others by 20. The smallest rules",
        "the workers of all hosts ask for 20 warm connections, and the budget of 18 leaves 15",
        f"2 slots that no host has leased are occupied, by 2 of onlooker (lost {escape}]0;t",
        "1 slot beyond the budget of 18 is leased or occupied still",
        "web-2 is joining by the slot that is kept free for that",
        "1 host needs what is its by right: web-1 (0 of 11, and needs 2 more)",
        "2 occupied without a lease",
        "1 kept for a host that joins, which is taken",
    ):
        assert says in text
    told = run("status", "--fleet", "--dsn", dsn, "--ledger-label", "orders", "--json")
    [found] = json.loads(told.out)["fleets"]
    assert [each["level"] for each in found["findings"]] == [
        *("error", "error", "warning", "warning", "warning", "note", "note", "note")
    ]
    assert found["other_versions"] == [3]
    assert sorted(each["slots"] for each in found["lost"]) == [[5], [6]]


def test_the_environment_says_where_it_is(
    run: Run, fleet: Sessions, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts' own variables do: the ledger's database goes before the pools'."""
    fleet.host(line("web-1"), slot=1)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:s3cret@127.0.0.1:1/elsewhere")
    monkeypatch.setenv("POOLGUARD_LEDGER_DSN", dsn)
    monkeypatch.setenv("POOLGUARD_LEDGER_LABEL", "orders")
    monkeypatch.setenv("POOLGUARD_LEDGER", "fleet")
    monkeypatch.setenv("POOLGUARD_POOLER", "transaction")
    assert "web-1" in run("status", "--fleet").out
    monkeypatch.delenv("POOLGUARD_LEDGER_DSN")
    monkeypatch.delenv("POOLGUARD_POOLER")
    ran = run("status", "--fleet")
    assert (ran.status, ran.out) == (1, "")
    assert "port 1 failed: Connection refused" in ran.err
    assert "s3cret" not in ran.err


def test_no_host_is_there(run: Run, dsn: str) -> None:
    ran = run("status", "--fleet", "--dsn", dsn, "--ledger-label", "nobody")
    assert (ran.status, ran.err) == (3, "")
    text = " ".join(ran.out.split())
    assert text.startswith(
        "no host of the fleet nobody is there: looked in the database shop_status as role onlooker."
    )
    told = json.loads(run("status", "--fleet", "--dsn", dsn, "--json").out)
    assert told["fleets"][0]["hosts"] == []


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--dsn", "x=y"], 2, "--dsn says where a fleet is: add --fleet"),
        (["--ledger-label", "x"], 2, "--ledger-label says where a fleet is: add --fleet"),
        (["--fleet", "--runtime-dir", "/tmp"], 2, "--runtime-dir is a folder: drop one"),
        (["--fleet", "--watch"], 2, "--watch draws on a terminal"),
        (["--fleet", "--ledger-label", "a b"], 1, "--ledger-label='a b': it takes a name"),
        (["--fleet", "--ledger-dsn", "mysql://s3cret"], 1, "--ledger-dsn=<str>: it takes a libpq"),
        (["--fleet", "--ledger-dsn", "host=s3 cret"], 1, "--ledger-dsn: libpq cannot read it"),
        (
            ["--fleet", "--ledger-dsn", "host=127.0.0.1 port=1 password=s3cret"],
            1,
            "cannot connect to the database of the fleet's ledger (",
        ),
    ],
)
def test_a_mistake_is_one_line(run: Run, options: list[str], status: int, says: str) -> None:
    ran = run("status", *options)
    assert (ran.status, ran.out) == (status, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "cret" not in ran.err


def test_it_needs_no_rich_and_no_unicode(fleet: Sessions, dsn: str) -> None:
    fleet.host(line("web-1"), slot=1)
    options = ("--dsn", dsn, "--ledger-label", "orders")
    done = elsewhere("rich,termios", "status", "--fleet", *options, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"web-1" in done.stdout


# -- on a terminal


@pytest.fixture
def watch(dsn: str) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def watch(**how: int) -> Terminal:
        options = ("--fleet", "--dsn", dsn, "--ledger-label", "orders", "--watch", "0.1")
        terminals.append(Terminal(*options, **how))  # type: ignore[arg-type]
        return terminals[-1]

    yield watch
    for terminal in terminals:
        terminal.close()


def test_it_draws_in_place_and_goes_on_after_the_server_has_ended_its_session(
    watch: Callable[..., Terminal], fleet: Sessions, postgres: PrivatePostgres
) -> None:
    fleet.host(line("web-1"), slot=1)
    terminal = watch()
    terminal.read_until("1 host  (Ctrl-C ends)")
    second = fleet.host(line("web-2"), slot=2)
    terminal.read_until("2 hosts  (Ctrl-C ends)")
    with postgres.connect() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'poolguard status'"
        )
    terminal.read_until("the database does not answer what it is asked")
    terminal.read_until("2 hosts  (Ctrl-C ends)")
    second.close()
    terminal.read_until("1 host  (Ctrl-C ends)")
    terminal.type(b"q")
    assert terminal.end() == 0
    assert terminal.text == ""


def surveyed(n: int) -> Survey:
    """A fleet of so many hosts, without a server."""
    keys = Keys.of("orders")
    told = [Line(f"web-{i:03}.eu-west.example", 20 * n, 4, 8, 9, 7, 0) for i in range(n)]
    rows = [
        {
            **{"pid": 1000 + i, "name": each.text(keys), "role": "shop", "age": 100.0 * i},
            **{"address": f"10.0.{i}.250", "urgent": False},
            "leased": [20 * i + 1, *range(20 * i + 2, 20 * i + 11)],
            "occupied": [20 * i + 1],
        }
        for i, each in enumerate(told)
    ]
    return Survey(keys, rows)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("n", [3, 40])
def test_it_fits_the_terminal(n: int, width: int) -> None:
    """Once as many lines as there are hosts, and live as many as there is room for."""
    survey = surveyed(n)
    lines = report([survey], "shop", width)
    assert max(map(len, lines)) <= width
    assert sum(each.startswith("web-") for each in lines) == n
    drawn = frame([survey], "shop", [], NOW, (width, 24))
    assert max(map(len, drawn)) <= width
    assert len(drawn) <= 24
    assert any(each.startswith("fleet    orders in the") for each in drawn)
    assert any(re.match(r"… and \d+ more", each) for each in drawn) == (n == 40)
    wide = " ".join(lines[0].split())
    assert ("budget" in wide) == (width > 80)
    for head in ("host", "leased", "used", "needs", "state"):
        assert head in wide


def test_two_fleets_share_the_screen() -> None:
    drawn = frame([surveyed(40), surveyed(40)], "shop", [], NOW, (80, 40))
    assert sum(each.startswith("fleet  ") for each in drawn) == 2
    assert len(drawn) <= 40
