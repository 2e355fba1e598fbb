"""The examples of one thing each run as they stand; the applications' tests are in ``examples``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import get_args

from gunicorn.config import Config
from prometheus_client.parser import text_string_to_metric_families

from poolguard.lab.janitor import Janitor
from poolguard.lab.server import listen
from poolguard.pool.events import CreateReason, Outcome
from poolguard.telemetry.metrics import INSTRUMENTS
from tests.backend import tracing_backend

from .promql import METRICS
from .support import until

EXAMPLES = Path(__file__).parent.parent / "examples"
# gunicorn has no control socket before 25.1, and refuses options that it does not know.
NO_CONTROL_SOCKET = ["--no-control-socket"] if "control_socket" in Config().settings else []


GRACE = 45
"""Seconds: gunicorn's own graceful_timeout is 30."""


@contextmanager
def serving(name: str | Path, *options: str, app: str = "app:app", **environ: str) -> Iterator[int]:
    """An example's own gunicorn.conf.py and application, nothing else; yields the port.

    *name* is a folder of the examples, or the path of another one.
    """
    with Janitor() as janitor, listen() as listener:
        gunicorn = janitor.spawn(
            [
                sys.executable,
                *("-m", "gunicorn", *NO_CONTROL_SOCKET),
                *("--bind", f"fd://{listener.fileno()}", *options, app),
            ],
            as_group=True,
            cwd=EXAMPLES / name,
            env={**os.environ, **environ},
            pass_fds=(listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield listener.getsockname()[1]
        gunicorn.terminate()
        # A worker that has just been forked does not hear of it, and is ended by graceful_timeout.
        assert gunicorn.wait(GRACE) == 0


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


BARE = """
import poolguard

def app(environ, start_response):
    with poolguard.connection() as conn:
        row = conn.execute("SELECT 'it works'").fetchone()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [row[0].encode()]
"""


def test_raw_use_needs_no_file_of_gunicorns(dsn: str, tmp_path: Path) -> None:
    """Nor a middleware in the application: the hooks put it there, which answers for readiness."""
    (tmp_path / "app.py").write_text(BARE)
    environ = {
        "DATABASE_URL": dsn,
        "POOLGUARD_BUDGET": "6",
        "POOLGUARD_READY_PATH": "/ready",
        "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run"),
    }
    with serving(tmp_path, "-c", "python:poolguard.gunicorn", **environ) as port:
        status, body = get(port, "/ready")
        assert (status, json.loads(body)["ready"]) == (200, True)
        assert get(port, "/") == (200, b"it works")


def test_the_tracing_example_tells_who_waited(slow_dsn: str, tmp_path: Path) -> None:
    """Its spans reach files, which ``poolguard trace`` reads, and a backend that is named; and the
    exemplars of its metrics lead to them."""
    with (
        tracing_backend() as backend,
        serving(
            "tracing",
            DATABASE_URL=slow_dsn,
            POOLGUARD_RUNTIME_DIR=str(tmp_path / "run"),
            POOLGUARD_FLOOR="1",
            POOLGUARD_MAX_SIZE="3",
            SPANS=str(tmp_path),
            OTEL_EXPORTER_OTLP_ENDPOINT=backend.url,
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{backend.url}/v1/metrics",
        ) as port,
        ThreadPoolExecutor(20) as crowd,
    ):
        assert get(port, "/")[0] == 200
        answers = list(crowd.map(lambda _: get(port, "/report")[0], range(20)))
    assert answers == [200] * 20
    files = sorted(map(str, tmp_path.glob("spans-*.jsonl")))
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "poolguard", "trace", "--json", "--slowest", "30", *files],
        capture_output=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["services"] == ["reports"]
    assert told["requests"] == sum(told["outcomes"].values()) == 21
    assert told["outcomes"]["waited"] > 0
    assert told["outcomes"]["created"] > 0
    assert 0 < told["share"] < 1
    assert [route["route"] for route in told["routes"]] == ["/report", "/"]
    for request in told["slowest"]:
        names = [span["name"] for span in request["spans"]]
        assert names[:2] == ["GET", "pool.acquire"]
        assert ("pool.connect" in names) == (request["outcome"] == "created")
    assert len(backend.span_ids) == told["read"]["spans"]
    assert backend.services == {"reports"}
    assert backend.exemplars["db.client.connection.wait_time"]
    assert backend.exemplars["db.client.connection.wait_time"] <= backend.span_ids


