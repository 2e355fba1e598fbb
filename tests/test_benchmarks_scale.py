"""``scale`` and ``memory`` run, and what they read of a process is what the process does."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from time import process_time, thread_time

import pytest

from benchmarks import memory, scale
from benchmarks.crew import Crew, Stage
from benchmarks.processes import processor, taken
from benchmarks.server import database
from poolguard.errors import LabError


@pytest.mark.benchmark
@pytest.mark.timeout(300)
def test_every_part_of_scale_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tables = scale.run(quick=True)
    assert list(tables) == list(scale.PARTS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in scale.PARTS)


@pytest.mark.benchmark
@pytest.mark.timeout(300)
def test_memory_tells_of_everybody_in_every_worker_class() -> None:
    tables = memory.run(quick=True)
    assert list(tables) == ["sync", "gthread", "asgi"]
    for worker_class, table in tables.items():
        figures = {row.who: row.figures for row in table.rows}
        open_by = {
            (who, size): figures[f"{worker_class}, {size}: {who}"]["descriptors"][0]
            for who in ("psycopg_pool", "poolguard")
            for size in (1, 60)
        }
        # Every connection is really open: one descriptor each, and with poolguard its watch. That
        # of the last request may still be open, too.
        more = {who: open_by[who, 60] - open_by[who, 1] for who in ("psycopg_pool", "poolguard")}
        assert more == pytest.approx({"psycopg_pool": 59, "poolguard": 2 * 59}, abs=2)
        assert f"{worker_class}, 10: poolguard, SDK" in figures


def test_a_process_is_seen_with_its_memory_threads_and_descriptors() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    before = taken(os.getpid())
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(over.set)
        thread.start()
        for _ in range(3):
            stack.callback(os.close, os.dup(0))
        touched = bytearray(os.urandom(16 << 20))
        after = taken(os.getpid())
    assert after.threads - before.threads == 1
    assert after.descriptors - before.descriptors == 3
    more = len(touched) / 1024
    assert 0.8 * more < after.pss - before.pss < 2.5 * more


def test_the_processor_time_of_a_process_has_that_of_threads_that_have_ended() -> None:
    def work() -> None:
        until = thread_time() + 0.05
        while thread_time() < until:
            pass

    before, began = processor(os.getpid()), process_time()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    between = process_time()
    ran = processor(os.getpid()) - before
    assert 50 <= (between - began) * 1e3 <= ran <= (process_time() - began) * 1e3 + 1


def test_workers_that_cannot_boot_are_an_error_soon() -> None:
    crew = Crew("nothing", "no such class", workers=2)
    with (
        database("crew") as there,
        pytest.raises(LabError, match=r"gunicorn ended at start: ."),
        Stage(there, quick=True).running(crew),
    ):
        pass
