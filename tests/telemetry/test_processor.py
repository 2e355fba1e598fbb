"""The processor that sees server spans begin: which providers get it, and that it harms none."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, Span, TracerProvider
from opentelemetry.trace import SpanKind

from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry.api import api
from poolguard.telemetry.processor import ServerSpans
from poolguard.telemetry.request import Request

from ..support import until
from .support import tags
from .test_request import acquire

Use = Callable[[Any], None]


@pytest.fixture
def use(_exporter: object, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Makes a provider the process's own. OpenTelemetry itself lets nobody do that twice."""
    until(api)  # ours are begun by the one that the tests share
    return lambda provider: monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


def ours(provider: TracerProvider) -> int:
    """How many of our processors a provider has."""
    its: Any = provider._active_span_processor
    return sum(isinstance(each, ServerSpans) for each in its._span_processors)


def tagged(provider: Any) -> Span:
    """The server span of a request that acquires in a span further in."""
    tracer = provider.get_tracer("tests")
    request = Request("GET", "/", {})
    token = CURRENT.set(request)
    with (
        tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as span,
        tracer.start_as_current_span("inner"),
    ):
        request.note(acquire())
    CURRENT.reset(token)
    request.end(200)
    assert isinstance(span, Span)
    return span


def test_each_provider_gets_one(use: Use) -> None:
    """Also where one comes back that was replaced."""
    first, second = TracerProvider(), TracerProvider()
    for provider in (first, first, second, first):
        use(provider)
        assert tags(tagged(provider))["acquire_count"] == 1
    assert (ours(first), ours(second)) == (1, 1)


def test_requests_that_come_at_once_add_one(use: Use) -> None:
    class Slow(TracerProvider):
        """One whose threads meet where they could each add another."""

        def add_span_processor(self, span_processor: Any) -> None:
            met.wait(10)
            super().add_span_processor(span_processor)

    met, all_in = threading.Event(), threading.Barrier(9)
    use(provider := Slow())

    def enter() -> None:
        all_in.wait(10)
        Request("GET", "/", {})

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    all_in.wait(10)
    met.wait(0.1)
    met.set()
    for thread in threads:
        thread.join(10)
    assert ours(provider) == 1


def test_a_provider_that_refuses_it_is_left_alone(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once. The span that is current at the first acquire has the tags then."""

    class Closed(TracerProvider):
        def add_span_processor(self, span_processor: Any) -> None:
            raise RuntimeError("closed")

    use(provider := Closed())
    assert tags(tagged(provider)) == {}
    tagged(provider)
    [said] = caplog.records
    assert said.getMessage().startswith("poolguard cannot see which spans ")


class Vendors:
    """A vendor's provider, which wraps the SDK's and has a token. It allows no weak references."""

    __slots__ = ("inner", "token")

    def __init__(self) -> None:
        self.inner, self.token = TracerProvider(), "s3cret"

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self.inner.get_tracer(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Vendors({self.token})"


class Wrapping(Vendors):
    """It answers to whatever the SDK's does."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Plain(Vendors):
    """It passes on what it must."""

    __slots__ = ()

    def add_span_processor(self, span_processor: Any) -> None:
        self.inner.add_span_processor(span_processor)


class Equal(Plain):
    """As a dataclass: it has no hash."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None  # type: ignore[assignment]


class Raising(Plain):
    """It fails whatever it is asked of itself."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(self.token)

    def __hash__(self) -> int:
        raise RuntimeError(self.token)

    def __bool__(self) -> bool:
        raise RuntimeError(self.token)

    def __repr__(self) -> str:
        raise RuntimeError(self.token)


class Full(Raising):
    """It takes no processor more."""

    def add_span_processor(self, span_processor: Any) -> None:
        raise KeyError(self.token)


class Closed(Raising):
    @property
    def add_span_processor(self) -> Any:
        raise RuntimeError(self.token)


@pytest.mark.parametrize("kind", [Wrapping, Plain, Equal, Raising])
def test_a_vendors_provider_may_be_any_object(
    kind: type[Vendors], use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    provider = kind()
    use(provider)
    for _ in range(2):
        assert tags(tagged(provider))["acquire_count"] == 1
    assert ours(provider.inner) == 1
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [Full, Closed])
def test_what_a_provider_says_of_itself_is_not_logged(
    kind: type[Vendors], use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    provider = kind()
    use(provider)
    assert tags(tagged(provider)) == {}
    assert kind.__name__ in caplog.text
    assert "s3cret" not in caplog.text


def test_a_span_that_allows_no_weak_references_is_seen(use: Use) -> None:
    """Where a request finds the server span that it lies in."""
    use(provider := TracerProvider())
    Request("GET", "/", {}).end(200)  # which adds our processor
    server = Bare(trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(1)))
    inner = Bare(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))

    def visit() -> None:
        provider._active_span_processor.on_start(server)  # type: ignore[arg-type]
        with trace.use_span(inner):  # type: ignore[arg-type]
            request = Request("GET", "/", {})
            request.note(acquire())
            request.end(200)

    Context().run(visit)
    assert (server.tagged, inner.tagged) == (True, False)


