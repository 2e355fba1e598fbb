"""``pool.connection()``: what its object does to the connection, and who may enter it when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus

from tests.pool.support import Face, Kind, eventually, in_loop, opened

ONE: dict[str, Any] = {"min_size": 1, "max_size": 1}
ENTERED = r"entered already.* call pool\.connection\(\) for each"
BEGUN = "SELECT pg_current_xact_id()::text"


async def enter(pool: Face, block: Any) -> Any:
    """Enter it, in another thread or in the running task."""
    if pool.kind == "sync":
        return await asyncio.to_thread(block.__enter__)
    return await block.__aenter__()


async def leave(pool: Face, block: Any, error: BaseException | None = None) -> Any:
    """Leave it, if need be by *error*."""
    how = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    if pool.kind == "sync":
        return await asyncio.to_thread(block.__exit__, *how)
    return await block.__aexit__(*how)


async def value(pool: Face, conn: Any, query: str) -> Any:
    """The single value that *query* selects."""
    cursor = await pool.execute(conn, query)
    row = cursor.fetchone() if pool.kind == "sync" else await cursor.fetchone()
    return row[0]


async def by_the_same(pool: Face, block: Any) -> None:
    """Enter it twice in one thread, or in one task, and see the second refused in the first."""

    def sync() -> None:
        with block as conn:
            (begun,) = conn.execute(BEGUN).fetchone()
            with pytest.raises(RuntimeError, match=ENTERED), block:
                pass
            assert conn.execute(BEGUN).fetchone() == (begun,)
            conn.execute("SET statement_timeout TO 1234")

    if pool.kind == "sync":
        await asyncio.to_thread(sync)
        return
    async with block as conn:
        begun = await value(pool, conn, BEGUN)
        with pytest.raises(RuntimeError, match=ENTERED):
            async with block:
                pass
        assert await value(pool, conn, BEGUN) == begun
        await conn.execute("SET statement_timeout TO 1234")


async def by_another(pool: Face, block: Any) -> None:
    """The second comes from another thread, or another task."""
    conn = await enter(pool, block)
    begun = await value(pool, conn, BEGUN)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=ENTERED):
            await asyncio.create_task(enter(pool, block))
    assert await value(pool, conn, BEGUN) == begun
    await pool.execute(conn, "SET statement_timeout TO 1234")
    await leave(pool, block)


# -- entered twice -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", [by_the_same, by_another])
@in_loop
async def test_entered_while_it_is_it_says_so_and_the_first_goes_on(
    kind: Kind, dsn: str, second: Callable[[Face, Any], Any]
) -> None:
    """In its own transaction, which it commits. The one refused has taken no connection."""
    async with opened(kind, dsn, min_size=2, max_size=2) as pool:
        db = pool.pool.connection()
        await second(pool, db)
        assert pool.status()["acquires"] == {"acquired": 1}
        assert pool.status()["idle"] == 2
        conns = await pool.get_all(2)
        set_to = {await value(pool, conn, "SHOW statement_timeout") for conn in conns}
        assert set_to == {"0", "1234ms"}
        await pool.put(*conns)


@in_loop
async def test_entered_while_the_first_still_waits_it_says_so(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        lent = await pool.get()
        db = pool.pool.connection()
        first = asyncio.create_task(enter(pool, db))
        await eventually(lambda: pool.status()["waiting"] == 1)
        with pytest.raises(RuntimeError, match=ENTERED):
            await enter(pool, db)
        assert pool.status()["waiting"] == 1
        await pool.put(lent)
        assert await first is lent
        assert await value(pool, lent, "SELECT 7") == 7
        await leave(pool, db)
        assert pool.status()["idle"] == 1


@in_loop
async def test_of_many_that_enter_at_once_one_does(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=4, max_size=4) as pool:
        for _ in range(20):
            db = pool.pool.connection()
            ways = await asyncio.gather(
                *(enter(pool, db) for _ in range(8)), return_exceptions=True
            )
            refused = [way for way in ways if isinstance(way, RuntimeError)]
            assert (len(refused), pool.status()["used"]) == (7, 1)
            await leave(pool, db)
        assert pool.status()["idle"] == 4


# -- entered again -----------------------------------------------------------------------------


@in_loop
async def test_once_it_was_left_it_can_be_entered_again(kind: Kind, dsn: str) -> None:
    """However it was left; and who keeps it does not keep the connection."""
    async with opened(kind, dsn, **ONE) as pool:
        db = pool.pool.connection()
        for error in (None, KeyError("of the block's"), None):
            conn = await enter(pool, db)
            assert repr(db).endswith(" entered>")
            await pool.execute(conn, "SELECT 1")
            assert not await leave(pool, db, error)
            assert pool.name in repr(db)
            assert not repr(db).endswith(" entered>")
            assert pool.status()["idle"] == 1
        conn = await enter(pool, db)
        conn.pgconn.finish()
        await leave(pool, db)
        conn = await enter(pool, db)
        assert await value(pool, conn, "SELECT 7") == 7
        await leave(pool, db)
        await pool.execute(await enter(pool, db), "SELECT 1")
        await leave(pool, db)
        assert not [name for name in dir(db) if getattr(db, name) is conn]


@in_loop
async def test_after_an_acquire_that_has_failed_it_can_be_entered_again(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        lent = await pool.get()
        db = pool.pool.connection(timeout=0.02)
        for _ in range(2):
            with pytest.raises(psycopg_pool.PoolTimeout):
                await enter(pool, db)
        await pool.put(lent)
        assert await enter(pool, db) is lent
        await leave(pool, db)


@in_loop
async def test_after_an_acquire_that_was_cancelled_it_can_be_entered_again(dsn: str) -> None:
    async with opened("async", dsn, **ONE) as pool:
        lent = await pool.get()
        db = pool.pool.connection()
        waiting = asyncio.create_task(enter(pool, db))
        await eventually(lambda: pool.status()["waiting"] == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await pool.put(lent)
        assert await enter(pool, db) is lent
        await leave(pool, db)


UNKEPT = """
CREATE TEMPORARY TABLE IF NOT EXISTS referred (n int PRIMARY KEY);
CREATE TEMPORARY TABLE IF NOT EXISTS referring
    (n int REFERENCES referred DEFERRABLE INITIALLY DEFERRED);
