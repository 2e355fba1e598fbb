"""The processor that sees server spans begin: which providers get it, and that it harms none."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, Span, TracerProvider
from opentelemetry.trace import SpanKind

from poolguard.borrower import CURRENT
from poolguard.telemetry.processor import ServerSpans
from poolguard.telemetry.request import Request

from .support import tags
from .test_request import acquire

Use = Callable[[trace.TracerProvider], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Makes a provider the process's own. OpenTelemetry itself lets nobody do that twice."""
    return lambda provider: monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


def ours(provider: TracerProvider) -> int:
    """How many of our processors a provider has."""
    its: Any = provider._active_span_processor
    return sum(isinstance(each, ServerSpans) for each in its._span_processors)


def tagged(provider: TracerProvider) -> Span:
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
from poolguard.borrower import CURRENT
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
