"""Guards that share a budget on one host: in one process, which is as several, and in several."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolguard import Guard
from poolguard.budget.host import orphans
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.pool.errors import PoolTimeout
from poolguard.util import rundir
from poolguard.util.conninfo_location import database_name, ledger_name

from ..support import until
from .test_async import eventually
from .test_guard import backends, named

HOLDER = """
import sys
import threading
from poolguard import Guard
guard = Guard(sys.argv[1], **eval(sys.argv[2]))
guard.open(wait=20)
print("ready" if guard.ready else guard.status(), flush=True)
sys.stdin.read()
guard.close()
"""


@pytest.fixture
def role(postgres: PrivatePostgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """The way of a role of the test's own, held to 20 connections: 17 after the reserve."""
    name = "r" + str(abs(hash(request.node.name)))
    yield postgres.create_role(name, connection_limit=20)
    with postgres.connect() as admin:
        until(lambda: not _count(admin, name))
        admin.execute(f"DROP ROLE {name}")


def _count(admin: psycopg.Connection[Any], role: str) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    row = admin.execute(query, [role]).fetchone()
    assert row is not None
    return int(row[0])


Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Another process that opens a guard with these settings, and closes it at the end."""
    with ExitStack() as stack:

        def hold(dsn: str, **settings: Any) -> subprocess.Popen[str]:
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLDER, dsn, repr(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(rundir.default_path())},
            )
            stack.callback(holder.communicate)  # closes its standard input: it ends
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            return holder

        yield hold


def held(guard: Guard) -> int:
    status = guard.status()
    return int(status["idle"] + status["used"])


@asynccontextmanager
async def opened(*guards: Guard) -> AsyncIterator[None]:
    """The guards open, whichever their kind, until the block ends; warm, if they can be."""
    for guard in guards:
        await (guard.aopen() if guard.mode == "async" else asyncio.to_thread(guard.open))
    try:
        yield
    finally:
        for guard in guards:
            await (guard.aclose() if guard.mode == "async" else asyncio.to_thread(guard.close))


async def is_ready(guard: Guard) -> None:
    await eventually(lambda: guard.ready)


async def take(guard: Guard, stack: AsyncExitStack, timeout: float = 5.0) -> None:
    """Have one connection of the guard lent until the stack ends."""
    if guard.mode == "async":
        await stack.enter_async_context(guard.aconnection(timeout))
        return
    lent = guard.connection(timeout)
    await asyncio.to_thread(lent.__enter__)
    stack.callback(lent.__exit__, None, None, None)


# -- the name ----------------------------------------------------------------------------------

PLACE = ("db.example", "5433", "shop")


def test_one_place_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is written, and whoever asks."""
    url = ledger_name("postgresql://ann:s3cret@db.example:5433/shop", "default")
    words = ledger_name("host=db.example port=5433 dbname=shop user=bob password=x", "other")
    for variable, value in zip(("PGHOST", "PGPORT", "PGDATABASE"), PLACE, strict=True):
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PGUSER", "carl")
    assert url == words == ledger_name(None, "default") == ledger_name("user=dora", "default")


def test_defaults_count_as_if_written() -> None:
    assert ledger_name("host=a dbname=b", "x") == ledger_name("host=a dbname=b port=5432", "x")


@pytest.mark.parametrize(
    "other",
    [
        "postgresql://ann@db.example:5434/shop",
        "postgresql://ann@db2.example:5433/shop",
        "postgresql://ann@db.example:5433/shop?hostaddr=10.0.0.1",
    ],
)
def test_another_server_has_another_name(other: str) -> None:
    assert ledger_name(other, "x") != ledger_name("postgresql://ann@db.example:5433/shop", "x")


def test_capacity_belongs_to_the_server_whatever_the_database() -> None:
    """And however its own host is called."""
    one = ledger_name("host=127.0.0.1 dbname=shop", "x")
    assert one == ledger_name("postgresql://bob@LOCALHOST/stock", "x")
    assert database_name("host=a dbname=b", "x") != database_name("host=a dbname=c", "x")


def test_neither_user_nor_password_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of odd bytes, as a variable may have it, is nobody's business here."""
    monkeypatch.setitem(os.environb, b"PGPASSWORD", b"s3cret\xe9")
    way = "postgresql://ann:s3cret@db.example/sh/op"
    assert ledger_name(way, "x").startswith("db.example-")
    assert database_name(way, "x").startswith("sh_op-")
    for name in (ledger_name(way, "x"), database_name(way, "x")):
        assert "ann" not in name
        assert "s3cret" not in name
        assert "/" not in name