INSERT INTO referring VALUES (1)
"""
"""That is refused as it is committed, and not before."""


@in_loop
async def test_where_the_commit_fails_that_is_raised_and_the_connection_returned(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        db = pool.pool.connection()
        conn = await enter(pool, db)
        await pool.execute(conn, UNKEPT)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await leave(pool, db)
        assert await enter(pool, db) is conn
        assert conn.info.transaction_status == TransactionStatus.IDLE
        await leave(pool, db)


# -- a decorator -------------------------------------------------------------------------------


def decorated(pool: Face, work: Callable[[int], Any], db: Any = None) -> Callable[[int], Any]:
    """*work*, in a connection of its own at each call, which is to be awaited."""
    db = db or pool.pool.connection()

    async def aio(n: int) -> Any:
        result = work(n)
        return await result if asyncio.iscoroutine(result) else result

    async def in_thread(n: int) -> Any:
        return await asyncio.to_thread(db(work), n)

    in_task: Callable[[int], Any] = db(aio)
    return in_thread if pool.kind == "sync" else in_task


@in_loop
async def test_it_decorates_functions(kind: Kind, dsn: str) -> None:
    """Who is called, with what, and what comes of it, is as without."""

    async with opened(kind, dsn, **ONE) as pool:
        db: Any = pool.pool.connection()

        def sync(a: int, *, b: int) -> tuple[int, int, int]:
            """Work."""
            return a, b, pool.status()["used"]

        async def aio(a: int, *, b: int) -> tuple[int, int, int]:
            """Work."""
            return a, b, pool.status()["used"]

        function: Any = db(sync if kind == "sync" else aio)
        assert (function.__name__, function.__doc__) == (kind if kind == "sync" else "aio", "Work.")
        assert asyncio.iscoroutinefunction(function) == (kind == "async")
        assert asyncio.iscoroutinefunction(function.__wrapped__) == (kind == "async")
        for _ in range(2):
            called = function(1, b=2)
            assert (await called if kind == "async" else called) == (1, 2, 1)
            assert pool.status()["used"] == 0
        assert pool.status()["acquires"] == {"acquired": 2}


@in_loop
async def test_each_call_has_a_connection_of_its_own(kind: Kind, dsn: str) -> None:
    """Of those under way at once, of one within the other, and while the block itself is entered:
    as many as there are."""
    async with opened(kind, dsn, min_size=3, max_size=3) as pool:
        together, here = threading.Barrier(3), list[int]()
        db: Any = pool.pool.connection()

        def meet(_: int) -> Any:
            if kind == "sync":
                together.wait(10)
                return None
            here.append(pool.status()["used"])
            return eventually(lambda: len(here) == 3)

        meeting = decorated(pool, meet, db)
        await asyncio.gather(*(meeting(n) for n in range(3)))
        assert pool.status()["idle"] == 3

        def sync(n: int) -> Any:
            used = [pool.status()["used"]]
            return used + down(n - 1) if n > 1 else used

        async def aio(n: int) -> Any:
            used = [pool.status()["used"]]
            return used + await down(n - 1) if n > 1 else used

        down: Any = db(sync if kind == "sync" else aio)
        assert (down(3) if kind == "sync" else await down(3)) == [1, 2, 3]
        await enter(pool, db)
        assert (down(2) if kind == "sync" else await down(2)) == [2, 3]
        await leave(pool, db)
        assert pool.status()["idle"] == 3


@in_loop
async def test_what_a_decorated_function_raises_is_raised_and_its_connection_returned(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, **ONE) as pool:

        def fail(n: int) -> None:
            raise KeyError(n)

        failing = decorated(pool, fail)
        for n in range(2):
            with pytest.raises(KeyError, match=str(n)):
                await failing(n)
        assert pool.status()["idle"] == 1


# -- what is sent to the server ----------------------------------------------------------------


def last_heard(admin: psycopg.Connection, pid: int) -> Any:
    """What the server has heard from that session last, and when."""
    query = "SELECT query, state, state_change FROM pg_stat_activity WHERE pid = %s"
    row = admin.execute(query, [pid]).fetchone()
    admin.rollback()  # or the view would stay as it is
    return row


@in_loop
async def test_where_nothing_was_begun_the_server_hears_nothing(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    """Whatever it hears shows: its session notes when that was."""
    async with opened(kind, dsn, **ONE) as pool:
        db = pool.pool.connection()
        conn = await enter(pool, db)
        pid = conn.info.backend_pid
        await leave(pool, db)
        await pool.execute(await enter(pool, db), "SELECT 'by the block'")
        await leave(pool, db)
        before = last_heard(admin, pid)
        assert before[:2] == ("COMMIT", "idle")
        for error in (None, KeyError("of the block's")):
            assert await enter(pool, db) is conn
            await leave(pool, db, error)
        assert last_heard(admin, pid) == before
        assert await enter(pool, db) is conn
        await pool.execute(conn, "SELECT 'by the block'")
        await leave(pool, db, KeyError("of the block's"))
        assert last_heard(admin, pid)[:2] == ("ROLLBACK", "idle")


@in_loop
async def test_left_in_a_failed_transaction_it_is_rolled_back_without_a_word(
    kind: Kind, dsn: str, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the block is left by that error, or has handled it: as psycopg does."""
    async with opened(kind, dsn, **ONE) as pool:
        for error in (None, KeyError("of the block's")):
            db = pool.pool.connection()
            conn = await enter(pool, db)
            with suppress(psycopg.Error):
                await pool.execute(conn, "NO SQL AT ALL")
            await leave(pool, db, error)
            assert conn.info.transaction_status == TransactionStatus.IDLE
            assert pool.status()["idle"] == 1
        assert not [r for r in caplog.records if r.levelname == "WARNING"]
        assert pool.recorder.created == ["warmup"]


