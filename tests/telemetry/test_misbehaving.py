"""Tracing pipelines that raise, block or are slow: no request is harmed, no connection lost."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults

import psycopg
import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from poolguard import Guard, asgi, wsgi
from poolguard.pool.events import AcquireEnded
from poolguard.telemetry import api as module
from poolguard.telemetry import request as request_module
from poolguard.telemetry.api import api
from poolguard.telemetry.request import Request
from poolguard.util.rarely import Failures

from ..support import until
from .support import opened, server_span, tags, use

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REQUESTS = 20
Mode = Literal["sync", "async"]
Pipeline = Callable[[], TracerProvider]


def fail(*args: object, **named: object) -> Any:
    raise RuntimeError("no such backend")


class BrokenExporter(SpanExporter):
    export = fail


class BrokenAtStart(SpanProcessor):
    on_start = fail


class BrokenAtEnd(SpanProcessor):
    on_end = fail


class BrokenSampler(Sampler):
    should_sample = fail

    def get_description(self) -> str:
        return "broken"


class BrokenIds(IdGenerator):
    generate_trace_id = generate_span_id = fail


class BrokenSpanIds(RandomIdGenerator):
    """A child's span cannot be begun: a trace has begun already."""

    generate_span_id = fail


class Gate(SpanExporter, SpanProcessor):
    """Blocks in one of its methods, until it is released: an exporter, or a processor itself."""

    def __init__(self, method: str) -> None:
        self.blocks, self.released = threading.Event(), threading.Event()
        setattr(self, method, self._block)

    def _block(self, *args: object, **named: object) -> Any:
        self.blocks.set()
        assert self.released.wait(60)
        return SpanExportResult.SUCCESS

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None: ...


