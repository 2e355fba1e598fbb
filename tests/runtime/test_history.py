"""What was needed on earlier days is kept warm: real guards, whose past is written beforehand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from poolguard import Guard
from poolguard.history.minutes import DAY
from poolguard.history.ring import WINDOWS, Ring, Row, histories
from poolguard.runtime import memory as memories
from poolguard.runtime import runtime
from poolguard.runtime.memory import GuardMemory
from poolguard.util.rundir import RuntimeDir
from tests.support import until

Open = Callable[..., Guard]
NAME = "default"


def now() -> int:
    return int(time.time() // 60)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def guard(dsn: str, run: Path) -> Iterator[Open]:
    """Makes guards in one folder, and closes them in the end."""
    with ExitStack() as stack:

        def one(**given: Any) -> Guard:
            usual = {"mode": "sync", "runtime_dir": run, "floor": 1, "budget": 20, "workers": 2}
            made = Guard(dsn, **{**usual, **given})
            stack.callback(made.close)
            return made

        yield one


@pytest.fixture
def yesterday(guard: Open, run: Path) -> Callable[..., None]:
    """So many connections were lent at once yesterday, from an hour before this time of day on;
    *before* a moment that comes in ten minutes it was less."""

    def write(lent: int, before: int | None = None) -> None:
        with guard() as one:  # it makes the file
            assert one.open(wait=10)
        folder = RuntimeDir(run)
        [name] = [each for each in folder.names() if each.endswith(".history")]
        ring = Ring(folder, name, NAME)
        for minute in range(now() - DAY - 60, now() - DAY + 60):
            early = before is not None and minute < now() - DAY + 10
            ring.tell(Row(minute, ((before or 0) if early else lent,) * WINDOWS))
            ring.settle(minute)
        ring.close()
        folder.close()

    return write


def size(guard: Guard) -> int:
    status = guard.status()
    return int(status["idle"] + status["used"])


def test_a_worker_boots_with_what_was_needed_at_this_time_yesterday(
    guard: Open, yesterday: Callable[..., None]
) -> None:
    yesterday(6)
    one = guard()
    assert one.open(wait=10)
    assert 6 <= size(one) <= 10


def test_without_history_it_boots_with_its_floor(
    guard: Open, yesterday: Callable[..., None]
) -> None:
    yesterday(6)
    one = guard(history="off")
    assert one.open(wait=10)
    assert size(one) == 1


def test_what_is_lent_is_recorded(guard: Open, run: Path) -> None:
    one = guard()
    assert one.open(wait=10)
    began = now()
    with one.connection(), one.connection(), one.connection():
        pass
    one.pool._ring()
    folder = RuntimeDir(run)
    [history] = histories(folder)

    def most() -> int:
        history_rows = Ring(folder, next(n for n in folder.names() if n.endswith(".history")), NAME)
        for minute in range(began, now() + 1):
            history_rows.settle(minute)
        history_rows.close()
        return max((each.one for each in history.read(began, now() + 1) if each), default=0)

    until(lambda: most() == 3)
    assert {each.level for each in history.read(began, now() + 1) if each} == {1}
    history.close()
    folder.close()


def test_what_is_expected_is_given_up_to_a_sibling_that_needs_it(
    guard: Open, yesterday: Callable[..., None], dsn: str
) -> None:
    """And what a sibling has needed is not taken from it again at once."""
    yesterday(30)
    one = guard(budget=10)
    assert one.open(wait=10)
    assert size(one) == 9  # of the sibling's floor, one is left
    other = guard(budget=10, name="other", history="off")
    assert other.open(wait=10)
    held = ExitStack()
    for _ in range(8):
        held.enter_context(other.connection(timeout=5))
    assert size(one) <= 2
    with held:
        pass


MORNING = 40
"""Requests that come at once, where one at a time came before."""


def test_the_second_morning_opens_nothing_while_requests_wait(
    guard: Open, yesterday: Callable[..., None]
) -> None:
    yesterday(MORNING, before=1)
    one = guard(budget=60, max_size=50)
    assert one.open(wait=10)
    until(lambda: size(one) >= MORNING)
    together = threading.Barrier(MORNING)

    def request(_: int) -> None:
        together.wait(10)
        with one.connection() as conn:
            together.wait(10)
            conn.execute("SELECT 1")

    with ThreadPoolExecutor(MORNING) as pool:
        [*pool.map(request, range(MORNING))]
    assert one.status()["acquires"] == {"acquired": MORNING}


def test_nor_does_it_on_an_event_loop(guard: Open, yesterday: Callable[..., None]) -> None:
    yesterday(MORNING, before=1)

    async def morning() -> Mapping[str, int]:
        one = guard(mode="async", budget=60, max_size=50)
        assert await one.aopen(wait=10)
        while size(one) < MORNING:  # until pytest ends it
            await asyncio.sleep(0.01)
        all_have_one = asyncio.Event()
        have: list[int] = []

        async def request() -> None:
            async with one.aconnection() as conn:
                have.append(conn.info.backend_pid)
                if len(have) == MORNING:
                    all_have_one.set()
                await asyncio.wait_for(all_have_one.wait(), 10)

        await asyncio.gather(*(request() for _ in range(MORNING)))
        acquires: Mapping[str, int] = one.status()["acquires"]
        await one.aclose()
        return acquires

    assert asyncio.run(morning()) == {"acquired": MORNING}


def test_a_guard_that_is_closed_before_it_has_a_pool_lets_go_of_its_history(
    guard: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, closed, real = threading.Event(), threading.Event(), memories.open_memory
    found: list[GuardMemory | None] = []

    def slow(*given: Any) -> GuardMemory | None:
        found.append(real(*given))
        made.set()
        closed.wait(10)
        return found[0]

    monkeypatch.setattr(runtime, "open_memory", slow)
    one = guard()
    one.open()
    assert made.wait(10)
    one.close()
    closed.set()
    [memory] = found
    assert memory is not None
    until(lambda: memory._recorder._closed)
