"""What ``poolguard check`` makes of facts: one finding after the other, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from poolguard.budget.capacity import Capacity
from poolguard.budget.plan import Workplace, make_plan
from poolguard.cli.findings import Consumer, Facts, Finding, Keepalive, judge
from poolguard.settings import Settings

WELL = Capacity(97, role=97, max_connections=100, for_superusers=3, free_now=90)


def facts(**changes: Any) -> Facts:
    """A deployment with nothing to find fault with, but for *changes*."""
    values: dict[str, Any] = {
        "version": "18.4",
        "major": 18,
        "role": "app",
        "database": "shop",
        "capacity": WELL,
        "pooler": "none",
        "settings": Settings(),
        "server_keepalive": Keepalive(60, 10, 6),
        "client_keepalive": Keepalive(30, 10, 3),
        "check_interval": 1000,
    }
    values |= changes
    if "plan" not in changes:
        values["plan"] = make_plan(
            values["capacity"], values["settings"], Workplace(4, 8), pooler=values["pooler"]
        )
    return Facts(**values)


def found(topic: str, **changes: Any) -> Finding:
    """The one finding of that topic that is worse than ok, or the only one."""
    all_of_it = [finding for finding in judge(facts(**changes)) if finding.topic == topic]
    bad = [finding for finding in all_of_it if finding.level != "ok"]
    assert len(bad or all_of_it) == 1, all_of_it
    return (bad or all_of_it)[0]


def test_nothing_to_find_fault_with() -> None:
    assert [(finding.level, finding.topic, finding.found) for finding in judge(facts())] == [
        ("ok", "version", "PostgreSQL 18.4"),
        ("ok", "pooler", "none stands before the server"),
        (
            "ok",
            "budget",
            "87 of 97 connections: an instance gets 87, a worker keeps 8 warm and holds 63 at most",
        ),
        ("ok", "others", "nobody else is connected to the server"),
        ("ok", "role", "app is held to 97 by the server"),
        ("ok", "orphans", "while a query runs, the server looks every 1000 ms for its client"),
        ("ok", "keepalives", "the server notices a vanished host after 2 min"),
        ("ok", "keepalives", "a request notices a vanished server after 60 s"),
    ]


def test_all_that_is_not_well_has_a_remedy() -> None:
    """However bad things are, each finding says what to do."""
    worst = facts(
        major=11,
        capacity=Capacity(100, superuser=True, standby=True),
        settings=Settings(ledger="static"),
        workers_known=False,
        server_keepalive=None,
        client_keepalive=None,
        check_interval=None,
    )
    pooled = facts(pooler="transaction", plan=None, plan_error="No. Do.", client_keepalive=None)
    for finding in (*judge(worst), *judge(pooled)):
        assert bool(finding.remedy) is (finding.level != "ok"), finding


@pytest.mark.parametrize(
    ("major", "level"), [(11, "warning"), (12, "ok"), (15, "ok"), (18, "ok"), (19, "note")]
)
def test_versions(major: int, level: str) -> None:
    assert found("version", major=major).level == level


def test_a_pooler_of_sessions() -> None:
    """The server's own limits and settings are between it and the pooler, and not judged."""
    findings = judge(facts(pooler="session", settings=Settings(budget=40)))
    assert {finding.level for finding in findings} == {"ok"}
    topics = [finding.topic for finding in findings]
    assert topics == ["version", "pooler", "budget", "role", "keepalives"]
    assert findings[1].found.startswith("one that pools sessions, as detected")
    assert findings[2].found.startswith("40 clients of the pooler: an instance gets 40")


def test_a_pooler_of_transactions() -> None:
    finding = found(
        "pooler", pooler="transaction", settings=Settings(budget=40, pooler="transaction")
    )
    assert finding.level == "warning"
    assert finding.found.startswith("one that pools transactions, as pooler says")
    assert "prepared statements fail" in finding.found
    assert "prepare_threshold=None" in finding.remedy


def test_no_plan() -> None:
    error = "budget=98 is more than 97. Lower budget, or raise what the server grants"
    assert found("budget", plan=None, plan_error=error) == Finding(
        "error",
        "budget",
        "budget=98 is more than 97",
        "lower budget, or raise what the server grants",
    )


def test_the_warnings_of_the_plan() -> None:
    assert found("budget", settings=Settings(floor=20, ledger="host")) == Finding(
        "warning",
        "budget",
        "a reload warms 7 of the new workers' 80 connections, the rest only as the old workers "
        "let go of theirs",
        "lower floor to 10, or raise what the instance gets to 160",
    )


def test_workers_that_nobody_named() -> None:
    finding = found("budget", workers_known=False)
    assert finding.level == "note"
    assert "reckoned with 4" in finding.found
    assert "--workers" in finding.remedy


def test_others_are_named() -> None:
    """The greatest with their numbers, the rest in one."""
    consumers = [Consumer("cron", "", 9), Consumer("app", "psql", 8), Consumer("a", "b", 7)]
    consumers += [Consumer(f"r{n}", "", 1) for n in range(3)]
    assert found("others", consumers=tuple(consumers)).found == (
        "27 other connections on the server now (9 of cron, 8 of app (psql), 7 of a (b), 1 of r0, "
        "2 of others); 90 more can be opened by app"
    )
    assert found("others", consumers=(Consumer("cron", "", 1),)).found.startswith(
        "1 other connection on"
    )


def test_a_superuser() -> None:
    finding = found("role", capacity=Capacity(100, superuser=True), role="postgres")
    assert finding.level == "warning"
    assert finding.remedy.endswith("CREATE ROLE … LOGIN CONNECTION LIMIT 90")


def test_a_role_without_a_limit() -> None:
    """Its name is quoted as SQL wants it."""
    finding = found("role", capacity=Capacity(97), role='My "app"')
    assert finding.level == "note"
    assert 'ALTER ROLE "My ""app""" CONNECTION LIMIT 87' in finding.remedy


def test_a_standby() -> None:
    finding = found("standby", capacity=Capacity(97, role=97, standby=True))
    assert finding.level == "note"
    assert "target_session_attrs" in finding.remedy


@pytest.mark.parametrize(
    ("interval", "level", "remedy"),
    [
        (None, "note", "upgrade to PostgreSQL 14"),
        (0, "note", "for those: ALTER ROLE app SET client_connection_check_interval = '1s'"),
        (500, "ok", ""),
    ],
)
def test_orphans(interval: int | None, level: str, remedy: str) -> None:
    finding = found("orphans", check_interval=interval)
    assert finding.level == level
    assert finding.remedy.startswith(remedy)


def test_the_servers_keepalives() -> None:
    finding = found("keepalives", server_keepalive=Keepalive(7200, 75, 9))
    assert finding.level == "note"
    assert "after 2 h 11 min" in finding.found
    assert "poolguard sets it itself on each of its connections" in finding.found
    assert "ALTER ROLE app SET tcp_keepalives_idle = 60" in finding.remedy
    assert found("keepalives", server_keepalive=Keepalive(241, 10, 6)).level == "note"
    assert found("keepalives", server_keepalive=None).level == "note"


def test_our_keepalives() -> None:
    finding = found("keepalives", client_keepalive=Keepalive(7200, 75, 9))
    assert finding.level == "note"
    assert "verified every 25 s" in finding.found
    assert "keepalives_idle=30" in finding.remedy
    assert found("keepalives", client_keepalive=None).level == "warning"


def test_a_unix_socket_needs_no_keepalives() -> None:
    finding = found("keepalives", over_tcp=False, server_keepalive=None, client_keepalive=None)
    assert (finding.level, finding.found) == ("ok", "a Unix socket needs none")
