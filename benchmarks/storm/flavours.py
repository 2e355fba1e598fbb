"""One storm, and who its clients are: tasks, threads or greenlets."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import importlib
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import Random
from time import monotonic
from types import FrameType
from typing import Any

import psycopg

from poolguard import AsyncGuardedPool, GuardedPool

from ..kinds import Job, drive, got
from . import witness as accounts
from .witness import Shape, Witness, shapes

GUST = 5.0
"""Seconds until a pool is looked at, twice in its life."""
REST_WITHIN = 10.0
STUCK_AFTER = 20.0
"""Seconds after the end of a gust when a client that goes on will never end."""
TIMEOUTS = (None, None, 0.005, 0.1)
"""Of an acquire; None is the pool's own."""
MISBEHAVES = 0.03
"""How often a callback fails."""

THERE = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
STILL_THERE = "SELECT FROM pg_stat_activity WHERE pid = %s"
TERMINATE = f"SELECT pid, pg_terminate_backend(pid) FROM ({THERE} ORDER BY random() LIMIT 1) AS one"


class TooLong(BaseException):
    """What a signal's handler raises."""


class CallbackFailed(Exception):
    """What a callback of the pool raises."""


class Tasks:
    """Clients are tasks, which are cancelled: how they run, wait, borrow and are interrupted."""

    pool_class: Any = AsyncGuardedPool
    connect: Any = psycopg.AsyncConnection.connect
    hits = True
    """Clients can be interrupted from outside."""

    sleep: Any = staticmethod(asyncio.sleep)
    me: Any = staticmethod(asyncio.current_task)
    hit: Any = staticmethod(asyncio.Task.cancel)

    def spawn(self, job: Job) -> Any:
        return asyncio.create_task(job)

    async def join(self, whos: Collection[Any], within: float | None = None) -> int:
        """Wait until all of them have ended; how many have not."""
        return len((await asyncio.wait(whos, timeout=within))[1])

    def callback(self, called: Any) -> Any:
        """The coroutine function *called* as the pool calls back."""
        return called

    async def borrow(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        """Have a connection for a moment, with all care, wherever this may be interrupted."""
        limit = rng.expovariate(50) if rng.random() < 0.3 else None
        if sys.version_info >= (3, 11):
            async with asyncio.timeout(limit):
                await self._borrow(storm, pool, shape, rng)
        else:
            await asyncio.wait_for(self._borrow(storm, pool, shape, rng), limit)

    async def _borrow(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        timeout = rng.choice(TIMEOUTS)
        if rng.random() < 0.5:
            async with pool.connection(timeout) as conn:
                await storm.use(conn, shape, rng)
            return
        conn = await pool.getconn(timeout)
        try:
            await storm.use(conn, shape, rng)
        finally:
            await (conn.close() if shape.closes else pool.putconn(conn))

    async def attempt(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        """Let a client come that may be hit at any of its steps, and wait until it has gone."""
        who = self.spawn(storm.turn(pool, shape, rng))
        if (how := rng.random()) < 0.2:
            for _ in range(rng.randrange(20)):
                await self.sleep(0)
            self.hit(who)
        elif how < 0.4:
            await self.sleep(rng.expovariate(100))
            self.hit(who)
        await self.join([who])

    async def meanwhile(self, storm: Storm, pool: Any, shape: Shape) -> None:  # noqa: ARG002
        """Until the gust ends: hit clients while their connections go back."""
        rng = storm.dice()
        while monotonic() < storm.gust_ends:
            for who, pgconn in list(storm.leaving.items()):
                if pgconn.transaction_status == 0 or rng.random() < 0.1:
                    storm.leaving.pop(who, None)
                    self.hit(who)
            await self.sleep(0)


class Threads(Tasks):
    """Clients are threads, and one is the main thread, where a signal's handler raises."""

    pool_class = GuardedPool
    connect = psycopg.Connection.connect
    hits = False
    me = staticmethod(threading.current_thread)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def spawn(self, job: Job) -> Any:
        thread = threading.Thread(target=drive, args=(job,), daemon=True)
        thread.start()
        return thread

    async def join(self, whos: Collection[Any], within: float | None = None) -> int:
        late = monotonic() + (within or 0.0)
        for thread in whos:
            thread.join(max(0.0, late - monotonic()))
        return sum(thread.is_alive() for thread in whos)

    def callback(self, called: Any) -> Any:
        return lambda conn: drive(called(conn))

    async def borrow(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        self._lend(storm, pool, shape, rng)

    def _lend(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        timeout = rng.choice(TIMEOUTS)
        if rng.random() < 0.5:
            with pool.connection(timeout) as conn:
                drive(storm.use(conn, shape, rng))
            return
        conn = None
        try:
            conn = pool.getconn(timeout)
            drive(storm.use(conn, shape, rng))
        finally:
            if conn is not None:
                conn.close() if shape.closes else pool.putconn(conn)

    async def attempt(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        await storm.turn(pool, shape, rng)

    async def meanwhile(self, storm: Storm, pool: Any, shape: Shape) -> None:
        """Until the gust ends: be a client that is interrupted anywhere in its turn."""
        rng = storm.dice()

        def alarm(_: int, frame: FrameType | None) -> None:
            while frame is not None:
                if frame.f_code.co_filename == accounts.__file__:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001)  # a moment later, then
                    return
                if frame.f_code is Threads._lend.__code__:
                    raise rng.choice((TooLong, KeyboardInterrupt))
                frame = frame.f_back

        signal.signal(signal.SIGALRM, alarm)
        while monotonic() < storm.gust_ends:
            signal.setitimer(signal.ITIMER_REAL, rng.expovariate(200) + 1e-6)
            await storm.turn(pool, shape, rng)


class Greenlets(Threads):
    """Clients are greenlets, which a timeout or a kill ends wherever they wait."""

    hits = True
    attempt = Tasks.attempt
    meanwhile = Tasks.meanwhile

    def __init__(self) -> None:
        self.gevent = importlib.import_module("gevent")
        self.me = self.gevent.getcurrent

    def hit(self, who: Any) -> None:
        who.kill(block=False)

    def spawn(self, job: Job) -> Any:
        return self.gevent.spawn(drive, job)

    async def join(self, whos: Collection[Any], within: float | None = None) -> int:
        return len(whos) - len(self.gevent.joinall(whos, within))

    async def borrow(self, storm: Storm, pool: Any, shape: Shape, rng: Random) -> None:
        with self.gevent.Timeout(rng.expovariate(50) if rng.random() < 0.3 else None):
            self._lend(storm, pool, shape, rng)


class Storm:
    """Pools one after the other, each with more clients than connections."""

    def __init__(
        self, clients: Tasks, flavour: str, conninfo: str, seconds: float, seed: str
    ) -> None:
        self.clients = clients
        self.conninfo = conninfo
        self.seconds = seconds
        self.random = Random(f"{flavour} {seed}")
        self.shapes = shapes(flavour, self.random)
        self.witness = Witness()
        self.gust_ends = 0.0
        self.acquiring: dict[Any, None] = {}
        """Clients that wait to be lent a connection, the first to ask first."""
        self.leaving: dict[Any, Any] = {}
        """Clients to be interrupted while their connections go back, and these."""

    def dice(self) -> Random:
        """Another client's own."""
        return Random(str(self.random.random()))

    async def run(self) -> None:
        if self.clients.pool_class is AsyncGuardedPool:
            asyncio.get_running_loop().set_exception_handler(self.witness.loop_said)
        admin = await got(self.clients.connect(self.conninfo, autocommit=True))
        ends = monotonic() + self.seconds
        while monotonic() < ends and not self.witness.counts["stuck"]:
            shape = next(self.shapes)
            self.witness.counts["pools"] += 1
            await self.play(shape, admin)
            self.witness.print()
        await got(admin.close())

    async def play(self, shape: Shape, admin: Any) -> None:
        """One pool, from its opening until it is closed."""
        callbacks = {
            name: self.clients.callback(partial(self.called, name, shape, self.dice()))
            for name in shape.callbacks
        }
        pool = self.clients.pool_class(
            self.conninfo,
            kwargs={"application_name": shape.name},
            min_size=shape.min_size,
            max_size=shape.max_size,
            open=False,
            name=shape.name,
            **callbacks,
            **shape.options,
        )
        await got(pool.open(True))
        for _ in range(2):
            self.gust_ends = monotonic() + min(GUST, self.seconds / 4)
            if not (await self.gust(pool, shape) and await self.look(pool, shape, admin)):
                break
        await got(pool.close())

        async def left() -> str:
            there = (await got(admin.execute(THERE, [shape.name]))).rowcount
            return f"{shape}: closed, and {there} sessions are left" if there else ""

        if wrong := await self.rest(left):
            self.witness.say("unsettled", wrong)

    async def called(self, name: str, shape: Shape, rng: Random, conn: Any) -> None:
        """The pool has called back, which fails now and then."""
        try:
            self.witness.holds(conn, f"lent, and at once in {name}")
            if name == "check":
                await got(self.clients.pool_class.check_connection(conn))
            if not self.witness.stormy or (how := rng.random() / MISBEHAVES) > 1:
                return
            if how < 0.3 and name != "check":
                await got(conn.execute("SELECT 1"))  # and leaves it in a transaction
                return
            if how < 0.6 and not shape.closes:  # else it would give back what it was not lent
                await got(conn.close())
            raise CallbackFailed
        finally:
            self.witness.returned(conn)

    async def gust(self, pool: Any, shape: Shape) -> bool:
        """Storm for a while; whether all clients have ended."""
        self.witness.stormy = True
        jobs = (self.client(pool, shape) for _ in range(4 * shape.max_size))
        whos = [self.clients.spawn(job) for job in (self.weather(pool, shape), *jobs)]
        await self.clients.meanwhile(self, pool, shape)
        stuck = await self.clients.join(whos, STUCK_AFTER)
        self.witness.stormy = False
        if stuck:
            self.witness.say("stuck", f"{shape}: {stuck} clients never ended", stuck)
            faulthandler.dump_traceback()
        return not stuck

    async def client(self, pool: Any, shape: Shape) -> None:
        rng = self.dice()
        while monotonic() < self.gust_ends:
            await self.clients.attempt(self, pool, shape, rng)
            await self.clients.sleep(rng.expovariate(200))

    async def turn(self, pool: Any, shape: Shape, rng: Random) -> None:
        me = self.clients.me()
        self.acquiring[me] = None
        try:
            await self.clients.borrow(self, pool, shape, rng)
        except BaseException as error:  # noqa: BLE001 - a client goes on, whatever has happened
            self.witness.ended(error)
        finally:
            self.acquiring.pop(me, None)
            self.leaving.pop(me, None)
        if self.clients.hits and self.acquiring and rng.random() < 0.1:
            self.clients.hit(next(iter(self.acquiring)))  # it has just been handed this connection

    async def use(self, conn: Any, shape: Shape, rng: Random) -> None:
        """Work with a connection that has been lent."""
        me = self.clients.me()
        self.acquiring.pop(me, None)
        try:
            self.witness.lent(conn)
            await self.work(conn, shape, rng)
        finally:
            self.witness.returned(conn)
        if rng.random() < 0.2:
            self.leaving[me] = conn.pgconn

    async def work(self, conn: Any, shape: Shape, rng: Random) -> None:
        """Ask something, and leave something behind: most often an open transaction."""
        if (how := rng.randrange(12)) == 0:
            return
        await got(conn.execute("SELECT pg_sleep(0.001)"))
        if how in (1, 5):
            await got(conn.commit())
        if how in (2, 3):
            expected = (psycopg.errors.DivisionByZero,) if how == 2 else ()
            with suppress(*expected):
                await got(conn.execute("SELECT 1/0"))
        elif how == 4 and not shape.closes:
            await got(conn.close())
        elif how == 5:
            conn.pgconn.enter_pipeline_mode()
        elif how == 6:
            await self.pipeline(conn)
        elif how == 7:
            await got(conn.execute("SELECT pg_sleep(0.02)"))

    async def pipeline(self, conn: Any) -> None:
        async with AsyncExitStack() as stack:
            if self.clients.pool_class is AsyncGuardedPool:
                await stack.enter_async_context(conn.pipeline())
            else:
                stack.enter_context(conn.pipeline())
            await got(conn.execute("SELECT 1"))

    async def weather(self, pool: Any, shape: Shape) -> None:
        """Sessions are ended; the pool is resized, drained and checked."""
        rng = self.dice()
        admin = await got(self.clients.connect(self.conninfo, autocommit=True))
        while monotonic() < self.gust_ends:
            await self.clients.sleep(rng.uniform(0.01, 0.1))
            try:
                if (how := rng.random()) < 0.6:
                    ended = await got(admin.execute(TERMINATE, [shape.name]))
                    self.witness.counts["terminated"] += ended.rowcount
                    for pid, _ in await got(ended.fetchall()):
                        # A busy server ends it later, which is not to be when the pool is at rest.
                        while (await got(admin.execute(STILL_THERE, [pid]))).rowcount:
                            await self.clients.sleep(0.005)
                elif how < 0.8:
                    high = rng.randint(1, shape.max_size)
                    await got(pool.resize(rng.randint(0, high), high))
                else:
                    await got(pool.drain() if how < 0.9 else pool.check())
            except Exception as error:  # noqa: BLE001 - counted, and the storm goes on
                self.witness.ended(error)
        await got(admin.close())

    async def look(self, pool: Any, shape: Shape, admin: Any) -> bool:
        """Whether the pool is whole now that nobody uses it."""
        await got(pool.resize(shape.min_size, shape.max_size))

        async def unsettled() -> str:
            gc.collect()  # a client that was interrupted may have left a connection to nobody
            there = (await got(admin.execute(THERE, [pool.name]))).rowcount
            return self.witness.unsettled(pool.status(), pool.get_stats(), there)

        wrong = await self.rest(unsettled)
        used = pool.status()["used"]
        had: list[Any] = []
        backends = set()
        try:
            while len(had) < shape.max_size:
                had.append(await got(pool.getconn(3.0)))
        except psycopg.OperationalError as error:
            wrong = wrong or f"then {type(error).__name__}: {error}"
        for conn in had:
            self.witness.lent(conn)
            try:
                row = await got((await got(conn.execute("SELECT pg_backend_pid()"))).fetchone())
                backends.add(row[0])
            except psycopg.Error as error:
                wrong = wrong or f"then {type(error).__name__}: {error}"
        for conn in had:
            self.witness.returned(conn)
            await got(pool.putconn(conn))
        wrong = wrong or await self.rest(unsettled)
        return self.witness.judge(shape, used, len(backends), wrong)

    async def rest(self, wrong: Callable[[], Awaitable[str]]) -> str:
        """Wait until nothing is *wrong* any more; returns what still is when it ought not to be."""
        late = monotonic() + REST_WITHIN
        while (said := await wrong()) and monotonic() < late:
            await self.clients.sleep(0.05)
        return said


def main(flavour: str) -> None:
    """Play it: the arguments are a conninfo, seconds, and a seed."""
    conninfo, seconds, seed = sys.argv[1:4]
    faulthandler.enable()
    # A greenlet that is killed before it begins.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    faulthandler.dump_traceback_later(float(seconds) + 140, exit=True)
    clients = {"threads": Threads, "gevent": Greenlets}.get(flavour, Tasks)()
    storm = Storm(clients, flavour, conninfo, float(seconds), seed)
    if clients.pool_class is GuardedPool:
        drive(storm.run())
    else:
        loops: Any = importlib.import_module("uvloop") if flavour == "uvloop" else asyncio
        loops.run(storm.run())