# -- connection classes ------------------------------------------------------------------------


def of_class(kind: Kind, called: list[str], **answers: Any) -> Any:
    """A class of connections that overrides what *answers* names: it notes that it is called, does
    what psycopg's own does, and answers so, or raises it."""
    base: Any = psycopg.Connection if kind == "sync" else psycopg.AsyncConnection

    def overriding(name: str, answer: Any) -> Any:
        own = getattr(base, name)

        def done(result: Any) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return result if answer is None else answer

        def sync(self: Any, *args: Any) -> Any:
            called.append(name)
            return done(own(self, *args))

        async def aio(self: Any, *args: Any) -> Any:
            called.append(name)
            return done(await own(self, *args))

        return sync if kind == "sync" else aio

    return type("Own", (base,), {name: overriding(name, how) for name, how in answers.items()})


def names(kind: Kind, *sync: str) -> list[str]:
    return [name.replace("__e", "__ae") if kind == "async" else name for name in sync]


@pytest.mark.parametrize("query", [None, "SELECT 1"])
@pytest.mark.parametrize("error", [None, KeyError("of the block's")], ids=["well", "by an error"])
@pytest.mark.parametrize("what", ["__enter__", "__exit__", "commit", "rollback"])
@in_loop
async def test_what_a_connection_class_overrides_is_called_as_by_psycopg_pool(
    kind: Kind, dsn: str, what: str, error: KeyError | None, query: str | None
) -> None:
    """Also where nothing was begun: what it does then is its own affair."""
    called: list[str] = []
    (name,) = names(kind, what)
    cls = of_class(kind, called, **{name: None})

    async def use(pool: Any) -> list[str]:
        called.clear()
        with suppress(KeyError):
            if kind == "sync":
                with pool.connection() as conn:
                    if query:
                        conn.execute(query)
                    if error:
                        raise error
            else:
                async with pool.connection() as conn:
                    if query:
                        await conn.execute(query)
                    if error:
                        raise error
        return [*called]

    theirs: Any = (
        psycopg_pool.ConnectionPool if kind == "sync" else psycopg_pool.AsyncConnectionPool
    )
    reference = theirs(dsn, connection_class=cls, open=False, **ONE)
    opening = reference.open()
    if kind == "async":
        await opening
    as_theirs = await use(reference)
    closing = reference.close()
    if kind == "async":
        await closing
    async with opened(kind, dsn, connection_class=cls, **ONE) as pool:
        for _ in range(2):
            assert await use(pool.pool) == as_theirs
        assert pool.status()["idle"] == 1
    if not (what == "commit" and error) and not (what == "rollback" and not error):
        assert as_theirs == [name]


