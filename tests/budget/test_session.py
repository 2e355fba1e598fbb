"""The greeting of a new session, on every PostgreSQL here, and what becomes of the dead's."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from poolguard import Guard
from poolguard.budget import session
from poolguard.budget.queries import rows
from poolguard.budget.session import (
    ASK_ALIVE,
    END,
    GREETING,
    OPTIONS,
    PLAIN_GREETING,
    RESTORE,
    Row,
    backend_of,
    gone_among,
    pids_of,
    to_be_ended,
)
from poolguard.budget.slots import POOLED, Backend, Orphan
from poolguard.lab.binaries import find_all
from poolguard.lab.postgres import PrivatePostgres
from tests.support import until

KEEPALIVES = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
CHECK = "client_connection_check_interval"
OURS = ("1000", "30", "10", "3")

VICTIM = """
import sys
from poolguard import Guard
from poolguard.runtime import greeting
from poolguard.budget import dialing

if sys.argv[2] == "plainly":
    dialing.OPTIONS = ()
    greeting.GREETING = "SELECT pg_backend_pid() AS pid, 0::float8 AS started"
guard = Guard(sys.argv[1], budget=4, floor=1)
guard.open(wait=20)
with guard.connection() as conn:
    print(conn.info.backend_pid, flush=True)
    conn.execute("SELECT pg_sleep(30)")
"""


@pytest.fixture(scope="module", params=find_all(), ids=lambda binaries: binaries.version)
def server(request: pytest.FixtureRequest) -> Iterator[PrivatePostgres]:
    """Each PostgreSQL that is here."""
    with PrivatePostgres(binaries=request.param) as server:
        yield server


def greet(conn: psycopg.Connection[Any], login_pid: int | None = None) -> dict[str, Any]:
    """What a new session answers to the greeting."""
    with conn.cursor(row_factory=dict_row) as cursor:
        pid = conn.info.backend_pid if login_pid is None else login_pid
        row = cursor.execute(GREETING, {"login_pid": pid}, prepare=False).fetchone()
    assert row is not None
    return row


def settings(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """What of the greeting's matters holds in this session."""
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
    return dict(conn.execute(query, [[CHECK, *KEEPALIVES]]).fetchall())


@pytest.fixture
def in_guard() -> Callable[..., dict[str, str]]:
    """What holds in the sessions of a guard of that kind, after two connections."""
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
    names = [[CHECK, *KEEPALIVES]]

    async def run(guard: Guard) -> dict[str, str]:
        async with guard:
            assert guard.ready, guard.status()
            async with guard.aconnection(), guard.aconnection() as conn:
                return dict(await (await conn.execute(query, names)).fetchall())

    def look(kind: str, dsn: str) -> dict[str, str]:
        guard = Guard(dsn, budget=4, floor=2, mode=kind)
        if kind == "async":
            return asyncio.run(run(guard))
        with guard:
            assert guard.ready, guard.status()
            with guard.connection(), guard.connection() as conn:
                return dict(conn.execute(query, names).fetchall())

    return look


# -- greeting ----------------------------------------------------------------------------------


def test_it_sets_what_lets_the_server_notice_our_death(server: PrivatePostgres) -> None:
    with server.connect() as conn:
        assert settings(conn)[CHECK] == "0"
        greet(conn)
        assert settings(conn) == dict(zip((CHECK, *KEEPALIVES), OURS, strict=True))


def test_what_the_operator_made_stricter_is_left_alone(server: PrivatePostgres) -> None:
    """By role or by database; the rest is set all the same."""
    role = server.create_role("strict")
    with server.connect() as admin:
        admin.execute(f"ALTER ROLE strict SET {CHECK} = 200")
        admin.execute("CREATE DATABASE strict")
        admin.execute("ALTER DATABASE strict SET tcp_keepalives_idle = 15")
        admin.execute("ALTER DATABASE strict SET tcp_keepalives_interval = 7")
    with psycopg.connect(role, autocommit=True) as conn:
        greet(conn)
        assert settings(conn)[CHECK] == "200"
        assert settings(conn)["tcp_keepalives_idle"] == "30"
    with server.connect(dbname="strict") as conn:
        greet(conn)
        assert settings(conn)[CHECK] == "1000"
        assert settings(conn)["tcp_keepalives_idle"] == "15"
        assert settings(conn)["tcp_keepalives_interval"] == "7"


