"""Capacity: what the query says can be opened is what can really be opened, on each PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from poolguard.budget.capacity import QUERY, Capacity
from poolguard.lab.binaries import Binaries, find_all
from poolguard.lab.postgres import PrivatePostgres
from tests.support import until

MAX_CONNECTIONS = 16
FOR_SUPERUSERS = 2
FOR_MEMBERS = 3  # reserved_connections, which came with 16
REFUSALS = ("too many", "slots are reserved")
STEADY = 0.1
"""Seconds for which refusals must go on: a slot is freed a moment after it no longer shows."""


@pytest.fixture(scope="module", params=find_all(), ids=lambda binaries: binaries.version)
def server(request: pytest.FixtureRequest) -> Iterator[PrivatePostgres]:
    binaries: Binaries = request.param
    settings = {
        "max_connections": str(MAX_CONNECTIONS),
        "superuser_reserved_connections": str(FOR_SUPERUSERS),
        "autovacuum": "off",
        "max_wal_senders": "4",
    }
    if binaries.major >= 16:
        settings |= {"reserved_connections": str(FOR_MEMBERS), "scram_iterations": "64"}
    with PrivatePostgres(binaries=binaries, settings=settings) as server:
        with server.connect() as admin:
            admin.execute("CREATE DATABASE limited CONNECTION LIMIT 4")
            admin.execute("CREATE DATABASE plain")
        yield server


@pytest.fixture
def role(server: PrivatePostgres) -> Iterator[str]:
    """An ordinary role's conninfo; its limit and its memberships go with the test."""
    yield server.create_role("app")
    with server.connect() as admin:
        admin.execute("DROP ROLE app")


@pytest.fixture
def stack(server: PrivatePostgres, role: str) -> Iterator[ExitStack]:
    """Connections that stay open during a test; the server is empty when the next one begins."""
    with ExitStack() as stack:
        yield stack
    until(lambda: _is_empty(server))


def _is_empty(server: PrivatePostgres) -> bool:
    try:
        with server.connect() as admin:
            return _clients(admin) == 1
    except psycopg.OperationalError:
        return False


def _clients(conn: psycopg.Connection) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def ask(stack: ExitStack, conninfo: str) -> Capacity:
    """What the server says to a connection that stays open, once those are gone that do not."""
    conn = stack.enter_context(psycopg.connect(conninfo, autocommit=True))
    mine = len(stack._exit_callbacks)  # type: ignore[attr-defined]
    until(lambda: answer(conn).used_server <= mine)  # a role sees no backend_type of another's
    return answer(conn)


def answer(conn: psycopg.Connection) -> Capacity:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(QUERY).fetchone()
    assert row is not None
    return Capacity.from_row(row)


def fill(stack: ExitStack, conninfo: str) -> int:
    """Open connections until the server refuses them for good; how many those were."""
    opened = 0
    refused_since: float | None = None
    while refused_since is None or monotonic() < refused_since + STEADY:
        try:
            stack.enter_context(psycopg.connect(conninfo))
        except psycopg.OperationalError as error:
            if not any(words in str(error) for words in REFUSALS):
                raise
            refused_since = refused_since or monotonic()
        else:
            opened += 1
            refused_since = None
    return opened


def _for_members(server: PrivatePostgres) -> int:
    return FOR_MEMBERS if _major(server) >= 16 else 0


def _major(server: PrivatePostgres) -> int:
    return int(server.version.partition(".")[0])