def test_what_a_callable_answers_is_not_known() -> None:
    """It goes by its own name and the guard's."""

    def vault() -> str:
        raise AssertionError("it was called")

    class Rotating:
        def __call__(self) -> str:
            raise AssertionError("it was called")

    partial = functools.partial(vault)
    nameless = "host=a".strip  # a builtin's method has no module
    names = [ledger_name(each, "main") for each in (vault, Rotating(), partial, nameless)]
    assert len({*names, ledger_name(vault, "other")}) == 5
    assert ledger_name(vault, "main") == names[0]
    assert all(name.startswith("main-") for name in names)


# -- one budget --------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("sync", "sync"), ("async", "async"), ("sync", "async")])
def test_two_guards_of_one_database_share_one_budget(
    dsn: str, admin: psycopg.Connection, kinds: tuple[str, str]
) -> None:
    """Five in all: when the one holds four, the other has one, and finds out that this is why."""
    way = named(dsn, f"share-{'-'.join(kinds)}")
    one, other = (
        Guard(way, name=f"{n}", mode=kind, budget=5, workers=2, floor=1)
        for n, kind in enumerate(kinds)
    )

    async def run() -> None:
        async with opened(one, other):
            await eventually(lambda: one.ready and other.ready)
            async with AsyncExitStack() as stack:
                for _ in range(4):
                    await take(one, stack)
                await take(other, stack)
                assert one.status()["budget"]["in_use"] == 5
                with pytest.raises(PoolTimeout, match="budget has no free slot"):
                    await take(other, stack, timeout=0.3)
                assert backends(admin, f"share-{'-'.join(kinds)}") == 5
            # What comes back is free for whoever asks.
            async with AsyncExitStack() as stack:
                for _ in range(4):
                    await take(other, stack)

    asyncio.run(run())


def test_two_processes_share_one_budget(dsn: str, hold: Hold) -> None:
    hold(dsn, budget=4, floor=2)
    with Guard(dsn, budget=4, floor=2) as guard, ExitStack() as stack:
        assert guard.status()["budget"]["in_use"] == 4
        for _ in range(2):
            stack.enter_context(guard.connection())
        with pytest.raises(PoolTimeout, match="budget has no free slot"):
            guard.connection(timeout=0.3).__enter__()


def test_what_a_killed_process_held_is_free_soon_though_nobody_needs_it(
    dsn: str, hold: Hold
) -> None:
    with Guard(dsn, name="one", mode="sync", budget=6, workers=2, floor=1) as one:
        hold(dsn, name="two", budget=6, workers=2, floor=1).kill()
        until(lambda: one.status()["budget"]["in_use"] == 1)


def test_without_doorbells_a_need_is_seen_all_the_same(dsn: str) -> None:
    settings: dict[str, Any] = {"mode": "sync", "budget": 6, "workers": 2, "floor": 1}
    with Guard(dsn, name="one", **settings) as one, Guard(dsn, name="two", **settings) as two:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(one.connection())
        for bell in rundir.default_path().glob("*.bell"):
            bell.unlink()
        with two.connection(), two.connection(), two.connection():
            assert held(one) <= 3


def test_another_database_has_another_budget(dsn: str, hold: Hold) -> None:
    hold(dsn, budget=2, floor=2)
    with Guard(make_conninfo(dsn, dbname="template1"), budget=2, floor=2) as guard:
        assert guard.ready
        assert guard.status()["budget"]["in_use"] == 2


@pytest.fixture
def small() -> Iterator[PrivatePostgres]:
    """A server that grants 20 to whoever is no superuser: 17 after the reserve."""
    settings = {"max_connections": "25", "superuser_reserved_connections": "5"}
    with PrivatePostgres(settings=settings) as server, server.connect() as admin:
        admin.execute("CREATE DATABASE stock")
        yield server


def test_what_the_server_grants_is_shared_by_its_databases(small: PrivatePostgres) -> None:
    """Guards for them hold no more together than one alone would, whoever knows of whom."""
    shop = small.create_role("shop")
    kinds = ("sync", "async", "sync")
    ways = (shop, make_conninfo(shop, dbname="stock"), make_conninfo(shop, dbname="template1"))
    guards = [
        Guard(way, name=f"{n}", mode=kind, floor=4)
        for n, (way, kind) in enumerate(zip(ways, kinds, strict=True))
    ]

    async def run() -> None:
        async with opened(*guards):
            await eventually(lambda: all(guard.ready for guard in guards))
            await eventually(lambda: [held(guard) for guard in guards] == [4, 4, 4])
            for guard in guards:
                budget = guard.status()["budget"]
                assert (budget["budget"], budget["instance"], budget["in_use"]) == (17, 5, 4)
            async with AsyncExitStack() as stack:
                for _ in range(17 - 4 - 4):
                    await take(guards[1], stack)
                with pytest.raises(PoolTimeout, match=r"17 connections that this host's.*holds 9"):
                    await take(guards[1], stack, timeout=0.3)
                for guard in (guards[0], guards[2]):
                    for _ in range(4):
                        await take(guard, stack)

    asyncio.run(run())


