"""What is asked of the server for poolguard's own sake, whatever the application has set up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poolguard import Guard
from poolguard.budget.capacity import QUERY, Capacity
from poolguard.budget.queries import async_rows, one_row, rows
from poolguard.budget.session import ASK_ALIVE, GREETING, backend_of
from poolguard.lab.postgres import PrivatePostgres
from tests.support import until

HOSTILE = {
    "statement_timeout": "200",
    "lock_timeout": "1",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "extra_float_digits": "0",
    "role": "'hostile_owner'",
    "search_path": "hostile, pg_catalog",
}
SHADOWS = """
CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE hostile.pg_stat_activity (pid int);
GRANT SELECT ON hostile.pg_stat_activity TO PUBLIC;
"""
TYPES = ("bool", "int4", "int8", "float8", "text", "name")


@pytest.fixture(scope="module")
def hostile(postgres: PrivatePostgres) -> str:
    """A role whose sessions begin with what could get in the way of a question."""
    dsn = postgres.create_role("hostile")
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE hostile_owner")
        admin.execute("GRANT hostile_owner TO hostile")
        admin.execute(SHADOWS)
        for name, value in HOSTILE.items():
            admin.execute(f"ALTER ROLE hostile SET {name} = {value}")
    return dsn


class AsDecimal(psycopg.adapt.Loader):
    """Reads whatever it is registered for as a Decimal, or as nothing."""

    def load(self, data: psycopg.adapt.Buffer) -> object:
        text = bytes(data).decode()
        return Decimal(text) if text.replace(".", "").isdigit() else None


@pytest.fixture
def loaders() -> Iterator[None]:
    """Registered for all of psycopg."""
    adapters, text = psycopg.adapters, psycopg.pq.Format.TEXT
    before = {name: adapters.get_loader(adapters.types[name].oid, text) for name in TYPES}
    for name in TYPES:
        adapters.register_loader(name, AsDecimal)
    yield
    for name, loader in before.items():
        assert loader is not None
        adapters.register_loader(name, loader)


@pytest.mark.usefixtures("loaders")
def test_what_the_session_is_set_to_has_no_part_in_it(hostile: str, dsn: str) -> None:
    with psycopg.connect(hostile) as conn, psycopg.connect(dsn) as other, ExitStack() as stack:
        assert type(conn.execute("SELECT 1").fetchone()[0]) is Decimal  # type: ignore[index]
        conn.rollback()
        # A deferrable question would wait for the end of this transaction.
        writer = stack.enter_context(psycopg.connect(dsn))
        writer.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        writer.execute("SELECT pg_current_xact_id()")
        assert one_row(conn, "SELECT pg_sleep(0.4) IS NULL AS slow") == {"slow": False}
        pid = conn.info.backend_pid
        backend = backend_of(one_row(conn, GREETING, {"login_pid": pid}), pid)
        assert backend.pid == pid
        assert type(backend.started) is float
        asked = {"pids": [pid, other.info.backend_pid]}
        living = {row["pid"]: row for row in rows(conn, ASK_ALIVE, asked)}
        assert living[pid] == {"pid": pid, "started": backend.started, "ours": True}
        assert living[other.info.backend_pid]["ours"] is False
        # To the last digit, or it would be taken for another session.
        assert rows(other, ASK_ALIVE, {"pids": [pid]})[0]["started"] == backend.started
        mine, theirs = one_row(conn, QUERY), one_row(other, QUERY)
        assert Capacity.from_row(mine).max_connections == theirs["max_connections"] == 100
        assert (mine["superuser"], theirs["superuser"]) == (False, True)


def test_it_is_bounded_though_the_session_is_not(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolguard.budget.queries.PREFACE", "SET LOCAL statement_timeout = 50;")
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.QueryCanceled):
        one_row(conn, "SELECT pg_sleep(20)")


@pytest.mark.parametrize("autocommit", [False, True])
def test_it_leaves_the_session_as_it_is(hostile: str, autocommit: bool) -> None:
    """In no transaction, with its own settings and factories, and nothing prepared."""
    seen: list[str | None] = []

    async def run() -> dict[str, Any]:
        conn = await psycopg.AsyncConnection.connect(
            hostile, autocommit=autocommit, cursor_factory=psycopg.AsyncRawCursor
        )
        async with conn:
            conn.prepare_threshold = 0
            conn.add_notice_handler(lambda diagnostic: seen.append(diagnostic.message_primary))
            await async_rows(conn, GREETING, {"login_pid": conn.info.backend_pid})
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert conn.autocommit == autocommit
            names = [*HOSTILE, "tcp_keepalives_idle"]
            prepared = await conn.execute("SELECT count(*) FROM pg_prepared_statements")
            assert await prepared.fetchone() == (1,)  # this one
            return {
                name: (await (await conn.execute(f"SHOW {name}")).fetchone() or [""])[0]
                for name in names
            }

    after = asyncio.run(run())
    assert after["tcp_keepalives_idle"] == "30"
    assert (after["statement_timeout"], after["role"]) == ("200ms", "hostile_owner")
    assert after["search_path"] == "hostile, pg_catalog"
    assert after["extra_float_digits"] == "0"
    assert seen == []


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an instrumentation sees that wraps psycopg's classes, as those of vendors do."""
    seen: list[str] = []

    def wrapped(cls: type, name: str) -> Callable[..., Any]:
        method = getattr(cls, name)

        def traced(*args: Any, **kwargs: Any) -> Any:
            seen.append(f"{cls.__name__}.{name}")
            return method(*args, **kwargs)

        return traced

    for cls in (psycopg.Cursor, psycopg.AsyncCursor):
        for name in ("execute", "executemany", "stream"):
            monkeypatch.setattr(cls, name, wrapped(cls, name))
    for base in (psycopg.Connection, psycopg.AsyncConnection):
        for name in ("execute", "commit", "rollback"):
            monkeypatch.setattr(base, name, wrapped(base, name))
    return seen


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_a_pool_does_of_itself_is_not_traced(
    dsn: str, admin: psycopg.Connection, traced: list[str], mode: str
) -> None:
    """It greets its connections, asks for the capacity, verifies idle ones and retires them."""
    name = f"untraced-{mode}"
    conninfo = make_conninfo(dsn, application_name=name)
    times = f"""
        SELECT pid, extract(epoch FROM query_start)::float8 AS at, query
          FROM pg_stat_activity WHERE application_name = '{name}'
    """

    def sessions() -> dict[int, tuple[Any, str]]:
        return {row["pid"]: (row["at"], row["query"]) for row in rows(admin, times)}

    settings: dict[str, Any] = {"budget": "50%", "floor": 2, "check_interval": 0.05}

    def watch() -> None:
        before = sessions()
        assert len(before) == 2
        until(lambda: all(sessions()[pid][0] > at for pid, (at, _) in before.items()))
        assert {query for _, query in sessions().values()} == {""}

    async def run() -> None:
        async with Guard(conninfo, mode="async", **settings) as guard:
            await asyncio.to_thread(watch)
            assert traced == []
            async with guard.aconnection() as conn:
                await conn.execute("SELECT 1")

    if mode == "async":
        asyncio.run(run())
    else:
        with Guard(conninfo, mode="sync", **settings) as guard:
            watch()
            assert traced == []
            with guard.connection() as conn:
                conn.execute("SELECT 1")
    assert {each.partition(".")[2] for each in traced} == {"execute", "commit"}