@contextmanager
def traced(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """poolguard's spans go to *provider*: the process has one for all tests, which is not asked."""
    known = api()
    assert known is not None
    monkeypatch.setattr(known, "tracer", provider.get_tracer("poolguard"))
    monkeypatch.setattr(request_module, "failures", Failures())  # they are logged ever more rarely
    yield
    provider.shutdown()


def with_processor(processor: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


PIPELINES: dict[str, Pipeline] = {
    "exporter": lambda: with_processor(SimpleSpanProcessor(BrokenExporter())),
    "on_start": lambda: with_processor(BrokenAtStart()),
    "on_end": lambda: with_processor(BrokenAtEnd()),
    "sampler": lambda: TracerProvider(sampler=BrokenSampler(), shutdown_on_exit=False),
    "ids": lambda: TracerProvider(ALWAYS_ON, id_generator=BrokenIds(), shutdown_on_exit=False),
    "span ids": lambda: TracerProvider(id_generator=BrokenSpanIds(), shutdown_on_exit=False),
}


# -- requests ----------------------------------------------------------------------------------


def ask_wsgi(guard: Guard) -> bytes:
    """What a server of the standard library answers; poolguard begins the request's span."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with guard.connection() as conn:
            conn.execute("SELECT 1")
        start_response("200 OK", [])
        yield b"well"

    environ: WSGIEnvironment = {}
    setup_testing_defaults(environ)
    out = io.BytesIO()
    server = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ)
    server.run(wsgi.PoolGuardMiddleware(app, guard))
    return out.getvalue()


async def ask_asgi(guard: Guard) -> None:
    """Raises what a server would see."""

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        async with guard.aconnection() as conn:
            await conn.execute("SELECT 1")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well"})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await asgi.PoolGuardMiddleware(app, guard)(scope, receive, send)


def ask(mode: Mode, dsn: str, times: int = REQUESTS) -> dict[str, Any]:
    """Ask so many times, and see that each is answered; the pool's status afterwards."""

    async def run() -> dict[str, Any]:
        async with Guard(dsn, mode="async", budget=2, floor=1, spans="all") as guard:
            for _ in range(times):
                await ask_asgi(guard)
            return guard.status()

    if mode == "async":
        return asyncio.run(run())
    guard = opened(dsn, mode="sync", budget=2, floor=1, spans="all")
    for _ in range(times):
        answer = ask_wsgi(guard)
        assert b" 200 OK" in answer
        assert answer.endswith(b"well")
    return guard.status()


def assert_unharmed(status: dict[str, Any], times: int = REQUESTS) -> None:
    assert (status["idle"], status["used"], status["waiting"]) == (1, 0, 0)
    assert status["acquires"] == {"acquired": times}
    assert status["created"] == {"warmup": 1}
    assert status["closed"] == status["leaks"] == {}


# -- those that raise --------------------------------------------------------------------------


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_one_that_raises_harms_no_request(
    mode: Mode,
    pipeline: str,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged ever more rarely, with no secret in it. (An exporter's errors the SDK logs.)"""
    with traced(PIPELINES[pipeline](), monkeypatch):
        assert_unharmed(ask(mode, dsn))
    ours = [record for record in caplog.records if record.name == "poolguard"]
    # Two places at the most can fail in each request: the acquire, and the request's end.
    assert len(ours) <= 2 * REQUESTS.bit_length()
    assert bool(ours) == (pipeline != "exporter")
    assert all(record.exc_info for record in ours)
    assert str(psycopg.conninfo.conninfo_to_dict(dsn)["password"]) not in caplog.text


@pytest.mark.usefixtures("exported")
def test_where_its_own_span_cannot_be_begun_a_request_ends_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One may be current that has not been the request's."""
    request = Request("GET", "/", {})
    request.note(AcquireEnded("main", "waited", 1.0, 2.0, None))
    with server_span() as span, traced(PIPELINES["on_start"](), monkeypatch):
        request.end(200)
        assert span.is_recording()
    assert tags(span) == {}


@pytest.mark.usefixtures("exported")
def test_where_opentelemetry_is_set_up_wrongly_requests_are_served(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A propagator that is not installed: the API cannot be imported whole. It is said once."""
    import_module("opentelemetry.propagate")  # or there is nothing to forget, where this runs alone
    for name in [name for name in sys.modules if name.startswith("opentelemetry.propagate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("opentelemetry.propagate")
    monkeypatch.setenv("OTEL_PROPAGATORS", "nowhere")
    monkeypatch.setattr(module, "_known", None)
    monkeypatch.setattr(module, "_is_unusable", False)
    assert_unharmed(ask("sync", dsn))
    assert api() is None
    assert len([record for record in caplog.records if record.name == "poolguard"]) == 1


# -- those that block --------------------------------------------------------------------------


def test_a_queue_that_nobody_empties_harms_no_request(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that blocks for ever, behind a batch processor with little room."""
    gate = Gate("export")
    processor = BatchSpanProcessor(gate, max_queue_size=4, max_export_batch_size=2)
    with traced(with_processor(processor), monkeypatch):
        assert_unharmed(ask("sync", dsn))
        assert gate.blocks.wait(10)  # only now: it never came back in all that time
        assert not gate.released.is_set()
        gate.released.set()


@pytest.mark.parametrize("method", ["on_start", "on_end", "export"])
def test_one_that_blocks_in_a_request_holds_up_that_one_alone(
    method: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its span is begun and ended while no lock of the pool is held.

    Meanwhile others are lent connections, free ones and new ones; the pool tells of itself and
    verifies what is idle.
    """
    gate = Gate(method)
    processor = SimpleSpanProcessor(gate) if method == "export" else gate

    def serve() -> None:
        with server_span():  # else poolguard's spans would begin when the request has ended
            answers.append(ask_wsgi(guard))

    guard = opened(dsn, mode="sync", budget=3, floor=2, spans="all", check_interval=0.1)
    answers: list[bytes] = []
    request = threading.Thread(target=serve)
    with traced(with_processor(processor), monkeypatch):
        request.start()
        assert gate.blocks.wait(10)
        try:
            with guard.connection(timeout=10), guard.connection(timeout=10):
                assert guard.status()["used"] == 3
            pool = guard.pool
            [entry, *_] = pool._core.idle
            proved = entry.proved_at
            until(lambda: entry.proved_at > proved)
            assert answers == []
        finally:
            gate.released.set()
        request.join(10)
    [answer] = answers
    assert answer.endswith(b"well")
    until(lambda: guard.status()["idle"] == 3)
    assert guard.status()["acquires"] == {"acquired": 2, "created": 1}


@pytest.mark.parametrize("outcome", ["waited", "timeout", "rejected"])
def test_one_that_blocks_after_a_wait_holds_up_that_one_alone(
    outcome: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where the acquire was served by a return, or was not."""

    def serve() -> None:
        with server_span():
            ask_wsgi(guard)

    gate = Gate("on_end")
    patience = 0.2 if outcome == "timeout" else 20.0
    times = {"acquire_timeout": patience, "check_timeout": min(patience, 1.0)}
    guard = opened(dsn, mode="sync", budget=1, floor=1, max_waiting=1, **times)
    request = threading.Thread(target=serve)
    queued = threading.Thread(target=use, args=(guard,))
    with traced(with_processor(gate), monkeypatch):
        with guard.connection():
            if outcome == "rejected":
                queued.start()
                until(lambda: guard.status()["waiting"])
            request.start()
            if outcome == "waited":
                until(lambda: guard.status()["waiting"])
            else:
                assert gate.blocks.wait(10)
        try:
            assert gate.blocks.wait(10)
            assert guard.status()["acquires"][outcome] == 1
            if outcome != "waited":  # that one has the only connection
                use(guard)
        finally:
            gate.released.set()
        request.join(10)
        if outcome == "rejected":
            queued.join(10)
    assert guard.status()["used"] == 0
