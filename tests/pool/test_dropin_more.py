"""What psycopg_pool documents, or sees to in its own tests, and ``test_dropin.py`` does not ask.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from poolguard.lab.proxy import SlowProxy
from poolguard.pool import outage
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool
from poolguard.pool.waiter import Waiter
from tests.pool.support import Face, Kind, eventually, in_loop, opened
from tests.support import HOSTILE, obeyed, until

ONE: dict[str, Any] = {"min_size": 1, "max_size": 1}
AUTOCOMMIT = {"autocommit": True}


def callback(kind: Kind, act: Callable[[Any], str | None]) -> Any:
    """A callback of the pool's: it runs the query that *act* returns, if any."""

    def sync(conn: Any) -> None:
        if query := act(conn):
            conn.execute(query)

    async def aio(conn: Any) -> None:
        if query := act(conn):
            await conn.execute(query)

    return sync if kind == "sync" else aio


async def value(pool: Face, conn: Any, query: str) -> Any:
    """The single value that *query* selects."""
    cursor = await pool.execute(conn, query)
    row = cursor.fetchone() if pool.kind == "sync" else await cursor.fetchone()
    return row[0]


async def use(pool: Face, *queries: str, error: Exception | None = None) -> None:
    """Borrow a connection in a ``with`` block, run the queries, and leave it by *error*."""
    source: Any = pool.pool

    def sync() -> None:
        with source.connection() as conn:
            for query in queries:
                conn.execute(query)
            if error:
                raise error

    if pool.kind == "sync":
        await asyncio.to_thread(sync)
        return
    async with source.connection() as conn:
        for query in queries:
            await conn.execute(query)
        if error:
            raise error


async def in_line(pool: Face, n: int, wait: Callable[[int], Any]) -> list[asyncio.Task[Any]]:
    """The tasks of *n* acquires that queue one after the other."""
    tasks = []
    for i in range(n):
        tasks.append(asyncio.create_task(wait(i)))
        await eventually(lambda i=i: pool.status()["waiting"] == i + 1)  # type: ignore[misc]
    return tasks


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [GuardedPool, AsyncGuardedPool])
@pytest.mark.parametrize("sizes", [(0, 0), (0, None), (-1, None), (3, 2)])
def test_sizes_that_make_no_pool(cls: type[Any], sizes: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="_size"):
        cls("", min_size=sizes[0], max_size=sizes[1], open=False)


@pytest.mark.parametrize("cls", [GuardedPool, AsyncGuardedPool])
def test_a_former_name_of_a_parameter_goes_on_working(cls: type[Any]) -> None:
    with pytest.warns(
        DeprecationWarning, match="refresh_interval is called check_interval"
    ) as said:
        pool = cls("", open=False, refresh_interval=7)
    assert 7 * 0.5 < pool._keeper.pace.check_interval <= 7
    assert [each.filename for each in said] == [__file__]


@pytest.mark.parametrize("cls", [GuardedPool, AsyncGuardedPool])
def test_a_parameter_given_by_both_of_its_names_is_refused(cls: type[Any]) -> None:
    with pytest.raises(ValueError, match="former name of check_interval"):
        cls("", open=False, refresh_interval=7, check_interval=8)


@in_loop
async def test_resizing_to_such_sizes_changes_nothing(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=1, max_size=2) as pool:
        for sizes in ((0, 0), (-1, None), (3, 2)):
            with pytest.raises(ValueError, match="_size"):
                await pool.call("resize", *sizes)
        assert (pool.pool.min_size, pool.pool.max_size) == (1, 2)


@pytest.mark.parametrize("cls", [GuardedPool, AsyncGuardedPool])
def test_what_was_passed_can_be_read(cls: type[Any]) -> None:
    given = {
        "conninfo": "dbname=nobody",
        "kwargs": {"autocommit": True},
        "min_size": 2,
        "max_size": 7,
        "name": "mine",
        "timeout": 1.5,
        "max_waiting": 9,
        "max_lifetime": 100.0,
        "max_idle": 50.0,
        "reconnect_timeout": 25.0,
        "num_workers": 4,
    }
    pool = cls(open=False, **given)
    assert {name: getattr(pool, name) for name in given} == given
    assert cls("", min_size=3, open=False).max_size == 3


