"""Several pools on one host's budget: what each gets, gives up and leaves behind.

Each pool has a ledger of its own, which counts as a process of its own: every claim is a lock of
an open file. Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard.budget.host import orphans
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.ledger import Orphans, Siblings
from poolguard.budget.slots import Orphan, Slot
from poolguard.budget.terms import Terms
from poolguard.lab.proxy import SlowProxy
from poolguard.pool import upkeep
from poolguard.pool.events import Connected
from poolguard.pool.leases import ASK_EVERY
from poolguard.util.rundir import RuntimeDir
from tests.pool.support import Face, Kind, descriptors, eventually, in_loop
from tests.support import until

SOON = 3.0
"""Seconds in which a freed slot must have changed hands; promised is one, on a calm machine."""


class Counting(HostLedger):
    """Counts what it is asked and told."""

    def __init__(self, folder: RuntimeDir, name: str, *, workers: int) -> None:
        self.calls: Counter[str] = Counter()
        super().__init__(folder, name, workers=workers)
        self.siblings = CountingSiblings(self.siblings, self.calls)
        self.orphans = CountingOrphans(self.orphans, self.calls)

    def lease(self, n: int) -> list[Slot]:
        self.calls["lease"] += 1
        return super().lease(n)


class CountingSiblings:
    """Counts what the siblings are told, and how often their news are read."""

    def __init__(self, siblings: Siblings, calls: Counter[str]) -> None:
        self.counted = siblings
        self.calls = calls
        self.fileno = siblings.fileno
        self.report_failing = siblings.report_failing
        self.drain = siblings.drain
        self.guaranteed = siblings.guaranteed
        self.owed = siblings.owed
        self.left_alone = siblings.left_alone

    @property
    def could_help(self) -> bool:
        return self.counted.could_help

    def report_starving(self, n: int) -> None:
        self.calls["starving"] += n > 0
        self.counted.report_starving(n)

    def catch_up(self) -> None:
        self.calls["caught up"] += 1
        self.counted.catch_up()


class CountingOrphans:
    """Counts how often orphans are claimed, and how many of them were gone."""

    def __init__(self, orphans: Orphans, calls: Counter[str]) -> None:
        self.counted = orphans
        self.calls = calls

    @property
    def has_taken_over(self) -> bool:
        return self.counted.has_taken_over

    def claim(self) -> list[Orphan]:
        self.calls["claimed"] += 1
        return self.counted.claim()

    def resolve(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        self.calls["gone"] += len(gone)
        self.counted.resolve(orphans, gone)


class Host:
    """A host's budget, as *terms* say."""

    def __init__(self, kind: Kind, dsn: str, folder: Path, terms: Terms) -> None:
        self.kind: Kind = kind
        self.dsn = dsn
        self.folder = folder
        self.terms = terms
        self.pools: list[Face] = []

    def ledger(self) -> Counting:
        """One more process takes part."""
        made = Counting(RuntimeDir(self.folder), "shop", workers=self.terms.workers)
        made.agree(self.terms)
        return made

    async def join(
        self, *, dsn: str | None = None, warm: bool = True, **arguments: Any
    ) -> tuple[Face, Counting]:
        """One more process with a pool, which may grow to all that there is."""
        ledger = self.ledger()
        bounds = {"min_size": self.terms.floor, "max_size": self.terms.instance}
        pool = Face(self.kind, dsn or self.dsn, ledger=ledger, **(bounds | arguments))
        self.pools.append(pool)
        await pool.open(warm=warm)
        return pool, ledger


@asynccontextmanager
async def shared(
    kind: Kind, dsn: str, folder: Path, *, limit: int = 8, workers: int = 2, floor: int = 1
) -> AsyncIterator[Host]:
    """A host; when its pools are closed, no slot is taken and no descriptor is left."""
    before = len(descriptors())
    host = Host(kind, dsn, folder / "run", Terms(None, limit, workers, floor))
    try:
        yield host
    finally:
        for pool in host.pools:
            await pool.close()
    await eventually(lambda: len(descriptors()) == before)
    later = host.ledger()
    assert later.in_use == 0
    later.close()


