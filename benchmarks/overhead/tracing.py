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

from .states import State

Entry = Callable[[], AbstractContextManager[Any]]
"""What is around a request further out."""
ATTRIBUTES = {
    "db.client.connection.pool.name": "default",
    "poolguard.acquire.outcome": "waited",
    "poolguard.acquire.wait_time": 0.012,
    "poolguard.connection.age": 12.5,
    "server.port": 5432,
    "db.namespace": "app",
}


class Tracing(NamedTuple):
    """What was set up."""

    bare: Entry = nullcontext
    """Around a request without poolguard. It has a provider of its own: whatever poolguard does to
    the global one is a cost of poolguard."""
    ours: Entry = nullcontext
    recorded: Entry | None = None
    """Around a request of the unit: a server span that records; None where there is no SDK."""
    child: Entry = nullcontext
    """A recording child span with six attributes, as an instrumentation makes it."""


def prepare(state: State) -> Tracing:
    """Set this process up."""
    if state.has == "nothing":
        return Tracing()
    trace: Any = import_module("opentelemetry.trace")
    if state.has == "api":
        return Tracing()
    trace.set_tracer_provider(_provider(state))
    if state.metrics:
        _set_metrics_up()
    unit = _provider(State(None))
    tracing = Tracing(recorded=_entry(unit, State(None)), child=partial(_child, _tracer(unit)))
    if not state.server_span:
        return tracing
    ours = _entry(trace.get_tracer_provider(), state)
    return tracing._replace(bare=_entry(_provider(state), state), ours=ours)


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


def _tracer(provider: Any) -> Any:
    return provider.get_tracer("benchmarks")


def _entry(provider: Any, state: State) -> Entry:
    """Begins the server span of a request, as instrumentations do, and makes it current."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    headers = {} if state.traceparent is None else {"traceparent": state.traceparent}
    start, parent = _tracer(provider).start_as_current_span, propagate.extract(headers)
    return lambda: start("GET", context=parent, kind=SpanKind.SERVER)


@contextmanager
def _child(tracer: Any) -> Iterator[None]:
    with tracer.start_as_current_span("pool.acquire") as span:
        for name, value in ATTRIBUTES.items():
            span.set_attribute(name, value)
        yield
