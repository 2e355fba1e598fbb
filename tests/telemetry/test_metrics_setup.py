"""When the instruments are made: the provider is set early, late or in a parent, or it is stuck.

Each test runs in processes of its own: OpenTelemetry takes one provider, once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BEGINNING = """
import os, signal, sys, threading, warnings
import poolguard.pool.sync
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from poolguard import Guard
from tests.support import until
from tests.telemetry.collected import collected
from tests.telemetry.support import lent, use

dsn, DB = sys.argv[1], "db.client.connection."
warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: threads run when we fork

def set_up(reader):
    metrics.set_meter_provider(MeterProvider([reader]))

def names():
    return {thread.name for thread in threading.enumerate()}

def work(n):
    '''Have n acquires, of which one waits for a second connection; what a reader says then.'''
    # (A ledger that is shared would have the second one open what the first one had.)
    with Guard(dsn, budget=2, floor=1, ledger="static") as guard:
        for _ in range(n - 2):
            use(guard)
        with lent(guard):
            use(guard)
    return guard

def said(reader):
    found = collected(reader, "default")
    return (
        found.numbers("poolguard.acquires"),
        found.numbers("poolguard.connections.created"),
        found.histogram(f"{DB}create_time").count,
        found.histogram(f"{DB}wait_time").count,
    )

def of(n):
    return {"acquired": n - 1, "created": 1}, {"warmup": 1, "growth": 1}, 2, 1

def in_child(job):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a lock that was held at the fork is held for ever
        try:
            job()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with {status}"
"""

Run = Callable[..., str]


@pytest.fixture
def run(dsn: str, tmp_path: Path) -> Run:
    """Runs a script in a process of its own; returns what it wrote to standard error."""

    def run(script: str, **environ: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", BEGINNING + script, dsn],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run"), **environ},
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stderr

    return run


def test_a_provider_that_is_set_after_the_warm_up_hears_of_it(run: Run) -> None:
    """As where the application sets it up, which is imported while the pool is warming."""
    run("""
guard = Guard(dsn, budget=2, floor=1)
assert guard.open(wait=20)
reader = InMemoryMetricReader()
set_up(reader)
until(lambda: "poolguard.warmup.duration" in collected(reader, "default").points)
found = collected(reader, "default")
assert found.number("poolguard.warmup.duration") == guard.status()["warmup"]["seconds"]
until(lambda: f"{DB}create_time" in collected(reader, "default").points)
assert collected(reader, "default").histogram(f"{DB}create_time").count == 1
guard.close()
""")


def test_a_provider_that_is_set_just_before_the_end(run: Run) -> None:
    """A script may end before anybody has looked again; what its acquires took is told too."""
    run("""
reader = InMemoryMetricReader()
with Guard(dsn, budget=2, floor=1) as guard:
    use(guard)
    with lent(guard):
        use(guard)
    set_up(reader)
assert said(reader) == of(3)
""")


def test_what_is_kept_for_a_provider_is_bounded(run: Run) -> None:
    run("""
from poolguard.telemetry import durations as module
from poolguard.pool.events import Connected, Place

reader = InMemoryMetricReader()
listener = module.MetricListener()
for _ in range(2 * module.KEPT):
    listener.connected(Connected("default", "growth", 1.0, 2.0, Place("db", 5432, "shop")))
set_up(reader)
module.look(wait=20)
assert collected(reader, "default").histogram(f"{DB}create_time").count == module.KEPT
""")


@pytest.mark.parametrize(
    "where",
    [
        "in the parent",
        "in the parent, which counts",
        "in each child",
        "in each child of a parent which counts",
    ],
)
def test_children_count_for_themselves(where: str, run: Run) -> None:
    run(
        """
where = os.environ["WHERE"]
reader = InMemoryMetricReader()

def job(n):
    if where.startswith("in each child"):
        set_up(reader)
    work(n)
    acquires, created, connects, waits = said(reader)
    assert (acquires, created) == of(n)[:2], (acquires, created)
    # What the parent has recorded to its histograms goes on in the child: the SDK copies them.
    before = 1 if where == "in the parent, which counts" else 0
    assert (connects, waits) == (2 + 2 * before, 1 + before), (connects, waits)

if where.startswith("in the parent"):
    set_up(reader)
if where.endswith("which counts"):
    work(9)
for n in (5, 6):
    in_child(lambda: job(n))
if where == "in the parent, which counts":
    assert said(reader) == of(9)