@in_loop
async def test_the_async_pool_takes_coroutine_functions(dsn: str) -> None:
    async def conninfo() -> str:
        return dsn

    async def kwargs() -> dict[str, Any]:
        return {"autocommit": True}

    async with opened("async", conninfo, kwargs=kwargs, **ONE) as pool:
        conn = await pool.get()
        assert conn.autocommit
        await pool.put(conn)


@in_loop
async def test_a_conninfo_that_could_not_be_had_is_asked_for_again(
    kind: Kind, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "RETRY_AFTER", 0.02)
    answers: Iterator[Any] = iter(
        [OSError("the vault is sealed"), OSError("the vault is sealed"), dsn]
    )

    def conninfo() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return str(answer)

    async with opened(kind, conninfo, **ONE) as pool:
        assert len(pool.recorder.failures) == 2
        assert pool.pool.get_stats()["connections_num"] == 3


@in_loop
async def test_rows_are_made_as_the_kwargs_say(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, kwargs={"row_factory": dict_row}, **ONE) as pool:
        conn = await pool.get()
        cursor = await pool.execute(conn, "SELECT 5 AS five")
        row = cursor.fetchone() if kind == "sync" else await cursor.fetchone()
        assert row == {"five": 5}
        await pool.put(conn)


def test_the_async_pool_warns_of_opening_in_the_constructor(dsn: str) -> None:
    async def scenario(how: bool | None) -> None:
        pool = AsyncGuardedPool(dsn, open=how, **ONE)
        await pool.putconn(await pool.getconn())
        await pool.close()

    for how in (True, None):
        with pytest.warns(RuntimeWarning, match="AsyncGuardedPool"):
            asyncio.run(scenario(how))


# -- callbacks -------------------------------------------------------------------------------------


@in_loop
async def test_configure_is_called_once_for_each_connection(kind: Kind, dsn: str) -> None:
    configured: list[Any] = []

    def configure(conn: Any) -> str:
        configured.append(conn)
        return "SET statement_timeout TO 4321"

    async with opened(
        kind, dsn, configure=callback(kind, configure), kwargs=AUTOCOMMIT, **ONE
    ) as pool:
        for _ in range(2):
            conn = await pool.get()
            assert await value(pool, conn, "SHOW statement_timeout") == "4321ms"
            await pool.put(conn)
        assert configured == [conn]
        conn = await pool.get()
        conn.pgconn.finish()
        await pool.put(conn)
        another = await pool.get()
        assert configured == [conn, another]
        await pool.put(another)