@in_loop
async def test_a_class_that_swallows_the_error_ends_the_block_well(kind: Kind, dsn: str) -> None:
    """As psycopg_pool lets it."""
    called: list[str] = []
    cls = of_class(kind, called, **dict.fromkeys(names(kind, "__exit__"), True))
    async with opened(kind, dsn, connection_class=cls, **ONE) as pool:
        db: Any = pool.pool.connection()
        await enter(pool, db)
        assert await leave(pool, db, KeyError("of the block's"))
        assert called == names(kind, "__exit__")
        assert pool.status()["idle"] == 1


@pytest.mark.parametrize("what", ["__enter__", "__exit__", "commit"])
@in_loop
async def test_where_an_overridden_method_raises_the_connection_is_returned(
    kind: Kind, dsn: str, what: str
) -> None:
    called: list[str] = []
    cls = of_class(kind, called, **dict.fromkeys(names(kind, what), KeyError("of the class's")))
    async with opened(kind, dsn, connection_class=cls, **ONE) as pool:
        db = pool.pool.connection()

        async def use() -> None:
            await enter(pool, db)
            await leave(pool, db)

        for _ in range(2):
            with pytest.raises(KeyError, match="of the class's"):
                await use()
            assert pool.status()["idle"] == 1
        assert called == names(kind, what) * 2


# -- two-phase transactions --------------------------------------------------------------------


@pytest.mark.parametrize("idle", [False, True])
@in_loop
async def test_a_two_phase_transaction_that_is_left_open_is_refused(
    kind: Kind, dsn: str, idle: bool
) -> None:
    """As psycopg does. A session is idle in the midst of one, too: between its two phases."""
    async with opened(kind, dsn, **ONE) as pool:
        db = pool.pool.connection()
        conn = await enter(pool, db)
        if kind == "sync":
            await asyncio.to_thread(conn.tpc_begin, "x")
        else:
            await conn.tpc_begin("x")
        if idle:  # as after PREPARE TRANSACTION, which the server has to be set up for
            await pool.execute(conn, "ROLLBACK")
        assert (conn.info.transaction_status == TransactionStatus.IDLE) == idle
        with pytest.raises(psycopg.ProgrammingError, match="two-phase transaction"):
            await leave(pool, db)
        await eventually(lambda: pool.status()["used"] == 0)


# -- statistics --------------------------------------------------------------------------------


@in_loop
async def test_how_long_blocks_last_is_counted(kind: Kind, dsn: str) -> None:
    """Whether there was anything to commit or not, and once for each."""
    async with opened(kind, dsn, **ONE) as pool:
        for query in (None, "SELECT pg_sleep(0.05)"):
            db = pool.pool.connection()
            conn = await enter(pool, db)
            if query is None:
                await asyncio.sleep(0.05)
            else:
                await pool.execute(conn, query)
            assert pool.pool.pop_stats().get("usage_ms", 0) == 0
            await leave(pool, db)
            assert 50 <= pool.pool.pop_stats()["usage_ms"] < 5000