def test_what_the_operator_left_laxer_than_ours_is_set(server: PrivatePostgres) -> None:
    role = server.create_role("lax")
    with server.connect() as admin:
        admin.execute("ALTER ROLE lax SET tcp_keepalives_idle = 600")
    with psycopg.connect(role, autocommit=True) as conn:
        greet(conn)
        assert settings(conn)["tcp_keepalives_idle"] == "30"


def test_it_tells_the_backend_as_pg_stat_activity_does(server: PrivatePostgres) -> None:
    """To an ordinary role, and plainly as well; so nobody takes a living one for another's."""
    role = server.create_role("ordinary")
    with psycopg.connect(role, autocommit=True) as conn, server.connect() as admin:
        backend = backend_of(greet(conn), conn.info.backend_pid)
        assert backend.pid == conn.info.backend_pid
        assert backend.started > 0
        plain = conn.execute(PLAIN_GREETING).fetchone()
        assert plain == backend
        for asker in (admin, conn):
            rows = asker.execute(ASK_ALIVE, {"pids": [backend.pid]}).fetchall()
            assert [row[:2] for row in rows] == [backend]


def test_over_a_unix_socket(server: PrivatePostgres) -> None:
    """Where there are no keepalives to set."""
    with server.connect(host=str(server.folder)) as conn:
        greet(conn)
        assert settings(conn)[CHECK] == "1000"


def test_a_session_whose_pid_is_another_is_told_nothing(server: PrivatePostgres) -> None:
    """It is with a pooler, whose server connection others use next."""
    with server.connect() as conn:
        before = settings(conn)
        assert backend_of(greet(conn, login_pid=1), 1) == POOLED
        assert settings(conn) == before


