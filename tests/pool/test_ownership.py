"""What nobody owns any more, and ends that come at the worst moment: no connection is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus

from poolguard.errors import PoolguardError
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import housekeeper
from poolguard.pool.acquirer import CURRENT, Acquirer
from tests.pool.support import Face, Kind, eventually, in_loop, opened

ONE: dict[str, Any] = {"min_size": 1, "max_size": 1}
ROOT = Path(__file__).parents[2]


async def all_can_be_had(pool: Face, n: int) -> None:
    """Nothing is lent, and *n* connections, all that there may be, can be had and used at once."""
    await eventually(lambda: pool.status()["used"] == 0)
    conns = await pool.get_all(n)
    assert len({id(conn) for conn in conns}) == n
    for conn in conns:
        await pool.execute(conn, "SELECT 1")
    await pool.put(*conns)
    await eventually(lambda: pool.status()["used"] == pool.status()["waiting"] == 0)


# -- dropped -----------------------------------------------------------------------------------


@in_loop
async def test_one_that_is_dropped_is_replaced_without_the_collector(
    kind: Kind, dsn: str, admin: psycopg.Connection, uncollected: None
) -> None:
    """Whatever was left open over it: its session ends, and it is told of once."""
    async with opened(kind, dsn, **ONE) as pool:
        for n, query in enumerate(("", "SELECT 1", "SELECT pg_advisory_lock(4711)"), 1):
            (before,) = pool.backends(admin)
            conn = await pool.get()
            if query:
                await pool.execute(conn, query)
            del conn
            await pool.put(await pool.get())
            await eventually(lambda b=before: b not in pool.backends(admin))  # type: ignore[misc]
            assert pool.status()["leaks"] == {"collected": n}
            await eventually(lambda n=n: pool.recorder.closes == ["discarded"] * n)  # type: ignore[misc]
        assert [leak.times for leak in pool.recorder.leaks] == [1, 2, 3]
        assert len(pool.recorder.created) == 4
        await all_can_be_had(pool, 1)


@in_loop
async def test_a_block_that_is_entered_and_dropped_keeps_nothing(
    kind: Kind, dsn: str, uncollected: None
) -> None:
    async with opened(kind, dsn, **ONE) as pool:
        db: Any = pool.pool.connection()
        if kind == "sync":
            db.__enter__()
        else:
            await db.__aenter__()
        assert pool.status()["used"] == 1
        del db
        await all_can_be_had(pool, 1)
        assert pool.status()["leaks"] == {"collected": 1}


# -- left behind by a thread -------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left behind is taken back soon."""
    monkeypatch.setattr(housekeeper, "UNOWNED", 0.1)
    monkeypatch.setattr(housekeeper, "UNOWNED_WHEN_WAITING", 0.1)


class Keeps:
    """A thread that takes a connection and keeps it here; it lives until it is let go."""

    def __init__(self, pool: Face, *, request: Acquirer | None = None) -> None:
        self.conn: Any = None
        self._pool: Any = pool.pool
        self._took, self._go = threading.Event(), threading.Event()
        context = copy_context()
        if request is not None:
            context.run(CURRENT.set, request)
        self._thread = threading.Thread(target=context.run, args=(self._run,))
        self._thread.start()
        assert self._took.wait(10)

    def _run(self) -> None:
        self.conn = self._pool.getconn()
        self._took.set()
        self._go.wait(60)

    def ends(self) -> Any:
        """The connection that the thread leaves behind."""
        self._go.set()
        self._thread.join(10)
        return self.conn


@contextmanager
def keeping(pool: Face, **more: Any) -> Iterator[Keeps]:
    keeps = Keeps(pool, **more)
    try:
        yield keeps
    finally:
        keeps.ends()


async def taken_back(pool: Face, n: int, **more: int) -> None:
    """*n* were taken back from who had ended, as the upkeep sees whenever it looks."""

    def seen() -> bool:
        pool.pool._ring()
        return bool(pool.status()["leaks"] == {"abandoned": n, **more})

    await eventually(seen)


class Request(Acquirer):
    """A request called ``GET /orders``."""

    @property
    def label(self) -> str:
        return "GET /orders"