@trace.Span.register
class Bare:
    """A vendor's span, which allows no weak references."""

    __slots__ = ("_context", "tagged")
    kind = SpanKind.SERVER

    def __init__(self, context: trace.SpanContext) -> None:
        self._context, self.tagged = context, False

    def get_span_context(self) -> trace.SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Any) -> None:
        self.tagged = True


class BrokenSpan(Bare):
    """It fails whatever it is asked."""

    __slots__ = ()

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("no such backend")

    get_span_context = is_recording = _fail
    set_attributes = _fail  # type: ignore[assignment]
    kind = property(_fail)


def test_a_span_that_fails_harms_neither_its_request_nor_who_begins_it(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use(provider := TracerProvider())
    Request("GET", "/", {}).end(200)
    broken = BrokenSpan(trace.INVALID_SPAN_CONTEXT)
    provider._active_span_processor.on_start(broken)  # type: ignore[arg-type]
    with trace.use_span(broken):  # type: ignore[arg-type]
        request = Request("GET", "/", {})
        request.note_unsampled()
        with suppress(RuntimeError):  # as the pool has it
            request.acquired()
        request.end(200)
    assert request.acquires == 1
    assert all(record.exc_info for record in caplog.records)


def test_a_provider_that_takes_none_is_left_alone(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use(trace.NoOpTracerProvider())
    Request("GET", "/", {})
    assert caplog.records == []


def test_a_provider_that_asks_its_processors_in_other_threads(use: Use) -> None:
    """They do not know which request they are asked for: no tags, and no harm."""
    its = ConcurrentMultiSpanProcessor()
    use(provider := TracerProvider(active_span_processor=its, shutdown_on_exit=False))
    assert tags(tagged(provider)) == {}
    assert ours(provider) == 1
    its._executor.shutdown()


def test_it_outlives_its_provider(use: Use) -> None:
    use(provider := TracerProvider())
    tagged(provider)
    assert provider.force_flush()
    provider.shutdown()
    assert tags(tagged(provider))["acquire_count"] == 1


SCRIPT = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry import api
from poolguard.telemetry.request import Request
from tests.telemetry.test_processor import ours, tagged

Request("GET", "/", {}).end(200)
provider = TracerProvider()
trace.set_tracer_provider(provider)
api._looked_at -= api.LOOK_AGAIN  # as if that had passed
for process in ("parent", "child"):
    if process == "child":
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            break
    count = tagged(provider).attributes["poolguard.request.acquire_count"]
    print(process, count, ours(provider), flush=True)
"""


def test_a_provider_that_is_set_late_and_a_fork() -> None:
    """Each process has one of ours on it, as it has one provider."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["parent 1 1", "child 1 1"]