def test_the_metrics_example_tells_each_workers_figures(slow_dsn: str, tmp_path: Path) -> None:
    """On a port each: by the names that the dashboard knows, and adding up to what was asked."""
    with ExitStack() as freed:  # ports that are free, one after the other, as likely as not
        first = freed.enter_context(listen()).getsockname()[1]
    ports = range(first, min(first + 16, 1 << 16))
    with serving(
        "metrics",
        DATABASE_URL=slow_dsn,
        POOLGUARD_RUNTIME_DIR=str(tmp_path / "run"),
        POOLGUARD_FLOOR="1",
        POOLGUARD_MAX_SIZE="3",
        POOLGUARD_LEDGER="fleet",  # which has metrics of its own
        METRICS_PORT=str(first),
    ) as port:
        with ThreadPoolExecutor(20) as crowd:
            answers = list(crowd.map(lambda _: get(port, "/report")[0], range(20)))
        assert answers == [200] * 20
        until(lambda: len(scraped(ports)) == 2)
        one, other = scraped(ports)
    pool = {"db_client_connection_pool_name": "default"}

    def total(name: str, **labels: str) -> float:
        return sum(each.of(name, **pool, **labels) for each in (one, other))

    # Those of use_time come where POOLGUARD_METRICS is "all"; a wait may have been in one only.
    assert one.names | other.names == {name for name in METRICS if "use_time" not in name}
    for told in (one, other):
        assert {name for name in METRICS if "_time_" not in name} <= told.names
        for name, labels in told.labels.items():
            assert labels == METRICS[name]
        assert told.of("poolguard_budget_in_use", **pool) <= 6
    by_outcome = [
        total("poolguard_acquires_total", poolguard_acquire_outcome=outcome)
        for outcome in get_args(Outcome)
    ]
    assert sum(by_outcome) == 20
    assert by_outcome[1] + by_outcome[2] == total("db_client_connection_wait_time_seconds_count")
    created = [
        total("poolguard_connections_created_total", poolguard_create_reason=reason)
        for reason in get_args(CreateReason)
    ]
    assert sum(created) == total("db_client_connection_create_time_seconds_count") > 2
    states = [
        total("db_client_connection_count", db_client_connection_state=state)
        for state in ("idle", "used")
    ]
    assert states == [sum(created), 0]
    in_use = {told.of("poolguard_budget_in_use", **pool) for told in (one, other)}
    assert in_use == {sum(created)}, "both see the one ledger: the greatest, never the sum"


def test_the_metrics_example_pushes_where_a_backend_is_named(dsn: str, tmp_path: Path) -> None:
    """Each worker as an instance of its own: a backend keeps their series apart."""
    with (
        tracing_backend() as backend,
        serving(
            "metrics",
            DATABASE_URL=dsn,
            POOLGUARD_RUNTIME_DIR=str(tmp_path / "run"),
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{backend.url}/v1/metrics",
            OTEL_METRIC_EXPORT_INTERVAL="200",
        ) as port,
    ):
        assert get(port, "/")[0] == 200
        until(lambda: len(backend.metrics) == 2)
        until(lambda: all("poolguard.acquires" in told for told in backend.metrics.values()))
    assert {service for service, _ in backend.metrics} == {"reports"}
    told = {name for names in backend.metrics.values() for name in names}
    ours = {each.name for each in INSTRUMENTS}
    assert {name for name in told if name.startswith(("db.client", "poolguard"))} <= ours


def test_the_pool_example_opens_in_parallel(slow_dsn: str) -> None:
    """Twenty at once on two warm connections: each is served, and its README shows such a run."""
    script = EXAMPLES / "pool/burst.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "DATABASE_URL": slow_dsn},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = (EXAMPLES / "pool/README.md").read_text()
    acquires, opened = map(counts_in, done.stdout.splitlines())
    assert sum(acquires.values()) == 20
    assert acquires.keys() <= {"acquired", "waited", "created"}
    assert opened["warmup"] == 2
    assert opened["growth"] == acquires["created"] + acquires.get("waited", 0) > 10
    for line in done.stdout.splitlines():
        assert line.partition(":")[0] in shown


def counts_in(line: str) -> dict[str, int]:
    """Of ``what: one 1, other 2``."""
    pairs = (each.split() for each in line.partition(": ")[2].split(", "))
    return {name: int(n) for name, n in pairs}


class Scraped:
    """What one worker tells of poolguard, as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(("db_client_", "poolguard_")):
                    labels = {
                        key: value
                        for key, value in sample.labels.items()
                        if not key.startswith("otel_scope_")
                    }
                    self._values[sample.name, frozenset(labels.items())] = sample.value
                    self.labels.setdefault(sample.name, set()).update(labels)

    @property
    def names(self) -> set[str]:
        return {*self.labels}

    def of(self, name: str, **labels: str) -> float:
        return self._values.get((name, frozenset(labels.items())), 0.0)


def scraped(ports: Iterable[int]) -> list[Scraped]:
    """All workers that answer on one of *ports*."""
    found = []
    for port in ports:
        with suppress(OSError):
            found.append(Scraped(get(port, "/metrics")[1].decode()))
    return found