@in_loop
async def test_what_a_thread_leaves_behind_is_taken_back(
    dsn: str, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture, impatient: None
) -> None:
    """It is closed, told of once and replaced, though somebody refers to it still."""
    async with opened("sync", dsn, **ONE) as pool:
        (before,) = pool.backends(admin)
        conn = Keeps(pool).ends()
        await eventually(lambda: pool.recorder.leaks, within=3)
        assert [(leak.kind, leak.times) for leak in pool.recorder.leaks] == [("abandoned", 1)]
        await eventually(lambda: conn.closed)
        await eventually(lambda: before not in pool.backends(admin))
        with pytest.raises(psycopg.OperationalError, match="closed"):
            conn.execute("SELECT 1")
        await pool.put(conn)  # by one who does not know
        await all_can_be_had(pool, 1)
        assert pool.recorder.closes == ["discarded"]
        assert pool.status()["leaks"] == {"abandoned": 1}
    assert "a thread has ended without returning the connection" in caplog.text


@in_loop
async def test_it_is_taken_back_sooner_while_somebody_waits(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "UNOWNED", 600.0)
    monkeypatch.setattr(housekeeper, "UNOWNED_WHEN_WAITING", 0.1)
    async with opened("sync", dsn, timeout=20, **ONE) as pool:
        conn = Keeps(pool).ends()
        other = await pool.get()
        await eventually(lambda: conn.closed)
        assert other is not conn
        await pool.put(other)
        await all_can_be_had(pool, 1)
        assert pool.status()["leaks"] == {"abandoned": 1}


@in_loop
async def test_what_a_living_thread_has_it_keeps(dsn: str, impatient: None) -> None:
    """For as long as another that has ended is taken back from; and to the end."""
    async with opened("sync", dsn, min_size=3, max_size=3) as pool:
        with keeping(pool) as lives, keeping(pool) as lives_too:
            left = []
            for n in (1, 2, 3):
                left.append(Keeps(pool).ends())
                await taken_back(pool, n)
                assert pool.status()["used"] == 2
                assert not lives.conn.closed
            await pool.put(lives.conn)
        await taken_back(pool, 4)
        await eventually(lambda: lives_too.conn.closed)
        await all_can_be_had(pool, 3)


@in_loop
async def test_who_has_used_it_since_is_its_owner(dsn: str, impatient: None) -> None:
    """Whoever that is: a thread that lives, and then one that has ended as well."""
    async with opened("sync", dsn, min_size=2, max_size=2) as pool:
        conn = Keeps(pool).ends()
        conn.execute("SELECT 'by the one that runs this test'")
        left = []
        for n in (1, 2):
            left.append(Keeps(pool).ends())
            await taken_back(pool, n)
            assert not conn.closed
        another = threading.Thread(target=conn.execute, args=("SELECT 'by another'",))
        another.start()
        another.join(10)
        await taken_back(pool, 3)
        await eventually(lambda: conn.closed)
        await all_can_be_had(pool, 2)


@in_loop
async def test_what_a_request_has_is_its_own_while_it_goes_on(dsn: str, impatient: None) -> None:
    """As where a framework enters a dependency in one thread and leaves it in another."""
    async with opened("sync", dsn, min_size=2, max_size=2) as pool:
        request = Request()
        conn = Keeps(pool, request=request).ends()
        left = []
        for n in (1, 2):
            left.append(Keeps(pool).ends())
            await taken_back(pool, n)
            assert not conn.closed
        request.ended()
        await taken_back(pool, 3, unreturned=1)
        assert [leak.acquirer for leak in pool.recorder.leaks[2:]] == ["GET /orders"] * 2
        await eventually(lambda: conn.closed)
        assert not request.checkouts
        await all_can_be_had(pool, 2)


@in_loop
async def test_what_another_thread_returns_is_no_leak(dsn: str, impatient: None) -> None:
    """And the next that has it is its owner, not the one that has ended."""
    async with opened("sync", dsn, min_size=2, max_size=2) as pool:
        conn = Keeps(pool).ends()
        await pool.put(conn)
        conns = await pool.get_all(2)
        assert conn in conns
        await pool.put(next(each for each in conns if each is not conn))
        left = Keeps(pool).ends()
        await taken_back(pool, 1)
        await eventually(lambda: left.closed)
        assert not conn.closed
        await pool.put(conn)
        await all_can_be_had(pool, 2)


# -- in processes of their own: greenlets, and signals -----------------------------------------

COMMON = """
import random, sys, time
from poolguard.pool import housekeeper
from poolguard import GuardedPool

dsn, seed = sys.argv[1], int(sys.argv[2])
random.seed(seed)

def settles(pool, size):
    # Nothing is lent or waits any more, and as many as there may be can be had.
    until = time.monotonic() + 8
    while pool.status()["used"] or pool.status()["waiting"]:
        if time.monotonic() > until:
            raise SystemExit(f"seed {seed}: lost: {pool.status()} {[*pool._core.entries]}")
        time.sleep(0.01)
    conns = [pool.getconn(timeout=5) for _ in range(size)]
    for conn in conns:
        conn.execute("SELECT 1")
        conn.rollback()
        pool.putconn(conn)
    assert len(set(map(id, conns))) == size
    status = pool.status()
    assert (status["used"], status["waiting"]) == (0, 0), status
    made, gone = sum(status["created"].values()), sum(status["closed"].values())
    assert made - gone == status["idle"] or pool.counts().size == status["idle"], status
"""


