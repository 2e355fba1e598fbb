"""Guards across a fork: what the parent was doing at that moment must not hold the child up.

Each test forks in a process of its own, since this one has threads of other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BEGINNING = """
import os, signal, sys, threading, time
import psycopg_pool  # a fork in the middle of an import is Python's problem, not ours
import poolguard.pool.sync, poolguard.telemetry.durations, poolguard.telemetry.figures
from poolguard import ForkError, Guard, guard
from poolguard.runtime import sizing
from poolguard.worker import registry

dsn = sys.argv[1]

def in_child(job):
    '''Fork, and end with what *job* says; a child that hangs is ended by its alarm.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            job()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with {status}"
"""


Run = Callable[[str, str], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script in a process whose ledger is in a folder of the test's own."""

    def run(script: str, dsn: str) -> None:
        _run(script, dsn, tmp_path / "run")

    return run


def _run(script: str, dsn: str, runtime_dir: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BEGINNING + script, dsn],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(runtime_dir)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert runtime_dir.exists()


def test_a_guard_made_before_the_fork_opens_in_the_child(dsn: str, run: Run) -> None:
    run(
        """
def job():
    with Guard(dsn, budget=4, floor=2) as known:
        assert known is made and known.ready
        with known.connection() as conn:
            conn.execute("SELECT 1")

made = Guard(dsn, budget=4, floor=2)
in_child(job)
assert repr(made).startswith("<Guard 'default' inert ")
""",
        dsn,
    )


def test_a_lock_that_another_thread_holds_at_the_fork_is_renewed(dsn: str, run: Run) -> None:
    """The guard's and the registry's: the thread that would release them is not in the child."""
    run(
        """
held, release = threading.Event(), threading.Event()

def hold():
    with registry._lock, made._lock:
        held.set()
        release.wait()

def job():
    assert guard() is made
    assert made.open(wait=9)
    made.close()

made = Guard(dsn, budget=4, floor=2)
threading.Thread(target=hold, daemon=True).start()
held.wait()
in_child(job)
release.set()
""",
        dsn,
    )


def test_a_guard_that_is_open_in_the_parent_is_not_open_in_the_child(dsn: str, run: Run) -> None:
    """It refuses its connections, opens anew on demand, and the parent's goes on."""
    run(
        """
def job():
    try:
        made.connection()
    except ForkError as error:
        assert "'default' was opened before this process" in str(error)
    else:
        raise AssertionError("the parent's connection was handed out")
    assert not made.opened and not made.ready and not made.wait_warm(9)
    assert made.status()["idle"] == 0 and made.plan is None
    assert repr(made).startswith("<Guard 'default' inert ")
    made.close()
    with made:
        with made.connection() as conn:
            assert conn.info.backend_pid not in parents

made = Guard(dsn, budget=4, floor=2)
made.open(wait=9)
with made.connection() as one, made.connection() as other:
    parents = {one.info.backend_pid, other.info.backend_pid}
in_child(job)
# One of them asks for the slots of the child, which has died, and is out of the pool for so long.
while (said := made.status())["idle"] < 2 or said["budget"]["in_use"] > 2:
    time.sleep(0.01)
with made.connection() as one, made.connection() as other:
    assert {one.info.backend_pid, other.info.backend_pid} == parents
made.close()
""",
        dsn,
    )


def test_the_child_does_not_wait_for_the_parents_opening_thread(dsn: str, run: Run) -> None:
    run(
        """
reached, release = threading.Event(), threading.Event()
plan = sizing.make_plan

def held(*arguments, **named):
    reached.set()
    release.wait()
    return plan(*arguments, **named)

def job():
    try:
        made.connection()
    except ForkError:
        pass
    sizing.make_plan = plan
    assert made.open(wait=9)
    made.close()

sizing.make_plan = held
made = Guard(dsn, budget=4, floor=2)
made.open()
reached.wait()
in_child(job)
release.set()
assert made.wait_warm(9)
made.close()
""",
        dsn,
    )
