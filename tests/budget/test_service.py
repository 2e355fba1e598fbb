"""A service of real workers never holds more connections than its budget, whatever happens to it.

Counted are the sessions of the service's role in ``pg_stat_activity``, every few milliseconds, over
a connection beside the pool. The server has room for the budget and not for one more, so that one
too many would be refused, and the refusal be logged.
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.sessions import SessionSampler

from ..support import until
from .service import Load, Service

BUDGET = 12
OTHERS = 5
OBSERVERS = 2
RESERVED = 3
REFUSED = re.compile(r"too many clients|connection slots are reserved|too many connections")


@pytest.fixture
def busy() -> Iterator[PrivatePostgres]:
    """A server that others use as well: it has exactly the budget left."""
    settings = {
        "max_connections": str(BUDGET + OTHERS + OBSERVERS + RESERVED),
        "superuser_reserved_connections": str(RESERVED),
    }
    with PrivatePostgres(settings=settings) as server, ExitStack() as stack:
        other = server.create_role("other")
        for _ in range(OTHERS):
            stack.enter_context(psycopg.connect(other))
        yield server


@contextmanager
def census(server: PrivatePostgres) -> Iterator[SessionSampler]:
    """No sample has more sessions than the budget."""
    with SessionSampler(server.dsn, role="app", every=0.002) as counted:
        yield counted
    assert counted.peak <= BUDGET, counted.at_peak


def told(counted: SessionSampler) -> str:
    """How often each number of sessions was counted."""
    return f"\ncounted: {sorted(Counter(n for _, n in counted.series).items())}"


def fast_and_slow(rng: random.Random) -> float:
    return rng.choice([0.0, 0.01, 0.02, 0.3, 0.6])


def test_no_event_exceeds_the_budget(busy: PrivatePostgres, tmp_path: Path) -> None:
    """Boot, burst, HUP, HUP during HUP, USR2 and retirement, TTIN and TTOU, the ledger deleted by
    somebody and HUP, kill -9 in mid-query, all backends terminated, the server restarted: no
    request fails but those whose own connection or worker was killed."""
    dsn = busy.create_role("app")
    environ = {"POOLGUARD_BUDGET": str(BUDGET), "POOLGUARD_ACQUIRE_TIMEOUT": "20"}
    with (
        Janitor() as janitor,
        Service(janitor, tmp_path, dsn, workers=3, threads=6, **environ) as service,
        census(busy) as counted,
        busy.connect() as admin,
    ):
        workers = service.until_workers(3)
        with Load(service, 14, fast_and_slow) as load:
            calm = monotonic()
            load.until_more(100)

            service.signal(signal.SIGHUP)
            workers = service.until_workers(3, without=workers)

            service.signal(signal.SIGHUP)
            until(lambda: len(service.pids()) > 3)
            service.signal(signal.SIGHUP)
            workers = service.until_workers(3, without=workers)

            service.replace_master()
            workers = service.until_workers(3, without=workers)

            service.signal(signal.SIGTTIN)
            service.until_workers(4)
            load.until_more(100)
            service.signal(signal.SIGTTOU)
            workers = service.until_workers(3)
            assert load.bad(calm) == []

            for path in (tmp_path / "run").iterdir():
                path.unlink()
            until(lambda: "was deleted or replaced" in service.log())
            service.signal(signal.SIGHUP)
            workers = service.until_workers(3, without=workers)
            load.until_more(100)
            assert load.bad(calm) == []

            for _ in range(4):
                victim = next(iter(service.pids()))
                os.kill(victim, signal.SIGKILL)
                service.until_workers(3, without={victim})
            killed = [reply for reply in load.bad(calm) if reply.status != 0]
            assert killed == []

            struck = monotonic()
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )
            load.until_more(100)
            assert {reply.status for reply in load.bad(struck)} <= {502}

            busy.restart()
            load.until_more(200)
            well = monotonic()
            load.until_more(100)
            assert load.bad(well) == []
            assert {reply.status for reply in load.bad(struck)} <= {502}
    assert counted.peak == BUDGET
    assert [line for line in busy.read_log().splitlines() if REFUSED.search(line)] == []
    assert [line for line in service.log().splitlines() if REFUSED.search(line)] == []
    print(told(counted))


def quick(rng: random.Random) -> float:
    return rng.choice([0.0, 0.01])


@pytest.mark.parametrize("budget", [8, 2], ids=["floors", "workers"])
def test_a_reload_within_a_tight_budget_fails_no_request(
    postgres: PrivatePostgres, tmp_path: Path, budget: int
) -> None:
    """The floors, or one connection for each worker, are all that there is: old and new workers
    share it while both are there, and whoever accepts has one."""
    dsn = postgres.conninfo(application_name="tight")
    environ = {"POOLGUARD_BUDGET": str(budget), "POOLGUARD_FLOOR": str(budget // 2)}
    environ["POOLGUARD_ACQUIRE_TIMEOUT"] = "2"
    with (
        Janitor() as janitor,
        Service(janitor, tmp_path, dsn, workers=2, threads=4, **environ) as service,
    ):
        workers = service.until_workers(2)
        with Load(service, 4, quick) as load:
            load.until_more(50)
            service.signal(signal.SIGHUP)
            service.until_workers(2, without=workers)
            load.until_more(50)
        assert load.bad(0.0) == []


def slow(rng: random.Random) -> float:
    return rng.uniform(0.3, 2.5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(1, id="one", marks=pytest.mark.matrix),
        pytest.param(3, id="all", marks=pytest.mark.long),
    ],
)
def test_kills_in_mid_query_exceed_nothing(
    busy: PrivatePostgres, tmp_path: Path, victims: int
) -> None:
    """kill -9 of one worker, or of all at once, again and again while every connection runs a query
    of seconds. Where all are dead, nobody is left to ask the server what became of them."""
    dsn = busy.create_role("app")
    environ = {"POOLGUARD_BUDGET": str(BUDGET), "POOLGUARD_ACQUIRE_TIMEOUT": "30"}
    with (
        Janitor() as janitor,
        Service(janitor, tmp_path, dsn, workers=3, threads=6, **environ) as service,
        census(busy) as counted,
        Load(service, 14, slow) as load,
    ):
        service.until_workers(3)
        for _ in range(20 if victims == 1 else 8):
            load.until_more(15)
            for victim in [*service.pids()][:victims]:
                os.kill(victim, signal.SIGKILL)
            service.until_workers(3)
        assert {reply.status for reply in load.replies} == {0, 200}
    assert counted.peak == BUDGET
    assert [line for line in busy.read_log().splitlines() if REFUSED.search(line)] == []
    print(told(counted))


@pytest.fixture
def four(tmp_path: Path, postgres: PrivatePostgres) -> Iterator[Service]:
    """Four workers that share 16: a floor of 2 each, 8 to be borrowed, a fair share of 4."""
    dsn = postgres.conninfo(application_name="four")
    environ = {"POOLGUARD_BUDGET": "16", "POOLGUARD_ACQUIRE_TIMEOUT": "20"}
    with (
        Janitor() as janitor,
        Service(janitor, tmp_path, dsn, workers=4, threads=4, **environ) as service,
    ):
        until(lambda: service.log().count("is warm") == 4, within=30)
        yield service


def test_connections_go_where_the_load_is(four: Service) -> None:
    """All load on one worker: it has at least 10 of 16 while its siblings keep their floors. The
    load moves to another, and the connections follow within 2 s."""
    first = four.hog(14, 2.0, 10)
    assert first.most == 10
    for pid, status in four.statuses().items():
        assert status["idle"] + status["used"] >= status["floor"] == 2, pid
    second = four.hog(14, 3.0, 10, but_not=first.worker)
    print(f"\nreached 10: {first.reached:.2f} s at first, {second.reached:.2f} s after the move")
    assert second.worker != first.worker
    assert second.most == 10
    assert 0 < second.reached < 2
    closed = four.statuses()[first.worker]["closed"]
    assert closed["yielded"] >= 8


def test_a_worker_below_its_fair_share_is_helped_by_a_busy_one(four: Service) -> None:
    """Both are busy, and the first has borrowed all there is: what is returned to it goes to the
    second within a second, until that has its 4."""
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(four.hog, 14, 60.0, 10)
        try:
            worker = four.until_hogged()
            second = four.hog(14, 2.0, 4, but_not=worker)
        finally:
            four.end_hogs()
        first = busy.result()
    print(f"\nreached 4: {second.reached:.2f} s")
    assert second.worker != first.worker == worker
    assert 0 < second.reached < 1
    assert second.most >= 4