def test_an_ordinary_role(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    capacity = ask(stack, role)
    reserved = FOR_SUPERUSERS + _for_members(server)
    assert capacity == Capacity(
        server=MAX_CONNECTIONS - reserved,
        free_now=MAX_CONNECTIONS - reserved - 1,
        max_connections=MAX_CONNECTIONS,
        for_superusers=FOR_SUPERUSERS,
        for_members=_for_members(server),
        used_server=1,
        used_role=1,
        used_database=1,
        used_own=1,
    )
    assert capacity.usable == MAX_CONNECTIONS - reserved
    assert fill(stack, role) == capacity.free_now


def test_others_already_connected(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    """Other roles' connections, which the role sees without their kind, take from what is free."""
    for _ in range(2):
        stack.enter_context(server.connect())
    stack.enter_context(server.connect(dbname="plain"))
    mine = stack.enter_context(psycopg.connect(role))
    capacity = ask(stack, role)
    assert (capacity.used_server, capacity.used_role) == (5, 2)
    assert (capacity.used_database, capacity.used_own, capacity.unclassified) == (4, 2, 3)
    assert capacity.left_by_others == capacity.server - 3
    assert fill(stack, role) == capacity.free_now == capacity.server - 5
    assert not mine.closed


def test_a_role_with_a_limit(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    """All its connections count, to whichever database."""
    with server.connect() as admin:
        admin.execute("ALTER ROLE app CONNECTION LIMIT 5")
    stack.enter_context(psycopg.connect(role, dbname="plain"))
    capacity = ask(stack, role)
    assert (capacity.role, capacity.usable, capacity.left_by_others) == (5, 5, 4)
    assert fill(stack, role) == capacity.free_now == 3


def test_a_database_with_a_limit(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    """All connections to it count, of whichever role."""
    stack.enter_context(server.connect(dbname="limited"))
    limited = make_conninfo(role, dbname="limited")
    capacity = ask(stack, limited)
    assert (capacity.database, capacity.usable, capacity.left_by_others) == (4, 4, 3)
    assert fill(stack, limited) == capacity.free_now == 2


def test_a_member_of_pg_use_reserved_connections(
    server: PrivatePostgres, stack: ExitStack, role: str
) -> None:
    """It may use what is reserved for its like, and nothing that is for superusers."""
    if _major(server) < 16:
        pytest.skip("reserved_connections came with PostgreSQL 16")
    with server.connect() as admin:
        admin.execute("GRANT pg_use_reserved_connections TO app")
    capacity = ask(stack, role)
    assert capacity.for_members == 0
    assert capacity.usable == MAX_CONNECTIONS - FOR_SUPERUSERS
    assert fill(stack, role) == capacity.free_now == capacity.usable - 1


def test_a_superuser(server: PrivatePostgres, stack: ExitStack) -> None:
    """No limit but max_connections, not even its own or the database's."""
    with server.connect() as admin:
        admin.execute("ALTER ROLE postgres CONNECTION LIMIT 2")
    conninfo = server.conninfo(dbname="limited")
    capacity = ask(stack, conninfo)
    assert capacity.superuser
    assert (capacity.role, capacity.database) == (None, None)
    assert capacity.usable == MAX_CONNECTIONS
    assert fill(stack, conninfo) == capacity.free_now == MAX_CONNECTIONS - 1


def test_a_replica_takes_none(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    """Its connection draws on max_wal_senders, and on no limit of the role's either."""
    with server.connect() as admin:
        admin.execute("ALTER ROLE app REPLICATION CONNECTION LIMIT 3")
    stack.enter_context(psycopg.connect(role, replication="true", autocommit=True))
    capacity = ask(stack, role)
    assert fill(stack, role) == capacity.free_now == 2


def test_nothing_is_left(server: PrivatePostgres, stack: ExitStack, role: str) -> None:
    """Superusers beyond what is reserved for them leave less than nothing, which is none."""
    conn = stack.enter_context(psycopg.connect(role, autocommit=True))
    assert fill(stack, server.conninfo()) == MAX_CONNECTIONS - 1
    capacity = answer(conn)
    assert capacity.free_now == 0
    assert capacity.left_by_others == 0
    assert fill(stack, role) == 0


def test_a_managed_service_reserves_more(stack: ExitStack, role: str) -> None:
    """RDS has a setting of its own for that; a setting of that name can be had anywhere."""
    plain = ask(stack, role)
    options = "-c rds.rds_superuser_reserved_connections=2"
    rds = ask(stack, make_conninfo(role, options=options))
    assert rds.for_service == 2
    assert rds.server == plain.server - 2


def test_the_arithmetic_names_each_reserve(
    server: PrivatePostgres, stack: ExitStack, role: str
) -> None:
    text = ask(stack, role).explain()
    expected = (
        f"{MAX_CONNECTIONS} max_connections − {FOR_SUPERUSERS} superuser_reserved_connections"
    )
    if _for_members(server):
        expected += f" − {FOR_MEMBERS} reserved_connections"
    assert text == expected


def test_a_standby_says_so(server: PrivatePostgres) -> None:
    """A server that is always in recovery grants the same, and answers that it is one."""
    signal = server.folder / "data" / "standby.signal"
    server.stop()
    signal.touch()
    try:
        server.start()
        with ExitStack() as stack:
            assert ask(stack, server.conninfo()).standby
        server.stop()
    finally:
        signal.unlink()
        server.start()
    with ExitStack() as stack:
        assert not ask(stack, server.conninfo()).standby


def test_which_limit_rules() -> None:
    """The least, and the explanation names it; what others hold counts against each."""
    assert Capacity(97).usable == 97
    assert Capacity(97, role=20, database=30).usable == 20
    assert Capacity(97, role=40, database=30).usable == 30
    assert Capacity(97, role=20).explain() == (
        "the role's CONNECTION LIMIT; the server would grant 97"
    )
    assert Capacity(97, database=20).explain() == (
        "the database's CONNECTION LIMIT; the server would grant 97"
    )
    assert Capacity(97, role=100, max_connections=100, for_superusers=3).explain() == (
        "100 max_connections − 3 superuser_reserved_connections"
    )
    assert Capacity(97).explain() == "as given"
    assert Capacity(97).left_by_others is None
    overdrawn = Capacity(5, free_now=0, used_server=9, used_own=1)
    assert overdrawn.left_by_others == 0