""",
        WHERE=where,
    )


def test_an_sdk_that_is_stuck_since_the_fork_holds_nobody_up(run: Run) -> None:
    """A collection that was under way in the parent never ends in the child, nor do its locks."""
    run("""
reader = InMemoryMetricReader()
reached, release = threading.Event(), threading.Event()

def blocks(options):
    reached.set()
    release.wait()
    return []

def job():
    guard = work(5)
    assert guard.status()["acquires"] == {"acquired": 4, "created": 1}
    assert "poolguard-metrics" in names()

set_up(reader)
metrics.get_meter("tests").create_observable_gauge("blocks", [blocks])
collecting = threading.Thread(target=reader.get_metrics_data)
collecting.start()
reached.wait(20)
in_child(job)
release.set()
collecting.join(20)
""")


def test_an_exporter_that_hangs_holds_nobody_up(run: Run) -> None:
    run("""
from opentelemetry.sdk.metrics.export import (
    MetricExporter, MetricExportResult, PeriodicExportingMetricReader
)

exporting, release = threading.Event(), threading.Event()

class Hanging(MetricExporter):
    def export(self, data, timeout_millis=10_000, **kwargs):
        exporting.set()
        release.wait()
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        pass

set_up(PeriodicExportingMetricReader(Hanging(), export_interval_millis=50))
guard = Guard(dsn, budget=2, floor=1)
assert guard.open(wait=20)
assert exporting.wait(20)
use(guard)
with lent(guard):
    use(guard)
guard.close()
assert guard.status()["acquires"] == {"acquired": 2, "created": 1}
release.set()
""")


def test_an_sdk_that_raises_harms_no_acquire(run: Run) -> None:
    """A filter of exemplars is the user's code, and is asked within each record."""
    said = run("""
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter

class Raising(AlwaysOnExemplarFilter):
    def should_sample(self, *args):
        raise RuntimeError("the filter is broken")

metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], exemplar_filter=Raising()))
with Guard(dsn, budget=2, floor=1, metrics="all") as guard:
    with lent(guard):
        use(guard)
    assert guard.status()["acquires"] == {"acquired": 1, "created": 1}
    assert guard.status()["used"] == 0
""")
    assert "a listener failed on AcquireEnded(" in said


def test_a_provider_that_cannot_be_loaded_is_said_once(run: Run) -> None:
    """OpenTelemetry loads the one that the environment names when it is asked for."""
    said = run(
        """
from poolguard.telemetry.durations import look
with Guard(dsn, budget=2, floor=1) as guard:
    with lent(guard):
        use(guard)
    look()
""",
        OTEL_PYTHON_METER_PROVIDER="there_is_none_of_that_name",
    )
    assert said.count("poolguard's metrics are not recorded") == 1


@pytest.mark.parametrize(
    "imported", ["opentelemetry.metrics", "opentelemetry.sdk.trace", "opentelemetry.trace", "json"]
)
def test_without_a_provider_nothing_is_made(imported: str, dsn: str, tmp_path: Path) -> None:
    """Nor imported, where the process has not done so."""
    script = """
import importlib, sys, threading
importlib.import_module(sys.argv[2])
before = "opentelemetry.metrics" in sys.modules
from poolguard import Guard
from poolguard.telemetry.durations import look
with Guard(sys.argv[1], budget=2, floor=1, metrics="all") as guard:
    with guard.connection(), guard.connection():
        pass
    look(1.0)
assert ("opentelemetry.metrics" in sys.modules) == before
assert "poolguard.telemetry.metrics" not in sys.modules
from poolguard.telemetry.durations import _recorder
assert _recorder._made is None and _recorder._making is None
assert len(_recorder._kept) == 5, _recorder._kept
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, dsn, imported],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run")},
    )
    assert ran.returncode == 0, ran.stderr


def test_what_was_kept_leads_to_its_own_trace(run: Run) -> None:
    """And not to that of the request which happens to be served when there is a provider."""
    run("""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from poolguard.telemetry.durations import look

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("tests")
reader = InMemoryMetricReader()
with Guard(dsn, budget=2, floor=1, ledger="static") as guard:
    with lent(guard), tracer.start_as_current_span("early") as early:
        use(guard)
    with tracer.start_as_current_span("late"):
        set_up(reader)
        look(wait=20)
        look(wait=20)
found = collected(reader, "default")
[exemplar] = found.histogram(f"{DB}wait_time").exemplars
assert exemplar.span_id == early.get_span_context().span_id
assert found.histogram(f"{DB}create_time").exemplars == []
""")
