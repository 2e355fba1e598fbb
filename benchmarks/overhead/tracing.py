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
from importlib import import_module
from typing import Any, Literal, NamedTuple

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
    has: Literal["nothing", "api", "sdk"] = "sdk"
    sampler: Literal["ALWAYS_ON", "ALWAYS_OFF", "DEFAULT_ON"] = "ALWAYS_ON"
    """By its name in the SDK; the default one asks the client."""
    server_span: bool = True
    """An instrumentation has begun its server span further out."""
    traceparent: str | None = None
    metrics: bool = False


STATES: Mapping[str, State] = {
    "no SDK": State(OTHER_GOAL, "nothing", server_span=False),
    "API, no SDK": State(OTHER_GOAL, "api", server_span=False),
    "sampler off": State(OTHER_GOAL, sampler="ALWAYS_OFF"),
    "client unsampled": State(OTHER_GOAL, sampler="DEFAULT_ON", traceparent=f"{CLIENT}00"),
    "sampled": State(SAMPLED_GOAL),
    "metrics on": State(SAMPLED_GOAL, metrics=True),
    "own span, unsampled": State(None, "sdk", "DEFAULT_ON", False, f"{CLIENT}00"),
    "own span": State(None, "sdk", "DEFAULT_ON", False, f"{CLIENT}01"),
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
    child = partial(_child, unit.get_tracer("benchmarks"))
    tracing = Tracing(recorded=_entry(unit, State(None)), child=child)
    if not state.server_span:
        return tracing
    ours = _entry(trace.get_tracer_provider(), state)
    return tracing._replace(bare=_entry(_provider(state), state), ours=ours)


def _provider(state: State) -> Any:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling

    sampler = getattr(sampling, state.sampler)
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())  # its methods do nothing
    return provider


def _set_metrics_up() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


def _entry(provider: Any, state: State) -> Entry:
    """Begins the server span of a request, as instrumentations do, and makes it current."""
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind

    headers = {} if state.traceparent is None else {"traceparent": state.traceparent}
    start = provider.get_tracer("benchmarks").start_as_current_span
    settings = {"context": propagate.extract(headers), "kind": SpanKind.SERVER}
    return lambda: start("GET", **settings)


@contextmanager
def _child(tracer: Any) -> Iterator[None]:
    with tracer.start_as_current_span("pool.acquire") as span:
        for name, value in ATTRIBUTES.items():
            span.set_attribute(name, value)
        yield
