"""A survey of a fleet: what is read off the sessions and locks of a real server, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.locks import shortage
from poolguard.budget.fleet.survey import CONTROL_SESSIONS, Slots, Survey, labels, query
from poolguard.budget.queries import rows
from poolguard.lab.postgres import PrivatePostgres
from tests.cli.fleet import Sessions, line

LABEL = "shop"


@pytest.fixture(scope="module")
def dsn(postgres: PrivatePostgres) -> str:
    """A role without privileges, in a database in which nobody else is."""
    role = postgres.create_role("surveyor")
    with postgres.connect() as admin:
        admin.execute("CREATE DATABASE survey")
    return psycopg.conninfo.make_conninfo(role, dbname="survey")


@pytest.fixture
def fleet(dsn: str) -> Iterator[Sessions]:
    with Sessions(dsn, LABEL) as sessions:
        yield sessions


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


def look(conn: psycopg.Connection[Any], label: str = LABEL) -> Survey:
    keys = Keys.of(label)
    return Survey(keys, rows(conn, query(keys)))


def test_hosts_and_slots(fleet: Sessions, conn: psycopg.Connection[Any]) -> None:
    one = fleet.host(line("web-1", granted=4), slot=1, leases=(3, 4, 5, 6), urgent=True)
    fleet.host(line("web-2", granted=0, need=3, workers=4), slot=2, leases=(9, 10), urgent=False)
    fleet.pooled((3, 4, 9))
    survey = look(conn)
    web1, web2 = survey.hosts
    assert (web1.session.pid, web1.line.host) == (one.info.backend_pid, "web-1")
    assert (web1.leased, web1.occupied, survey.used(web1), web1.lacks) == (4, 2, 2, 0)
    assert (web1.session.role, web1.session.urgent, web2.session.urgent) == (
        "surveyor",
        True,
        False,
    )
    assert web1.session.address == "127.0.0.1"
    assert 0 <= (web1.session.age or -1) < 60
    # It has found two of the three since it told so.
    assert (web2.leased, web2.occupied, web2.lacks, web2.starves) == (2, 1, 1, True)
    # 20 less two control sessions and the door, by two and four workers.
    assert (survey.budget, survey.room, web1.fair, web2.fair) == (20, 17, 5, 11)
    assert survey.slots == Slots(controls=2, pools=6, lost=0, free=11, beyond=0)
    assert sum(survey.slots) + 1 == survey.budget
    assert (len(survey.pooled), survey.lost, survey.foreign, survey.in_door) == (3, [], [], None)


def test_what_is_used_is_told_where_pools_sit_in_no_slots(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    """They are of another database, or behind a pooler."""
    fleet.host(line("web-1", granted=2, used=2), slot=1, leases=(3, 4))
    survey = look(conn)
    assert (survey.used(survey.hosts[0]), survey.hosts[0].occupied) == (2, 0)


def test_a_host_that_was_lost_has_sessions_in_slots_that_nobody_leased(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    fleet.host(line("web-1"), slot=1, leases=(3,))
    fleet.pooled((3, 7, 8), name="lost")
    survey = look(conn)
    assert sorted(sorted(each.occupied) for each in survey.lost) == [[7], [8]]
    assert survey.slots == Slots(controls=1, pools=1, lost=2, free=15, beyond=0)


def test_a_host_that_joins_a_full_fleet_sits_in_the_door(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    joining = fleet.host(line("web-1"), slot=0)
    survey = look(conn)
    assert survey.in_door is not None
    assert survey.in_door.pid == joining.info.backend_pid
    assert survey.slots == Slots(controls=0, pools=0, lost=0, free=19, beyond=0)


def test_a_budget_that_shrinks_is_the_least_that_a_member_knows(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    fleet.host(line("web-1", budget=20), slot=1, leases=(11, 12, 5))
    fleet.host(line("web-2", budget=12), slot=2)
    fleet.host(line("web-3", budget=0), slot=3)
    survey = look(conn)
    assert survey.budget == 12
    assert survey.slots == Slots(controls=3, pools=2, lost=0, free=6, beyond=1)


def test_another_application_with_the_same_locks_is_foreign(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    """But neither one whose locks are one number each, nor one in another database, nor a host
    that has yet to say what it is."""
    keys = fleet.keys
    other = fleet.open("batch")
    other.execute("SELECT pg_advisory_lock(%s, -5)", (keys.lease,))
    fleet.open("batch").execute("SELECT pg_advisory_lock(%s)", ((keys.lease << 32) + 5,))
    elsewhere = psycopg.conninfo.make_conninfo(fleet.dsn, dbname="postgres")
    fleet.open("batch", elsewhere).execute("SELECT pg_advisory_lock(%s, 5)", (keys.lease,))
    joining = fleet.open("poolguard 1 000000:web-9 b0 w1 f1 g0 u0 n0")
    joining.execute("SELECT pg_advisory_lock_shared(%s, 5)", (keys.lease,))
    assert [each.pid for each in look(conn).foreign] == [other.info.backend_pid]


def test_members_of_another_version_are_seen(
    fleet: Sessions, conn: psycopg.Connection[Any]
) -> None:
    fleet.host(line("web-1"), slot=1)
    fleet.open(f"poolguard 7 {fleet.keys.short}:web-2 anything")
    survey = look(conn)
    assert survey.versions == {7}
    assert [host.line.host for host in survey.hosts] == ["web-1"]


def test_fleets_are_found_by_their_default_labels(
    dsn: str, conn: psycopg.Connection[Any], postgres: PrivatePostgres
) -> None:
    """Whoever asks; those that were given another label are not."""
    default = "surveyor@survey"
    stranger = psycopg.conninfo.make_conninfo(postgres.create_role("tenant"), dbname="survey")
    with Sessions(dsn, default) as ours, Sessions(stranger, "a name of its own") as named:
        named.host(line("web-3"), slot=1)
        ours.host(line("web-1"), slot=1)
        ours.host(line("web-2"), slot=2)
        ours.open(line("web-5").text(named.keys))
        with postgres.connect(dbname="survey") as admin:
            assert labels(rows(admin, CONTROL_SESSIONS)) == [default]
            assert len(look(admin, default).hosts) == 2
    assert labels(rows(conn, CONTROL_SESSIONS)) in ([], [default])  # they may not have ended yet


def test_a_role_sees_another_ones_hosts_but_not_where_they_are(
    fleet: Sessions, postgres: PrivatePostgres
) -> None:
    fleet.host(line("web-1"), slot=1, leases=(2, 3))
    stranger = psycopg.conninfo.make_conninfo(postgres.create_role("passer_by"), dbname="survey")
    with psycopg.connect(stranger, autocommit=True) as conn:
        [host] = look(conn).hosts
    assert (host.leased, host.line.host, host.session.role) == (2, "web-1", "surveyor")
    assert (host.session.address, host.session.age) == (None, None)


def test_a_survey_takes_no_lock(fleet: Sessions, conn: psycopg.Connection[Any]) -> None:
    fleet.host(line("web-1"), slot=1, leases=(2, 3))
    look(conn)
    mine = sql.SQL("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {}")
    pid = conn.info.backend_pid
    assert conn.execute(mine.format(sql.Literal(pid))).fetchone() == (0,)


@pytest.mark.parametrize(("budget", "times"), [(1600, 0), (1601, 2), (3200, 2), (3201, 3)])
def test_half_of_the_lock_table_is_left_to_others(budget: int, times: int) -> None:
    told = shortage(budget, 6400)
    assert (told is None) == (times == 0)
    assert told is None or f"to {times} times what it is" in told
