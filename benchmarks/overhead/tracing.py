"""OpenTelemetry as a state has it, in the process that is measured; and the unit of all goals: what
a recording child span with six attributes adds to the very same request.

Spans are dropped as they end. A batch processor would queue them, about a microsecond each, and
have a thread export them in turns of whoever is measured just then: the unit would come out larger,
and the goals easier. Nothing of OpenTelemetry is imported where the state has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from .frame import State

__all__ = ["Entry", "Tracing", "prepare"]

Entry = Callable[[], AbstractContextManager[Any]]
"""What is around a request further out."""


class Tracing(NamedTuple):
    """What was set up."""

    bare: Entry
    """Around a request without poolguard. It has a provider of its own: whatever poolguard does to
    the global one is a cost of poolguard."""
    ours: Entry
    recorded: Entry | None
    """Around a request of the unit: a server span that records; None where there is no SDK."""
    child: Entry
    """A recording child span with six attributes, as an instrumentation makes it."""


def prepare(state: State) -> Tracing:
    """Set this process up."""
    if state.has == "nothing":
        return Tracing(nullcontext, nullcontext, None, nullcontext)
    if state.has == "api":
        import_module("opentelemetry.trace")
        return Tracing(nullcontext, nullcontext, None, nullcontext)
    from opentelemetry import trace

    trace.set_tracer_provider(_provider(state))
    if state.metrics:
        _set_metrics_up()
    tracer = _provider(State(None)).get_tracer("benchmarks")
    unit = _instrumentation(tracer, State(None)), partial(_child, tracer)
    if not state.server_span:
        return Tracing(nullcontext, nullcontext, *unit)
    bare, ours = (
        _instrumentation(provider.get_tracer("benchmarks"), state)
        for provider in (_provider(state), trace.get_tracer_provider())
    )
    return Tracing(bare, ours, *unit)


def _provider(state: State) -> Any:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling

    samplers = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "parent": sampling.ParentBased(sampling.ALWAYS_ON),
    }
    provider = TracerProvider(sampler=samplers[state.sampler], shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())  # its methods do nothing
    return provider


def _set_metrics_up() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


def _instrumentation(tracer: Any, state: State) -> Entry:
    """Begins the server span of a request, as instrumentations do, and makes it current."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    headers = {} if state.traceparent is None else {"traceparent": state.traceparent}
    parent = propagate.extract(headers)

    def entry() -> AbstractContextManager[Any]:
        span: AbstractContextManager[Any] = tracer.start_as_current_span(
            "GET", context=parent, kind=SpanKind.SERVER
        )
        return span

    return entry


@contextmanager
def _child(tracer: Any) -> Iterator[None]:
    with tracer.start_as_current_span("pool.acquire") as span:
        span.set_attribute("db.client.connection.pool.name", "default")
        span.set_attribute("poolguard.acquire.outcome", "waited")
        span.set_attribute("poolguard.acquire.wait_time", 0.012)
        span.set_attribute("poolguard.connection.age", 12.5)
        span.set_attribute("server.port", 5432)
        span.set_attribute("db.namespace", "app")
        yield