def test_a_roles_limit_binds_its_own(small: PrivatePostgres) -> None:
    """A role that may have few leaves the rest to others, and its own share what it has. It may be
    named beside the connection string."""
    few, many = small.create_role("few", connection_limit=5), small.create_role("many")
    named_few = {key: conninfo_to_dict(few)[key] for key in ("user", "password")}
    one, other = Guard(few, name="few", floor=1), Guard(many, name="many", floor=1)
    too = Guard(many, name="too", floor=1, kwargs=named_few)
    with one, other, too, ExitStack() as stack:
        until(lambda: one.ready and too.ready)
        assert [each.status()["max_size"] for each in (one, other)] == [2, 17]
        for guard, n in ((one, 1), (too, 1), (other, 15)):
            for _ in range(n):
                stack.enter_context(guard.connection())
        with pytest.raises(PoolTimeout, match="of the 2 connections that this role may have"):
            too.connection(timeout=0.3).__enter__()


def test_who_joins_is_served_though_floors_hold_all_that_there_is(dsn: str, hold: Hold) -> None:
    """Its siblings have no use for them, and yet their floors were promised: to as many as fit."""
    for n in range(2):
        hold(dsn, budget=8, floor=4, name=f"{n}")
    with Guard(dsn, budget=8, floor=4) as guard:
        with guard.connection(timeout=5) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert guard.ready
        until(lambda: held(guard) >= 2)  # it may have one more, as headroom


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_cannot_log_in_keeps_nobody_from_asking(small: PrivatePostgres, kind: str) -> None:
    """It came first, and the capacity is not known before somebody has asked."""
    ill = make_conninfo(small.create_role("ill"), password="wrong")
    first = Guard(ill, name="first", mode=kind)
    second = Guard(small.create_role("well"), name="second", mode=kind, floor=2)

    async def run() -> None:
        async with opened(first):
            await eventually(lambda: first.status()["last_error"])
            async with opened(second), AsyncExitStack() as stack:
                await take(second, stack)
                await eventually(lambda: second.ready)
                for _ in range(17 - 2):  # nobody keeps more than one for whoever cannot connect
                    await take(second, stack)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_cannot_ask_goes_by_what_its_siblings_have_learned(
    small: PrivatePostgres, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with small.connect(dbname="stock") as admin:
        admin.execute("REVOKE SELECT ON pg_stat_activity FROM PUBLIC")
    shop = small.create_role("shop")
    mute = Guard(make_conninfo(shop, dbname="stock"), name="mute", mode=kind, floor=1)
    sibling = Guard(shop, name="sibling", mode=kind, floor=1)

    async def run() -> None:
        async with opened(mute):
            await eventually(lambda: mute.status()["last_error"])
            assert not mute.ready
            async with opened(sibling):
                await eventually(lambda: mute.ready and sibling.ready)
                assert mute.status()["budget"]["capacity"] == 20

    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if "'mute'" in record.getMessage()]
    assert [text for text in said if "does not tell" in text] == [
        "poolguard 'mute': the server does not tell what it grants (InsufficientPrivilege); the "
        "plan follows what it has told other processes"
    ]