@in_loop
async def test_one_that_configure_has_failed_with_is_not_used(
    kind: Kind, dsn: str, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It raises, or it leaves a transaction open: both are told, and waiting ends in time."""
    for query, told in (("NO SQL AT ALL", "NO SQL AT ALL"), ("SELECT 1", "INTRANS")):
        configure = callback(kind, lambda _, query=query: query)  # type: ignore[misc]
        pool = Face(kind, dsn, configure=configure, **ONE)
        caplog.clear()
        await pool.call("open")
        await eventually(lambda p=pool: p.recorder.failures)  # type: ignore[misc]
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.call("wait", 0.01)
        assert told in caplog.text
        assert pool.pool.closed
        await eventually(lambda p=pool: not p.backends(admin))  # type: ignore[misc]
        assert pool.recorder.created == []


@in_loop
async def test_reset_makes_a_connection_as_new(kind: Kind, dsn: str) -> None:
    reset = callback(kind, lambda _: "RESET statement_timeout")
    async with opened(kind, dsn, reset=reset, kwargs=AUTOCOMMIT, **ONE) as pool:
        conn = await pool.get()
        before = await value(pool, conn, "SHOW statement_timeout")
        await pool.execute(conn, "SET statement_timeout TO 4321")
        await pool.put(conn)
        assert await pool.get() is conn
        assert await value(pool, conn, "SHOW statement_timeout") == before
        await pool.put(conn)


@in_loop
async def test_one_that_reset_has_failed_with_is_replaced(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It raises, or it leaves a transaction open: both are told."""
    for query, told in (("NO SQL AT ALL", "NO SQL AT ALL"), ("SELECT 1", "INTRANS")):
        caplog.clear()
        reset = callback(kind, lambda _, query=query: query)  # type: ignore[misc]
        async with opened(kind, dsn, reset=reset, **ONE) as pool:
            conn = await pool.get()
            await pool.put(conn)
            another = await pool.get()
            assert another is not conn
            assert conn.closed
            assert told in caplog.text
            assert pool.pool.get_stats()["returns_bad"] == 1
            await pool.put(another)


@in_loop
async def test_what_a_reset_says_is_logged_in_one_line(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the server's words, and psycopg_pool itself logs them."""
    reset = callback(kind, lambda _: f'SELECT "{HOSTILE}"')
    async with opened(kind, dsn, reset=reset, **ONE) as pool:
        await pool.put(await pool.get())
        await eventually(lambda: "error resetting" in caplog.text)
    said = [r.getMessage() for r in caplog.records if "error resetting" in r.getMessage()]
    assert "forged" in said[0]
    assert (obeyed(said[0]), "\n" in said[0]) == ([], False)


@in_loop
async def test_one_that_check_refuses_is_followed_by_the_next_without_a_pause(
    kind: Kind, dsn: str
) -> None:
    """Also one that is alive: a standby, say, where a primary is wanted."""
    seen: list[Any] = []

    def check(conn: Any) -> None:
        seen.append(conn)
        if conn is seen[0]:
            raise psycopg.OperationalError("not this one")

    async with opened(kind, dsn, min_size=2, check=callback(kind, check)) as pool:
        conn = await pool.get(timeout=0.8)  # a pause would be of 0.9 s at least
        assert [conn] == seen[1:]
        assert not seen[0].closed
        await pool.put(conn)


def test_pauses_between_checks_that_fail_grow() -> None:
    waiter = Waiter(0.0, 100.0)
    first, second, third = (waiter.pause(1.0, at_once=False) for _ in range(3))
    assert first == 0
    assert 0.9 <= second <= 1.1
    assert third == 2 * second
    assert waiter.pause(1.0, at_once=True) == 0
    assert waiter.pause(99.5, at_once=False) == 0.5
    assert waiter.pause(101.0, at_once=False) == 0


@in_loop
async def test_while_check_refuses_all_an_acquire_times_out(kind: Kind, dsn: str) -> None:
    def check(conn: Any) -> None:
        raise psycopg.OperationalError("none will do")

    async with opened(kind, dsn, min_size=2, check=callback(kind, check)) as pool:
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 0\.1\d sec"):
            await pool.get(timeout=0.1)
        await eventually(lambda: pool.status()["idle"] == 2)


class Ended(BaseException):
    """Such as a greenlet's timeout, which is no ``Exception`` either."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, Ended])
@in_loop
async def test_an_acquire_that_is_ended_in_its_check_loses_no_connection(
    kind: Kind, dsn: str, raised: type[BaseException]
) -> None:
    pending = [raised()]

    def check(conn: Any) -> None:
        if pending:
            raise pending.pop()

    async with opened(kind, dsn, check=callback(kind, check), **ONE) as pool:
        with pytest.raises(raised):
            await pool.get()
        conn = await pool.get()
        assert pool.recorder.created == ["warmup"]
        await pool.put(conn)


@in_loop
async def test_the_pools_own_check_may_be_the_callback(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    cls: Any = GuardedPool if kind == "sync" else AsyncGuardedPool
    for autocommit in (False, True):
        async with opened(
            kind, dsn, kwargs={"autocommit": autocommit}, check=cls.check_connection, **ONE
        ) as pool:
            conn = await pool.get()
            assert conn.autocommit == autocommit
            assert conn.info.transaction_status == TransactionStatus.IDLE
            admin.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
            with pytest.raises(psycopg.OperationalError):
                await pool.execute(conn, "SELECT 1")
            await pool.put(conn)
            another = await pool.get()
            assert await value(pool, another, "SELECT 7") == 7
            await pool.put(another)


@in_loop
async def test_reconnect_failed_is_called_when_its_time_has_come(
    kind: Kind, gate: SlowProxy, gate_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the next probe after that; and the probes do not follow each other from then on."""
    monkeypatch.setattr(outage, "RETRY_AFTER", 600.0)
    called: list[Any] = []

    async def acalled(pool: Any) -> None:
        called.append(pool)

    gate.refuse()
    how = called.append if kind == "sync" else acalled
    async with opened(
        kind, gate_dsn, warm=False, reconnect_timeout=0.3, reconnect_failed=how, **ONE
    ) as pool:
        await eventually(lambda: called == [pool.pool])
        first, last = pool.recorder.failures
        assert last.began >= first.began + 0.3
        await asyncio.sleep(0.1)
        assert len(pool.recorder.failures) == 2
        gate.resume()


# -- lending and taking back -----------------------------------------------------------------------


@in_loop
async def test_a_with_block_commits_or_rolls_back_and_returns(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        await use(pool, "SET statement_timeout TO 1111")
        with pytest.raises(ZeroDivisionError):
            await use(pool, "SET statement_timeout TO 2222", error=ZeroDivisionError())
        conn = await pool.get()
        assert await value(pool, conn, "SHOW statement_timeout") == "1111ms"
        await pool.put(conn)
        assert pool.recorder.created == ["warmup"]


@in_loop
async def test_idle_connections_take_turns(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, min_size=3) as pool:
        used = []
        for _ in range(6):
            used.append(await pool.get())
            await pool.put(used[-1])
        assert len({id(conn) for conn in used}) == 3
        assert used[:3] == used[3:]


@in_loop
async def test_who_waits_longest_is_served_first(kind: Kind, dsn: str) -> None:
    served: list[int] = []

    async with opened(kind, dsn, **ONE) as pool:

        async def wait(i: int) -> None:
            conn = await pool.get()
            served.append(i)
            await pool.put(conn)

        lent = await pool.get()
        tasks = await in_line(pool, 4, wait)
        await pool.put(lent)
        await asyncio.gather(*tasks)
        assert served == [0, 1, 2, 3]
        assert pool.pool.get_stats()["requests_queued"] == 4


@in_loop
async def test_an_acquires_own_timeout_overrides_the_pools(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, timeout=0.05, **ONE) as pool:
        lent = await pool.get()
        patient = asyncio.create_task(pool.get(timeout=10))
        await eventually(lambda: pool.status()["waiting"] == 1)
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 0\.\d\d sec"):
            await pool.get()
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 0\.00 sec"):
            await pool.get(timeout=0)
        await pool.put(lent)
        assert await patient is lent
        await pool.put(lent)


@in_loop
async def test_what_comes_back_is_not_given_to_who_has_given_up(kind: Kind, dsn: str) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        lent = await pool.get()
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.get(timeout=0.01)
        later = asyncio.create_task(pool.get())
        await eventually(lambda: pool.pool.get_stats()["requests_queued"] == 2)
        await pool.put(lent)
        assert await later is lent
        await pool.put(lent)


@in_loop
async def test_the_queue_is_not_full_of_those_whom_idle_connections_will_serve(
    kind: Kind, gate: SlowProxy, gate_dsn: str
) -> None:
    """Those have been idle for too long, and are asked for a sign of life first."""
    async with opened(
        kind,
        gate_dsn,
        min_size=3,
        max_size=3,
        max_waiting=1,
        check_after_idle=0.0,
        check_interval=3600.0,
        check_timeout=60.0,
    ) as pool:
        gate.blackhole()
        asked = await in_line(pool, 4, lambda _: pool.get())
        with pytest.raises(psycopg_pool.TooManyRequests):
            await pool.get()
        gate.resume()
        first = await asyncio.gather(*asked[:3])
        await pool.put(first[0])
        await pool.put(await asked[3], *first[1:])
        assert pool.recorder.created == ["warmup"] * 3


@in_loop
async def test_left_in_a_failed_transaction_it_comes_back_clean(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        conn = await pool.get()
        with pytest.raises(psycopg.ProgrammingError):
            await pool.execute(conn, "NO SQL AT ALL")
        await pool.put(conn)
        assert await pool.get() is conn
        assert conn.info.transaction_status == TransactionStatus.IDLE
        await pool.put(conn)
        assert [r.message.count("INERROR") for r in caplog.records if r.levelname == "WARNING"] == [
            1
        ]


@in_loop
async def test_left_in_the_middle_of_something_it_is_replaced(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        conn = await pool.get()
        conn.pgconn.exec_(b"COPY (SELECT 1) TO STDOUT")
        await pool.put(conn)
        another = await pool.get()
        assert another is not conn
        assert "ACTIVE" in caplog.text
        await pool.put(another)
        assert pool.pool.get_stats()["returns_bad"] == 1


@in_loop
async def test_one_that_cannot_be_rolled_back_is_replaced(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")

        def rollback() -> None:
            conn.pgconn.finish()
            raise psycopg.OperationalError("the cable was cut")

        async def arollback() -> None:
            rollback()

        conn.rollback = rollback if kind == "sync" else arollback
        await pool.put(conn)
        another = await pool.get()
        assert another is not conn
        assert "the cable was cut" in caplog.text
        await pool.put(another)


@in_loop
async def test_what_was_not_borrowed_here_is_not_taken_back(kind: Kind, dsn: str) -> None:
    """A connection of nobody's, and one that has been returned."""
    stranger = psycopg.connect(dsn)
    async with opened(kind, dsn, **ONE) as pool:
        with pytest.raises(ValueError, match="doesn't come from any pool"):
            await pool.put(stranger)
        conn = await pool.get()
        await pool.put(conn)
        with pytest.raises(ValueError, match="doesn't come from any pool"):
            await pool.put(conn)
        assert pool.status()["idle"] == pool.size == 1
    stranger.close()


@in_loop
async def test_borrowing_while_an_older_error_is_handled_costs_no_connection(
    kind: Kind, dsn: str
) -> None:
    """What that error tells of another connection is not held against this one."""
    ends = "DO $$ BEGIN RAISE 'as if by an administrator' USING ERRCODE = '57P01'; END $$"

    async with opened(kind, dsn, **ONE) as pool, opened(kind, dsn, **ONE) as elsewhere:
        conn = await pool.get()
        await pool.put(conn)
        for query in ("SELECT 1", "NO SQL AT ALL"):
            try:
                await use(elsewhere, ends)
            except psycopg.errors.AdminShutdown:
                with suppress(psycopg.errors.SyntaxError):
                    await use(pool, query)
        assert await pool.get() is conn
        await pool.put(conn)
        with pytest.raises(psycopg.errors.AdminShutdown):
            await use(pool, ends)
        another = await pool.get()
        assert another is not conn
        await pool.put(another)


@in_loop
async def test_one_held_beyond_its_lifetime_is_replaced_when_it_comes_back(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, max_lifetime=0.1, **ONE) as pool:
        conn = await pool.get()
        await asyncio.sleep(0.1)
        await pool.put(conn)
        another = await pool.get()
        assert another is not conn
        assert conn.closed
        await pool.put(another)


class Returning(psycopg.Connection[Any]):
    """Goes back to its pool when it is closed, as people wrote before ``close_returns``."""

    def close(self) -> None:
        if pool := getattr(self, "_pool", None):
            pool.putconn(self)
        else:
            super().close()


class AsyncReturning(psycopg.AsyncConnection[Any]):
    async def close(self) -> None:
        if pool := getattr(self, "_pool", None):
            await pool.putconn(self)
        else:
            await super().close()


@in_loop
async def test_a_class_whose_close_returns_is_closed_all_the_same(
    kind: Kind, dsn: str, admin: psycopg.Connection
) -> None:
    cls = Returning if kind == "sync" else AsyncReturning
    async with opened(kind, dsn, connection_class=cls, min_size=2, check_interval=0.02) as pool:
        conn = await pool.get()
        await asyncio.to_thread(conn.close) if kind == "sync" else await conn.close()
        await eventually(lambda: pool.status()["idle"] == 2)
        assert not conn.closed
        before = pool.backends(admin)
        await pool.call("drain")
        await eventually(lambda: len(pool.backends(admin) - before) == 2)
        pool.kill(admin)
        await eventually(lambda: len(pool.recorder.created) == 6)
        await eventually(lambda: pool.status()["idle"] == 2)
    await eventually(lambda: not pool.backends(admin))


# -- the pool's life -------------------------------------------------------------------------------


@in_loop
async def test_draining_renews_also_what_is_being_verified(
    kind: Kind, gate: SlowProxy, gate_dsn: str, admin: psycopg.Connection
) -> None:
    async with opened(
        kind, gate_dsn, min_size=2, max_size=2, check_interval=0.05, check_timeout=60.0
    ) as pool:
        before = pool.backends(admin)
        gate.blackhole()
        await eventually(lambda: pool.status()["idle"] == 1)
        await pool.call("drain")
        gate.resume()
        await eventually(lambda: len(pool.backends(admin) - before) == 2)
        await eventually(lambda: not pool.backends(admin) & before)
        await eventually(lambda: pool.recorder.closes == ["discarded"] * 2)
        assert pool.size <= 2


@in_loop
async def test_checking_with_the_server_away_neither_raises_nor_ends_the_pool(
    kind: Kind, gate: SlowProxy, gate_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "RETRY_AFTER", 0.05)
    async with opened(kind, gate_dsn, min_size=3) as pool:
        gate.refuse()
        gate.reset_all()
        await pool.call("check")
        await eventually(lambda: pool.status()["idle"] == 0)
        await pool.call("check")
        gate.resume()
        await eventually(lambda: pool.status()["idle"] == 3)
        assert pool.pool.get_stats()["connections_lost"] == 3


@in_loop
async def test_what_is_lent_when_the_pool_closes_is_closed_when_it_returns(
    kind: Kind, dsn: str
) -> None:
    async with opened(kind, dsn, min_size=2) as pool:
        lent = await pool.get()
        await pool.call("close")
        await pool.call("close")
        assert await value(pool, lent, "SELECT 3") == 3
        await pool.put(lent)
        assert lent.closed
        with pytest.raises(psycopg_pool.PoolClosed):
            await pool.get()
        with pytest.raises(psycopg_pool.PoolClosed):
            await pool.call("wait")
        with pytest.raises(psycopg.OperationalError, match="cannot be reused"):
            await pool.call("open")


@in_loop
async def test_before_it_is_open_it_says_so(kind: Kind, dsn: str) -> None:
    pool = Face(kind, dsn, **ONE)
    closed = [pool.pool.closed]
    for name in ("getconn", "wait"):
        with pytest.raises(psycopg_pool.PoolClosed, match="is not open yet"):
            await pool.call(name)
    await pool.open()
    closed.append(pool.pool.closed)
    await pool.close()
    assert closed == [True, False]


@in_loop
async def test_times_and_failures_are_in_the_statistics(
    kind: Kind, gate: SlowProxy, gate_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "RETRY_AFTER", 0.05)
    gate.refuse()
    async with opened(kind, gate_dsn, warm=False, **ONE) as pool:
        await eventually(lambda: pool.recorder.failures)
        gate.resume()
        assert await pool.call("wait_warm", 10)
        stats = pool.pool.pop_stats()
        assert stats["connections_num"] == stats["connections_errors"] + 1
        assert stats["connections_ms"] > 0

        conn = await pool.get()
        waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.pool.get_stats()["requests_waiting"] == 1)
        await asyncio.sleep(0.1)  # this is what is to be found in the statistics
        await pool.put(conn)
        await pool.put(await waiting)
        stats = pool.pool.pop_stats()
        assert 100 <= stats["requests_wait_ms"] <= stats["usage_ms"]
        assert (stats["requests_num"], stats["requests_queued"]) == (2, 1)
        assert not {"requests_num", "usage_ms", "connections_num"} & pool.pool.get_stats().keys()


@in_loop
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "psycopg_pool's"])
async def test_an_acquire_in_vain_is_counted_once(kind: Kind, dsn: str, ours: bool) -> None:
    """One that was rejected, one that timed out in the queue, and one that did neither."""
    own: Any = {"sync": psycopg_pool.ConnectionPool, "async": psycopg_pool.AsyncConnectionPool}
    cls: Any = {"sync": GuardedPool, "async": AsyncGuardedPool} if ours else own
    pool = cls[kind](dsn, open=False, max_waiting=1, **ONE)

    async def call(method: str, *args: object) -> Any:
        if kind == "sync":
            return await asyncio.to_thread(getattr(pool, method), *args)
        return await getattr(pool, method)(*args)

    await call("open", True, 10)
    try:
        taken = await call("getconn")
        waiting = asyncio.create_task(call("getconn", 0.5))
        await eventually(lambda: pool.get_stats()["requests_waiting"] == 1)
        with pytest.raises(psycopg_pool.TooManyRequests):
            await call("getconn", 5.0)
        with pytest.raises(psycopg_pool.PoolTimeout):
            await waiting
        await call("putconn", taken)
        stats = pool.get_stats()
    finally:
        await call("close")
    keys = ("requests_num", "requests_queued", "requests_errors")
    assert [stats[key] for key in keys] == [3, 1, 2]


def test_a_pool_that_is_dropped_ends_its_threads(dsn: str) -> None:
    pool = GuardedPool(dsn, min_size=2, name="dropped", open=True)
    pool.wait(10)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
    threads = [t for t in threading.enumerate() if t.name.startswith("dropped-")]
    assert threads
    gone: weakref.ref[Any] = weakref.ref(pool)
    del pool, conn
    until(lambda: gone() is None and not any(t.is_alive() for t in threads))


@in_loop
async def test_a_dropped_async_pool_is_collected(dsn: str) -> None:
    pool = AsyncGuardedPool(dsn, min_size=2, open=False)
    await pool.open(wait=True, timeout=10)
    gone: weakref.ref[Any] = weakref.ref(pool)
    del pool
    await eventually(lambda: not gone())
