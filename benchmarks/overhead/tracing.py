"""OpenTelemetry in each state that is measured; and the unit of all goals: what a recording child
span with six attributes adds to the very same request.

Spans are dropped as they end. A batch processor would queue them, about a microsecond each, and
have a thread export them in turns of whoever is measured just then: the unit would come out larger,
and the goals easier. Nothing of OpenTelemetry is imported where the state has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

SAMPLED_GOAL = 0.3
OTHER_GOAL = 0.1
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
"""The request's traceparent: the flag that says whether it is sampled comes after it."""
ATTRIBUTES = {
    "db.client.connection.pool.name": "default",
    "poolguard.acquire.outcome": "waited",
    "poolguard.acquire.wait_time": 0.012,
    "poolguard.connection.age": 12.5,
    "server.port": 5432,
    "db.namespace": "app",
}
Entry = Callable[[], AbstractContextManager[Any]]
"""What is around a request further out."""


class State(NamedTuple):
    """What a process has of OpenTelemetry, and what is there when a request enters."""

    goal: float | None
    """At most this part of a recording child span. There is none where an own span replaces an
    instrumentation's, which is not free either."""
    sdk: bool = True
    server_span: bool = True
    """An instrumentation has begun its server span further out."""
    sampled: bool = True
    """The client samples the request, and the SDK's default sampler asks the client."""
    metrics: bool = False

    @property
    def traceparent(self) -> str:
        """What the client sends."""
        return f"{CLIENT}0{self.sampled:d}"


STATES: Mapping[str, State] = {
    "sampled": State(SAMPLED_GOAL),
    "metrics on": State(SAMPLED_GOAL, metrics=True),
    "client unsampled": State(OTHER_GOAL, sampled=False),
    "no SDK": State(OTHER_GOAL, sdk=False, server_span=False),
    "own span": State(None, server_span=False),
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
    if not state.sdk:
        return Tracing()
    from opentelemetry import trace

    trace.set_tracer_provider(_provider())
    if state.metrics:
        _set_metrics_up()
    unit = _provider()
    child = partial(_child, unit.get_tracer("benchmarks"))
    tracing = Tracing(recorded=_entry(unit, f"{CLIENT}01"), child=child)
    if not state.server_span:
        return tracing
    ours = _entry(trace.get_tracer_provider(), state.traceparent)
    return tracing._replace(bare=_entry(_provider(), state.traceparent), ours=ours)


def _provider() -> Any:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())  # its methods do nothing
    return provider


def _set_metrics_up() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


def _entry(provider: Any, traceparent: str) -> Entry:
    """Begins the server span of a request, as instrumentations do, and makes it current."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    start = provider.get_tracer("benchmarks").start_as_current_span
    context = propagate.extract({"traceparent": traceparent})
    return lambda: start("GET", context=context, kind=SpanKind.SERVER)


@contextmanager
def _child(tracer: Any) -> Iterator[None]:
    with tracer.start_as_current_span("pool.acquire") as span:
        for name, value in ATTRIBUTES.items():
            span.set_attribute(name, value)
        yield