def test_a_static_ledger_shares_nothing(
    dsn: str, admin: psycopg.Connection, hold: Hold, caplog: pytest.LogCaptureFixture
) -> None:
    """Share ÷ workers for each, and no file of a ledger; that each has less is no news."""
    settings: dict[str, Any] = {"budget": 7, "workers": 3, "ledger": "static", "floor": 2}
    hold(dsn, **settings)
    with Guard(dsn, **settings) as guard, ExitStack() as stack:
        assert (guard.status()["max_size"], guard.status()["budget"]["in_use"]) == (2, 2)
        for _ in range(2):
            stack.enter_context(guard.connection())
        with pytest.raises(PoolTimeout):
            guard.connection(timeout=0.2).__enter__()
        stack.close()
        with guard.connection() as conn:
            pid = conn.info.backend_pid
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        until(lambda: sum(guard.status()["created"].values()) == 3)
    assert {path.suffix for path in rundir.default_path().iterdir()} <= {".status", ".history"}
    assert "share" not in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_is_still_lent_when_a_guard_is_opened_again_counts(
    dsn: str, admin: psycopg.Connection, kind: str
) -> None:
    """The second opening has a ledger of its own, of the same file."""
    name = f"reopened-{kind}"
    guard = Guard(named(dsn, name), mode=kind, budget=4, floor=1)

    async def run() -> None:
        async with AsyncExitStack() as old:
            async with opened(guard):
                for _ in range(3):
                    await take(guard, old)
            async with opened(guard), AsyncExitStack() as new:
                await take(guard, new)
                assert backends(admin, name) == 4
                with pytest.raises(PoolTimeout):
                    await take(guard, new, timeout=0.3)
                assert backends(admin, name) == 4
                await old.aclose()
                for _ in range(3):
                    await take(guard, new)
                assert backends(admin, name) == 4
        await eventually(lambda: backends(admin, name) == 0)

    asyncio.run(run())