def run(script: str, dsn: str, before: str = "") -> str:
    """What the script prints; a failure tells the seed. *before* all else comes a patch."""
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            before + COMMON + script,
            dsn,
            str(random.getrandbits(32)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PATCHED = "from gevent import monkey; monkey.patch_all(); import gevent, gevent.event\n"
GIVING_UP = """
class Ended(BaseException): pass

def impatient(pool, how, served):
    try:
        with gevent.Timeout(0.02 if how == "timeout" else None, Ended):
            with pool.connection():
                served.append(True)
    except Ended:
        pass

def waits(pool, how):
    served = []
    greenlet = gevent.spawn(impatient, pool, how, served)
    while not pool.status()["waiting"]:
        gevent.sleep(0)
    return greenlet, served

with GuardedPool(dsn, min_size=1, max_size=1, timeout=5, open=True) as pool:
    pool.wait()
    for how in ("timeout", "kill"):
        # It gives up while it waits, and another has the connection still.
        lent = pool.getconn()
        greenlet, served = waits(pool, how)
        if how == "kill":
            greenlet.kill()
        greenlet.join()
        assert not served
        pool.putconn(lent)
        settles(pool, 1)
        # It has just been served, and does not know yet.
        for before in (False, True):
            for turns in range(4):
                lent = pool.getconn()
                greenlet, served = waits(pool, how)
                if how == "timeout":
                    end = time.monotonic() + 0.03  # no other greenlet runs meanwhile
                    while time.monotonic() < end:
                        pass
                elif before:
                    greenlet.kill(block=False)
                pool.putconn(lent)
                for _ in range(turns):
                    gevent.sleep(0)
                if how == "kill" and not before:
                    greenlet.kill(block=False)
                greenlet.join()
                del lent
                settles(pool, 1)
    assert pool.status()["created"] == {"warmup": 1}, pool.status()

with GuardedPool(dsn, min_size=3, max_size=3, timeout=5, open=True) as pool:
    pool.wait()
    def request():
        how = random.choice(["timeout", "timeout", "none"])
        try:
            with gevent.Timeout(random.uniform(0, 0.02) if how == "timeout" else None, Ended):
                with pool.connection() as conn:
                    if random.random() < 0.7:
                        conn.execute("SELECT pg_sleep(%s)", [random.uniform(0, 0.005)])
        except Ended:
            pass
    greenlets = [gevent.spawn_later(random.uniform(0, 0.6), request) for _ in range(250)]
    for greenlet in random.sample(greenlets, 50):
        gevent.spawn_later(random.uniform(0, 0.6), greenlet.kill, block=False)
    gevent.joinall(greenlets)
    settles(pool, 3)
print("nothing is lost")
"""
ENDING = """
housekeeper.UNOWNED = housekeeper.UNOWNED_WHEN_WAITING = 0.1
kept = []
with GuardedPool(dsn, min_size=1, max_size=1, timeout=8, open=True) as pool:
    pool.wait()
    gevent.spawn(lambda: kept.append(pool.getconn())).join()
    with pool.connection() as conn:
        assert conn is not kept[0]
    assert kept[0].closed
    assert pool.status()["leaks"] == {"abandoned": 1}, pool.status()
    settles(pool, 1)
    go = gevent.event.Event()
    def lives():
        kept.append(pool.getconn())
        go.wait()
        pool.putconn(kept[-1])
    living = gevent.spawn(lives)
    gevent.sleep(0.5)  # several times as long as for one that has ended
    assert not kept[-1].closed
    go.set()
    living.join()
    settles(pool, 1)
    assert pool.status()["leaks"] == {"abandoned": 1}, pool.status()
print("nothing is lost")
"""


def test_a_greenlet_that_gives_up_or_is_killed_takes_nothing_with_it(dsn: str) -> None:
    """While it waits, in the very moment in which it is served, and at any other."""
    assert run(GIVING_UP, dsn, PATCHED) == "nothing is lost\n"


def test_what_a_greenlet_leaves_behind_is_taken_back(dsn: str) -> None:
    assert run(ENDING, dsn, PATCHED) == "nothing is lost\n"


SIGNALS = """
import logging, signal, threading
logging.disable()  # an exception amid a record leaves a handler's lock locked, until Python 3.13

class TooLong(BaseException): pass

def alarm(*_):
    raise TooLong

signal.signal(signal.SIGALRM, alarm)

def soon(upto):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, upto))

def quiet():
    signal.setitimer(signal.ITIMER_REAL, 0)

def others(pool, stop):
    # They keep the pool busy: what the main thread waits for comes at any moment.
    while not stop.is_set():
        with pool.connection():
            time.sleep(random.uniform(0, 0.001))

def waiting(pool):
    conn = pool.getconn()
    pool.putconn(conn)

def block(pool):
    with pool.connection():
        pass

def in_transaction(pool):
    conn = pool.getconn()
    try:
        conn.execute("SELECT 1")
    finally:
        pool.putconn(conn)

def block_in_transaction(pool):
    with pool.connection() as conn:
        conn.execute("SELECT 1")

def returns(pool):
    conn = pool.getconn()
    try:
        time.sleep(0)
    finally:
        pool.putconn(conn)

hit = 0
def once(what, pool, upto):
    global hit
    try:
        try:
            soon(upto)
            what(pool)
        finally:
            quiet()
    except TooLong:
        hit += 1

def storm(size, seconds, works, busy, upto):
    with GuardedPool(dsn, min_size=size, max_size=size, timeout=5, open=True) as pool:
        pool.wait()
        stop = threading.Event()
        threads = [threading.Thread(target=others, args=(pool, stop)) for _ in range(busy)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while time.monotonic() < began + seconds or hit <= 100 and time.monotonic() < began + 20:
            once(random.choice(works), pool, upto)
        stop.set()
        for thread in threads:
            thread.join()
        settles(pool, size)
"""


@pytest.mark.parametrize(
    "storm",
    [
        "storm(1, 1, [waiting, block], 2, 0.002)",
        "storm(2, 1, [waiting, block, returns], 0, 0.00006)",
        "storm(2, 1, [in_transaction, block_in_transaction], 1, 0.002)",
    ],
    ids=["while it waits", "where it is free", "while it is rolled back"],
)
def test_a_signals_handler_that_raises_loses_nothing(dsn: str, storm: str) -> None:
    """Wherever the main thread is: it waits, it is about to be given a connection, it returns
    one."""
    script = f"{SIGNALS}\n{storm}\nassert hit > 100, hit\nprint('nothing is lost')\n"
    assert run(script, dsn) == "nothing is lost\n"


# -- cancelled while it returns ----------------------------------------------------------------


async def cancelled_for_good(task: asyncio.Task[Any]) -> None:
    """Cancel it until it has ended, as anyio does, in each turn of the loop."""
    until = monotonic() + 10
    while not task.done():
        assert monotonic() < until
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()


@in_loop
async def test_a_rollback_is_finished_though_who_has_returned_it_is_cancelled(
    gate: SlowProxy, gate_dsn: str, admin: psycopg.Connection
) -> None:
    async with opened("async", gate_dsn, **ONE) as pool:
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")
        gate.set(latency=0.2)
        returning = asyncio.create_task(pool.put(conn))
        await asyncio.sleep(0)
        assert not returning.done()
        await cancelled_for_good(returning)
        assert pool.status()["used"] == 1
        assert await pool.get() is conn
        assert conn.info.transaction_status == TransactionStatus.IDLE
        gate.set(latency=0)
        await pool.put(conn)
        await all_can_be_had(pool, 1)
        assert pool.recorder.created == ["warmup"]


@in_loop
async def test_a_reset_is_finished_though_who_has_returned_it_is_cancelled(dsn: str) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def reset(conn: Any) -> None:
        begun.set()
        await go.wait()
        await conn.execute("RESET ALL")
        await conn.commit()

    async with opened("async", dsn, reset=reset, **ONE) as pool:
        conn = await pool.get()
        await pool.execute(conn, "SELECT 1")
        returning = asyncio.create_task(pool.put(conn))
        await begun.wait()
        returning.cancel()
        with suppress(asyncio.CancelledError):
            await returning
        assert pool.status()["used"] == 1
        go.set()
        assert await pool.get() is conn
        await pool.put(conn)
        await all_can_be_had(pool, 1)


@in_loop
async def test_a_close_is_finished_though_who_has_returned_it_is_cancelled(
    dsn: str, admin: psycopg.Connection
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    class Slow(psycopg.AsyncConnection[Any]):
        async def close(self) -> None:
            begun.set()
            await go.wait()
            await super().close()

    async with opened("async", dsn, connection_class=Slow, **ONE) as pool:
        (before,) = pool.backends(admin)
        conn = await pool.get()
        conn.pgconn.exec_(b"COPY (SELECT 1) TO STDOUT")
        returning = asyncio.create_task(pool.put(conn))
        await begun.wait()
        await cancelled_for_good(returning)
        go.set()
        await eventually(lambda: before not in pool.backends(admin))
        await eventually(lambda: pool.recorder.closes == ["discarded"])
        await all_can_be_had(pool, 1)


@pytest.mark.parametrize("error", [None, KeyError("of the block's")], ids=["well", "by an error"])
@in_loop
async def test_a_block_that_is_cancelled_as_it_is_left_loses_nothing(
    gate: SlowProxy, gate_dsn: str, error: KeyError | None
) -> None:
    """While psycopg commits or rolls back, in that very task."""
    leaving = asyncio.Event()

    async def request(pool: Any) -> None:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
            gate.set(latency=0.05)
            leaving.set()
            if error:
                raise error

    async with opened("async", gate_dsn, **ONE) as pool:
        for cancels in (1, 5):
            leaving.clear()
            task = asyncio.create_task(request(pool.pool))
            await leaving.wait()
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0.001)
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set(latency=0)
            await all_can_be_had(pool, 1)
        assert "lost" not in pool.recorder.closes


@in_loop
async def test_whenever_tasks_are_cancelled_nothing_is_lost(dsn: str) -> None:
    """Also in the turn of the loop in which they are served, or have committed and return."""
    async with opened("async", dsn, min_size=4, max_size=4) as pool:
        leaving: dict[asyncio.Task[Any], Any] = {}
        until = monotonic() + 0.8

        async def request() -> None:
            async with pool.pool.connection() as conn:  # type: ignore[union-attr]
                await conn.execute("SELECT pg_sleep(0.002)")
                leaving[asyncio.current_task()] = conn.info  # type: ignore[index]

        async def client() -> None:
            while monotonic() < until:
                task = asyncio.create_task(request())
                await asyncio.wait({task}, timeout=random.uniform(0, 0.02))
                task.cancel()
                await asyncio.wait({task})
                leaving.pop(task, None)

        async def marksman() -> None:
            while monotonic() < until:
                for task, info in list(leaving.items()):
                    if info.transaction_status == TransactionStatus.IDLE:
                        del leaving[task]
                        task.cancel()
                await asyncio.sleep(0)

        await asyncio.gather(marksman(), *(client() for _ in range(12)))
        await all_can_be_had(pool, 4)
        assert pool.status()["leaks"] == {}
        assert pool.size == 4


# -- another loop ------------------------------------------------------------------------------


async def in_another_loop(work: Callable[[], Any]) -> None:
    """Run it on a loop of its own, in another thread."""
    await asyncio.to_thread(lambda: asyncio.run(work()))


@pytest.mark.parametrize("free", [True, False])
@in_loop
async def test_on_another_loop_it_is_refused_and_not_harmed(dsn: str, free: bool) -> None:
    """Whether there is a connection to be had at once, or it would have to be waited for."""
    async with opened("async", dsn, min_size=2, max_size=2) as pool:
        lent = [] if free else await pool.get_all(2)

        async def elsewhere() -> None:
            for timeout in (None, 1.0):
                with pytest.raises(PoolguardError, match="on another event loop") as refused:
                    await pool.pool.getconn(timeout)
                assert repr(pool.name) in str(refused.value)
                assert not isinstance(refused.value, psycopg_pool.PoolTimeout)
                db = pool.pool.connection(timeout)
                for _ in range(2):  # it is as if it had not been entered
                    with pytest.raises(PoolguardError, match="on another event loop"):
                        await db.__aenter__()  # type: ignore[union-attr]

        await in_another_loop(elsewhere)
        status = pool.status()
        assert (status["used"], status["waiting"]) == (0 if free else 2, 0)
        await pool.put(*lent)
        await all_can_be_had(pool, 2)
        assert pool.recorder.created == ["warmup"] * 2


def test_after_its_loop_has_ended_it_says_so_on_the_next(dsn: str) -> None:
    pool = Face("async", dsn, **ONE)

    async def first() -> None:
        await pool.open()

    async def second() -> None:
        with pytest.raises(PoolguardError, match="on another event loop"):
            await pool.get()

    asyncio.run(first())
    asyncio.run(second())
    pool.pool.abandon()  # type: ignore[union-attr]