async def borrow(pool: Face, n: int) -> None:
    """Have the pool hold *n* idle connections."""
    await pool.put(*await pool.get_all(n))


# -- needing and giving


@in_loop
async def test_a_starving_pool_gets_what_a_sibling_has_borrowed_and_does_not_use(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    """The sibling keeps its floor."""
    async with shared(kind, dsn, tmp_path) as host:
        rich, _ = await host.join()
        poor, ledger = await host.join()
        await borrow(rich, 7)
        lent = await asyncio.wait_for(poor.get_all(7), SOON)
        assert ledger.in_use == 8
        assert rich.status()["closed"] == {"yielded": 6}
        assert rich.status()["idle"] == rich.size == 1
        await poor.put(*lent)


@in_loop
async def test_who_has_more_than_a_fair_share_gives_what_comes_back(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    """Though its own queue waits, and until both have the same."""
    async with shared(kind, dsn, tmp_path) as host:
        rich, _ = await host.join()
        poor, _ = await host.join()
        lent = await rich.get_all(7)
        queue = [asyncio.create_task(rich.get()) for _ in range(4)]
        await eventually(lambda: rich.status()["waiting"] == 4)
        wanted = asyncio.create_task(poor.get_all(4))
        await eventually(lambda: rich.pool._keeper.leases.returned_owed == 3)
        for _ in range(3):
            await rich.put(lent.pop())
        got = await asyncio.wait_for(wanted, SOON)
        assert not any(waiting.done() for waiting in queue)
        assert rich.status()["closed"] == {"yielded": 3}
        assert rich.size == poor.size == 4
        # Each sync acquire began in a thread of its own: who is first in the queue is not known.
        for _ in range(len(queue)):
            await rich.put(lent.pop())
            done, still = await asyncio.wait(queue, return_when=asyncio.FIRST_COMPLETED)
            queue = [*still]
            lent = [*(task.result() for task in done), *lent]
        assert not queue
        await rich.put(*lent)
        await poor.put(*got)


@in_loop
async def test_while_nobody_starves_nothing_is_given_and_nothing_asked(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    async with shared(kind, dsn, tmp_path) as host:
        one, _ = await host.join(min_size=1)
        other, _ = await host.join(min_size=1)
        await borrow(one, 4)
        await borrow(other, 3)
        ledgers: list[Counting] = [pool.pool._keeper.leases.ledger for pool in host.pools]  # type: ignore[misc]
        await eventually(lambda: [ledger.calls["caught up"] for ledger in ledgers] == [1, 0])
        before = [ledger.calls.copy() for ledger in ledgers]
        for _ in range(50):
            for pool, n in ((one, 4), (other, 3)):
                await borrow(pool, n)
        assert [ledger.calls for ledger in ledgers] == before
        assert one.recorder.closes == other.recorder.closes == []


@in_loop
async def test_what_a_sibling_found_elsewhere_is_not_given_as_well(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    """It does not say that it starves no more: that would wake everybody for nothing."""
    async with shared(kind, dsn, tmp_path) as host:
        rich, _ = await host.join()
        poor, ledger = await host.join()
        lent = await rich.get_all(7)
        own = await poor.get()
        waiting = asyncio.create_task(poor.get())
        await eventually(lambda: rich.pool._keeper.leases.returned_owed > 0)
        await poor.put(own)
        assert await waiting is own
        await eventually(lambda: not ledger._access.members.me.starving)
        await rich.put(*lent)
        assert rich.recorder.closes == []
        await poor.put(own)


@pytest.mark.parametrize("first", ["a return", "a freed slot"])
@in_loop
async def test_who_waits_is_served_by_whichever_comes_first(
    *, kind: Kind, dsn: str, tmp_path: Path, first: str
) -> None:
    async with shared(kind, dsn, tmp_path, limit=4) as host:
        rich, _ = await host.join()
        poor, _ = await host.join()
        lent = await rich.get_all(3)
        own = await poor.get()
        waiting = asyncio.create_task(poor.get())
        await eventually(lambda: poor.pool._keeper.leases.starved)
        if first == "a return":
            await poor.put(own)
            assert await waiting is own
            assert poor.recorder.outcomes[-1] == "waited"
        else:
            await rich.put(lent.pop())
            assert await asyncio.wait_for(waiting, SOON) is not own
            assert poor.recorder.outcomes[-1] == "created"
            await poor.put(own)
        await poor.put(await waiting)
        await rich.put(*lent)


@in_loop
async def test_counts_and_slots_add_up_under_load(
    kind: Kind, dsn: str, tmp_path: Path, admin: psycopg.Connection
) -> None:
    """Three pools that want more than there is, in turns, of whose connections some are killed."""
    async with shared(kind, dsn, tmp_path, limit=9, workers=3, floor=1) as host:
        pools = [(await host.join())[0] for _ in range(3)]
        watcher = host.pools[0].pool._keeper.leases.ledger
        rng = random.Random(7)
        killed = 0

        async def requests(pool: Face, n: int) -> None:
            for _ in range(n):
                conn = await pool.get(timeout=10)
                with suppress(psycopg.OperationalError):  # one that is killed
                    await pool.execute(conn, "SELECT pg_sleep(0.003)")
                await pool.put(conn)

        for turn in range(6):
            loads = [requests(pools[turn % 3], 4) for _ in range(8)]
            loads += [requests(rng.choice(pools), 4) for _ in range(8)]
            running = asyncio.gather(*loads)
            if turn % 2:
                await eventually(lambda: pools[turn % 3].status()["used"])  # noqa: B023 - now
                killed += pools[turn % 3].kill(admin)
            await running
            assert watcher.in_use <= 9
        await eventually(
            lambda: watcher.in_use == sum(p.size + p.status()["opening"] for p in pools)
        )
        for pool in pools:
            status = pool.status()
            assert sum(status["created"].values()) - sum(status["closed"].values()) == pool.size
            assert sum(status["acquires"].values()) == len(pool.recorder.outcomes)
        assert any("yielded" in pool.status()["closed"] for pool in pools)
        # Of those that were killed, all may have been about to be closed anyway.
        assert killed >= 3
        assert pools[0].kill(admin)
        await eventually(lambda: "lost" in pools[0].status()["closed"])


# -- leaving


@in_loop
async def test_who_leaves_gives_up_what_is_idle_and_serves_who_still_asks(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    async with shared(kind, dsn, tmp_path, limit=6, floor=2) as host:
        old, _ = await host.join()
        new, ledger = await host.join()
        lent = await old.get()
        await borrow(old, 3)
        old.pool.leave()
        await eventually(lambda: old.size == 1 and ledger.in_use == 3)
        assert set(old.recorder.closes) == {"shutdown"}
        assert not old.pool.closed
        await old.execute(lent, "SELECT 1")

        late = await old.get(timeout=SOON)
        await old.put(late)
        await eventually(lambda: old.size == 1)
        await old.put(lent)
        await eventually(lambda: old.size == 0 and ledger.in_use == 2)
        assert old.status()["opening"] == 0
        assert set(old.recorder.closes) == {"shutdown"}
        heir, _ = await host.join()  # its floor is free for the next one
        assert heir.size == 2
        await new.put(*await asyncio.wait_for(new.get_all(4), SOON))


@in_loop
async def test_the_last_requests_of_who_leaves_open_nothing(
    kind: Kind, dsn: str, tmp_path: Path
) -> None:
    async with shared(kind, dsn, tmp_path, floor=3) as host:
        old, _ = await host.join()
        old.pool.leave()
        while old.size > 1:  # until a second has shown that one is enough
            await old.put(await old.get())
            await asyncio.sleep(0)
        assert old.status()["created"] == {"warmup": 3}
        await eventually(lambda: old.status()["closed"] == {"shutdown": 2})
        await eventually(lambda: old.size == 0)


@in_loop
async def test_a_sibling_does_not_wait_for_what_who_leaves_has_idle_but_for_the_last(
    kind: Kind, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LINGER", 600.0)
    async with shared(kind, dsn, tmp_path, limit=6, floor=2) as host:
        old, _ = await host.join()
        new, _ = await host.join()
        lent = await old.get_all(2)
        await borrow(old, 2)
        old.pool.leave()
        taken = await asyncio.wait_for(new.get_all(4), SOON)
        heir, _ = await host.join(warm=False)  # it has the floor that is no longer the old one's
        await old.put(lent.pop())
        await eventually(lambda: heir.size == 1, SOON)
        assert old.size == 1, "its last is for whoever still asks"
        await new.put(taken.pop())
        assert await heir.call("wait_warm", SOON)
        assert set(old.recorder.closes) == {"yielded"}
        await old.put(*lent)
        await new.put(*taken)


# -- slots of which nobody knows whether their backends are gone

HOLD = """
import sys
from pathlib import Path
import psycopg
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.slots import Backend
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir
dsn, folder, n, *terms = sys.argv[1:]
terms = Terms(None, *map(int, terms))
ledger = HostLedger(RuntimeDir(Path(folder)), "shop", workers=terms.workers)
ledger.agree(terms)
conns = []
for slot in ledger.lease(int(n)):
    conns.append(psycopg.connect(dsn, application_name="dead"))
    ledger.record_backend(slot, Backend(conns[-1].info.backend_pid, 0.0))
    conns[-1].pgconn.send_query(b"SELECT pg_sleep(60)")
print(len(conns), flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(host: Host, n: int) -> Iterator[None]:
    """A process that holds so many, each for a backend in a long query; killed at the end,
    which none of the backends notices."""
    terms = [str(n) for n in (host.terms.instance, host.terms.workers, host.terms.floor)]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, host.dsn, host.folder, str(n), *terms],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            assert int(process.stdout.readline()) == n
            yield
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def end_the_dead(admin: psycopg.Connection) -> Iterator[Callable[[], None]]:
    """Ends the backends of the killed, at the latest after the test."""

    def end() -> None:
        dead = "FROM pg_stat_activity WHERE application_name = 'dead'"
        admin.execute(f"SELECT pg_terminate_backend(pid) {dead}")
        until(lambda: admin.execute(f"SELECT {dead}").fetchall() == [])

    yield end
    end()


async def passed_on(pool: Face, conn: Any) -> Any:
    """Return *conn* while somebody waits for one; what that one gets."""
    waiting = asyncio.create_task(pool.get())
    await eventually(lambda: pool.status()["waiting"] == 1)
    await pool.put(conn)
    return await waiting


@in_loop
async def test_a_slot_of_the_dead_stays_taken_until_its_backend_is_gone(
    kind: Kind, dsn: str, tmp_path: Path, end_the_dead: Callable[[], None]
) -> None:
    """An idle connection asks."""
    async with shared(kind, dsn, tmp_path, limit=4) as host:
        with holding(host, 3):
            pass
        pool, ledger = await host.join(min_size=3, warm=False)
        await eventually(lambda: ledger.calls["claimed"] > 3)
        assert pool.recorder.created == ["warmup"]
        assert ledger.in_use == 4
        assert ledger.calls["gone"] == 0
        end_the_dead()
        assert await pool.call("wait_warm", SOON)
        assert ledger.calls["gone"] >= 2, "as many as it lacked"


@in_loop
async def test_with_every_connection_lent_out_the_next_that_is_returned_asks(
    kind: Kind, dsn: str, tmp_path: Path, end_the_dead: Callable[[], None]
) -> None:
    async with shared(kind, dsn, tmp_path, limit=4) as host:
        pool, ledger = await host.join()
        with holding(host, 3):
            pass
        conn = await pool.get()
        others = [asyncio.create_task(pool.get()) for _ in range(2)]
        await eventually(lambda: pool.pool._keeper.leases.starved)
        end_the_dead()
        assert ledger.in_use == 4
        third = asyncio.create_task(pool.get())
        await pool.put(conn)
        got = await asyncio.wait_for(asyncio.gather(*others, third), SOON)
        assert ledger.calls["gone"] == 3
        assert pool.size == 3
        await pool.put(*got)


@pytest.mark.parametrize("backends", ["gone", "alive"])
@in_loop
async def test_with_no_connection_left_one_slot_is_taken_over_to_ask(
    *,
    kind: Kind,
    dsn: str,
    tmp_path: Path,
    end_the_dead: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    backends: str,
) -> None:
    """The new connection asks before a request has it, who might keep it for long."""
    monkeypatch.setattr(orphans, "OVERDUE", 0.5)
    async with shared(kind, dsn, tmp_path, limit=3) as host:
        with holding(host, 2), holding(host, 1):
            pass
        if backends == "gone":
            end_the_dead()
        pool, ledger = await host.join()
        requests = [asyncio.create_task(pool.get()) for _ in range(2)]
        if backends == "alive":
            await eventually(lambda: requests[0].done() or requests[1].done())
            requests.sort(key=asyncio.Task.done)
            assert ledger.calls["gone"] == 0
            assert ledger.in_use == 3
            end_the_dead()
            await asyncio.sleep(ASK_EVERY)  # it does not ask all the time
            await pool.put(await requests.pop())
            requests.append(asyncio.create_task(pool.get()))
        conns = await asyncio.wait_for(asyncio.gather(*requests), SOON)
        assert ledger.calls["gone"] == 3
        assert ledger.in_use == 2
        assert not ledger.orphans.has_taken_over
        await pool.put(*conns)


@in_loop
async def test_the_slot_of_a_verification_without_answer_is_asked_about(
    kind: Kind, dsn: str, gate: SlowProxy, gate_dsn: str, tmp_path: Path
) -> None:
    """Its backend is there as before: the slot is not free until somebody has seen it end."""
    async with shared(kind, dsn, tmp_path, limit=2) as host:
        silent, ledger = await host.join(dsn=gate_dsn, check_interval=0.2, check_timeout=0.2)
        asking, asked = await host.join()
        gate.blackhole()
        await eventually(lambda: silent.recorder.closes == ["lost"])
        conn = await asking.get()
        while asked.calls["claimed"] < 4:
            conn = await passed_on(asking, conn)
            await asyncio.sleep(0.05)  # it does not ask all the time
        assert (asked.calls["gone"], ledger.in_use) == (0, 2)
        assert silent.status()["opening"] == 0
        gate.resume()  # the server hears of the end
        while not asked.calls["gone"]:
            conn = await passed_on(asking, conn)
            await asyncio.sleep(0.05)
        await eventually(lambda: silent.size == 1)
        await asking.put(conn)


@in_loop
async def test_the_slot_of_a_connect_that_timed_out_stays_taken_for_a_while(
    kind: Kind, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have gone on with it, and nobody knows its backend."""
    grace = 1.0
    monkeypatch.setattr(orphans, "CONNECTING_GRACE", grace)
    error: list[Exception] = [psycopg.errors.ConnectionTimeout("too late")]

    class Late(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            if error:
                raise error.pop()
            return super().connect(*args, **kwargs)

    class AsyncLate(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            if error:
                raise error.pop()
            return await super().connect(*args, **kwargs)

    late = Late if kind == "sync" else AsyncLate
    async with shared(kind, dsn, tmp_path, limit=1, workers=1) as host:
        pool, ledger = await host.join(warm=False, connection_class=late)
        await eventually(lambda: pool.recorder.failures)
        assert ledger.in_use == 1
        assert await pool.call("wait_warm", 10)
        connected = pool.recorder.of(Connected)[0]
        assert connected.began - pool.recorder.failures[0].ended >= grace