# -- a budget that follows the server ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_workers_each_get_their_first_connection_and_then_the_plan(role: str, kind: str) -> None:
    """Three at once, of whom nobody knows anything yet."""
    guards = [Guard(role, name=f"{n}", mode=kind, workers=3, floor=2) for n in range(3)]

    async def run() -> None:
        async with opened(*guards):
            await eventually(lambda: all(guard.ready for guard in guards))
            for guard in guards:
                status = guard.status()
                assert status["budget"]["capacity"] == 20
                assert (status["floor"], status["max_size"], held(guard)) == (2, 13, 2)
            assert guards[0].status()["budget"]["in_use"] == 6

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_second_learns_from_the_first_while_it_still_asks(
    role: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was open first, but its own way to the server is of no use: a connect that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        way = make_conninfo(role, port=silent.getsockname()[1])
        late = Guard(way, name="late", mode=kind, workers=2, floor=1)
        quick = Guard(role, name="quick", mode=kind, workers=2, floor=1)
        # They are of one place, though the test has two ways to it.
        monkeypatch.setattr("poolguard.runtime.ledgers.ledger_name", lambda *_: "place")

        async def run() -> None:
            async with opened(late):
                await eventually(lambda: late.status()["opening"] == 1)
                assert late.status()["budget"]["capacity"] is None
                async with opened(quick):
                    await eventually(lambda: late.status()["budget"]["capacity"] == 20)
                    assert held(late) == 0
                    await eventually(lambda: late.status()["max_size"] == 16)
                silent.close()  # ends its connect

        asyncio.run(run())


def test_a_second_process_opens_with_what_the_first_has_published(
    role: str, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan stands before it has any connection."""
    hold(role, workers=2, floor=1)
    name = ledger_name(role, "default")
    monkeypatch.setattr("poolguard.runtime.ledgers.ledger_name", lambda *_: name)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        guard = Guard(make_conninfo(role, port=silent.getsockname()[1]), workers=2, floor=3)
        guard.open()
        until(lambda: guard.status()["opening"] == 3)
        assert guard.plan is not None
        assert (guard.plan.capacity, held(guard)) == (20, 0)


def test_what_is_published_but_cannot_be_divided_is_asked_again(
    role: str, hold: Hold, postgres: PrivatePostgres
) -> None:
    """It is no reason never to open: the server may grant more by then."""
    hold(role, workers=2, floor=1)
    user = conninfo_to_dict(role)["user"]
    with Guard(role, workers=2, floor=11, warmup_timeout=0.5) as guard:
        until(lambda: guard.status()["last_error"])
        assert "the budget is too small to be divided" in guard.status()["last_error"]
        with postgres.connect() as admin:
            admin.execute(f"ALTER ROLE {user} CONNECTION LIMIT 40")
        until(lambda: guard.plan is not None)
        assert guard.plan is not None
        assert guard.plan.capacity == 40


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_capacity_is_asked_again_after_an_outage(kind: str) -> None:
    with PrivatePostgres() as server:
        role = server.create_role("moody", connection_limit=20)
        guard = Guard(role, mode=kind, floor=2, workers=1)

        def change() -> None:
            with server.connect() as admin:
                admin.execute("ALTER ROLE moody CONNECTION LIMIT 13")
            server.stop()

        async def run() -> None:
            async with opened(guard):
                await eventually(lambda: guard.ready)
                assert guard.status()["max_size"] == 17
                await asyncio.to_thread(change)
                await eventually(lambda: guard.status()["last_error"])
                await asyncio.to_thread(server.start)
                await eventually(lambda: guard.status()["budget"]["capacity"] == 13)
                await eventually(lambda: held(guard) == 2)
                assert guard.status()["max_size"] == 10
                async with AsyncExitStack() as stack:
                    for _ in range(10):
                        await take(guard, stack)

        asyncio.run(run())


# -- those who disagree ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("first", ["small", "large"])
def test_the_smaller_share_rules_as_long_as_it_is_there(
    dsn: str, kind: str, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names both, whoever came first; then the larger rules again."""
    small = Guard(dsn, name="small", mode=kind, budget=3, workers=2, floor=1)
    large = Guard(dsn, name="large", mode=kind, budget=6, workers=2, floor=1)
    caplog.set_level(logging.WARNING, "poolguard")

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    async def run() -> None:
        async with AsyncExitStack() as both:
            leaving = await both.enter_async_context(AsyncExitStack())
            for guard in (small, large) if first == "small" else (large, small):
                stack = leaving if guard is small else both
                await stack.enter_async_context(opened(guard))
                await is_ready(guard)
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await take(large, stack)
                with pytest.raises(PoolTimeout):
                    await take(large, stack, timeout=0.3)
            await eventually(said)
            assert len(said()) == 1
            assert "'large'" in said()[0]
            assert "a share of 3 connections" in said()[0]
            assert "this one by 6" in said()[0]
            await leaving.aclose()
            async with AsyncExitStack() as stack:
                for _ in range(5):
                    await take(large, stack)
            assert len(said()) == 1

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_the_network_forgets_comes_back(
    postgres: PrivatePostgres, admin: psycopg.Connection, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts the forgotten sessions as before, and the budget is all there is."""
    monkeypatch.setattr(orphans, "OVERDUE", 0.5)
    with SlowProxy(("127.0.0.1", postgres.port)) as proxy:
        dsn = named(postgres.conninfo(host=proxy.host, port=proxy.port), f"forgotten-{kind}")
        guard = Guard(dsn, mode=kind, budget=3, floor=3, check_interval=1, check_timeout=0.2)

        def is_back() -> bool:
            status = guard.status()
            return (status["closed"], status["idle"]) == ({"lost": 3}, 3)

        async def run() -> None:
            assert await guard.aopen(10)
            proxy.silence_all()
            await eventually(is_back)

        if kind == "async":
            asyncio.run(run())
        else:
            assert guard.open(wait=10)
            proxy.silence_all()
            until(is_back)
        assert backends(admin, f"forgotten-{kind}") == 3
        guard.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_connection_that_is_reset_may_live_on_at_the_server(
    postgres: PrivatePostgres, admin: psycopg.Connection, kind: str
) -> None:
    """A router may have lost its table. What the server counts is ended before it is replaced, but
    for the one that asks for it."""
    peak, over = [0], threading.Event()

    def watch(name: str) -> None:
        with postgres.connect(autocommit=True) as witness:
            while not over.is_set():
                peak[0] = max(peak[0], backends(witness, name))

    with SlowProxy(("127.0.0.1", postgres.port)) as proxy:
        name = f"reset-{kind}"
        dsn = named(postgres.conninfo(host=proxy.host, port=proxy.port), name)
        guard = Guard(dsn, mode=kind, budget=3, floor=3)
        watcher = threading.Thread(target=watch, args=(name,))

        def is_back() -> bool:
            status = guard.status()
            return (status["closed"], status["idle"]) == ({"lost": 3}, 3)

        async def run() -> None:
            assert await guard.aopen(10)
            watcher.start()
            proxy.forget_all()
            await eventually(is_back)

        if kind == "async":
            asyncio.run(run())
        else:
            assert guard.open(wait=10)
            watcher.start()
            proxy.forget_all()
            until(is_back)
        over.set()
        watcher.join(10)
        assert peak[0] <= 4
        assert backends(admin, name) == 3
        guard.close()


def test_where_connections_are_fewer_than_pools_one_that_has_none_is_not_warm(dsn: str) -> None:
    """Nobody is sure of one there, but a worker without a connection is not to be called ready."""
    with Guard(dsn, name="one", budget=1) as one:
        with one.connection():
            two = Guard(dsn, name="two", budget=1, mode="sync")
            two.open()
            assert not two.wait_warm(0.5)
            assert two.status()["ready"] is False
        assert two.wait_warm(10)
        assert two.status()["ready"] is True
        two.close()