def test_as_options_it_outlives_a_reset_and_gives_way_to_the_operators_own(
    server: PrivatePostgres,
) -> None:
    role = server.create_role("restored")
    with server.connect() as admin:
        admin.execute("CREATE DATABASE restored")
        admin.execute(f"ALTER ROLE restored SET {CHECK} = '0.2s'")
        admin.execute(f"ALTER DATABASE restored SET {CHECK} = '9s'")
        admin.execute("ALTER DATABASE restored SET tcp_keepalives_idle = '15s'")
    conninfo = make_conninfo(role, dbname="restored", options=OPTIONS[0])
    with psycopg.connect(conninfo, autocommit=True) as conn:
        told = settings(conn)
        assert told == dict(zip((CHECK, *KEEPALIVES), OURS, strict=True))
        rows(conn, RESTORE, {"login_pid": 1})
        assert settings(conn) == told
        rows(conn, RESTORE, {"login_pid": conn.info.backend_pid})
        assert settings(conn) == {**told, CHECK: "200", "tcp_keepalives_idle": "15"}
        conn.execute("DISCARD ALL")
        assert settings(conn) == told


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_guard_greets_each_connection(
    dsn: str, kind: str, in_guard: Callable[..., dict[str, str]]
) -> None:
    assert in_guard(kind, dsn)[CHECK] == "1000"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_platform_that_cannot_look_for_its_client(
    dsn: str,
    kind: str,
    in_guard: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refuses the setting, as an option and then as a setting (22023), and is greeted plainly
    from then on."""
    # PostgreSQL answers the same to any value that it cannot take.
    monkeypatch.setattr(
        "poolguard.runtime.greeting.GREETING",
        GREETING.replace(f"'{session.CHECK_INTERVAL}', false", "'-1', false"),
    )
    more, fewer = OPTIONS
    monkeypatch.setattr(
        "poolguard.budget.dialing.OPTIONS",
        (more.replace(f"={session.CHECK_INTERVAL}", "=-1"), fewer),
    )
    assert in_guard(kind, dsn)[CHECK] == "0"


# -- the dead ----------------------------------------------------------------------------------

ONE, TWO = Orphan(1, Backend(100, 5.5)), Orphan(2, Backend(200, 6.5))


@pytest.mark.parametrize(
    ("rows", "gone"),
    [
        ([(100, 5.5, True), (200, 6.5, True)], []),
        ([(200, 6.5, True)], [ONE]),
        ([], [ONE, TWO]),
        ([(100, 7.25, True), (200, 6.5, True)], [ONE]),  # its pid was given to another session
        ([(100, 0.0, False), (200, 6.5, True)], []),  # another role's, whose start we are not shown
    ],
)
def test_who_is_gone(rows: list[Row], gone: list[Orphan]) -> None:
    assert gone_among([ONE, TWO], rows) == gone


@pytest.mark.parametrize(
    ("row", "ended"),
    [
        ((100, 5.5, True), [100]),
        ((100, 7.25, True), []),  # its pid was given to another session
        ((100, 5.5, False), []),
        ((100, 0.0, True), []),
    ],
)
def test_who_is_to_be_ended(row: Row, ended: list[int]) -> None:
    late = ONE._replace(overdue=True)
    assert to_be_ended([late, TWO._replace(overdue=True)], [row]) == ended
    assert to_be_ended([ONE, TWO], [row]) == []
    unknown = Orphan(1, Backend(100, 0.0), overdue=True)
    assert to_be_ended([unknown], [row]) == []


def test_a_session_of_our_role_is_ours_to_end(server: PrivatePostgres) -> None:
    mine, theirs = server.create_role("mine"), server.create_role("theirs")
    connect = functools.partial(psycopg.connect, autocommit=True)
    with connect(mine) as one, connect(mine) as asker, connect(theirs) as other:
        orphans = [
            Orphan(nth, backend_of(greet(conn), conn.info.backend_pid), overdue=True)
            for nth, conn in enumerate((one, other))
        ]
        rows = asker.execute(ASK_ALIVE, {"pids": pids_of(orphans)}).fetchall()
        ended = to_be_ended(orphans, rows)
        assert ended == [one.info.backend_pid]
        # Whatever is given, another role's session is not touched, which would be an error.
        assert asker.execute(END, {"pids": pids_of(orphans)}).fetchall() == [(True,)]
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            one.execute("SELECT 1")
        other.execute("SELECT 1")


def test_where_ending_sessions_is_forbidden_none_is_ours(server: PrivatePostgres) -> None:
    """An operator may do so, database by database: the question has to be answered all the same."""
    role = server.create_role("forbidden")
    with server.connect() as admin:
        admin.execute("CREATE DATABASE forbidden")
    with server.connect(dbname="forbidden") as admin:
        admin.execute("REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC")
    with psycopg.connect(make_conninfo(role, dbname="forbidden")) as conn:
        rows = conn.execute(ASK_ALIVE, {"pids": [conn.info.backend_pid]}).fetchall()
        assert [row[2] for row in rows] == [False]


def test_one_whose_start_was_not_known_when_it_began() -> None:
    """It died before it was greeted: as long as its pid is there, so may it be."""
    orphan = Orphan(3, Backend(300, 0.0))
    assert gone_among([orphan], [(300, 8.0, True)]) == []
    assert gone_among([orphan], []) == [orphan]
    assert pids_of([ONE, orphan]) == [100, 300]


def test_another_roles_session_is_not_taken_for_gone(postgres: PrivatePostgres) -> None:
    """Credentials rotate, the ledger is the same; the server shows its start to nobody else."""
    old, new = postgres.create_role("rotated_out"), postgres.create_role("rotated_in")
    with psycopg.connect(old, autocommit=True) as conn, psycopg.connect(new) as asker:
        orphan = Orphan(1, backend_of(greet(conn), conn.info.backend_pid))
        rows = asker.execute(ASK_ALIVE, {"pids": pids_of([orphan])}).fetchall()
        assert gone_among([orphan], rows) == []


@pytest.mark.parametrize("how", ["greeted", "plainly"])
def test_the_query_of_a_killed_client_ends_soon(
    dsn: str, admin: psycopg.Connection, tmp_path: Path, how: str
) -> None:
    """And would not without what the greeting sets."""
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, make_conninfo(dsn, application_name="victim"), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run")},
    )
    assert victim.stdout is not None
    pid = int(victim.stdout.readline())

    def sleeps() -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%sleep(30)%%'"
        return admin.execute(query, [pid]).fetchone() is not None

    until(sleeps)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    if how == "greeted":
        until(lambda: not sleeps(), within=4)
        return
    deadline = monotonic() + 2.5 * session.CHECK_INTERVAL / 1000
    while monotonic() < deadline:
        assert sleeps()
        admin.execute("SELECT pg_sleep(0.1)")
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
