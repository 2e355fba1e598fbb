"""A program that serves a request in each kind of instrumentation, and prints what was recorded.

``python -m tests.telemetry.instrumented.unsampled DSN PROVIDER [TRACEPARENT]``; the SDK is set up
by its own variables, such as ``OTEL_SDK_DISABLED``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from poolguard import Guard

from ..support import use
from . import test_asgi, test_flask, test_wsgi
from .client import Receive, Scope, Send, asgi_get, wsgi_get

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EXPORTER = InMemorySpanExporter()


class NotTheirs(Sampler):
    """Drops the spans of all instrumentations, so that one of ours beside them would be seen."""

    def should_sample(  # noqa: PLR0917 - as the SDK calls it
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        ours = name == "pool.acquire" or "url.path" in (attributes or {})
        return SamplingResult(Decision.RECORD_AND_SAMPLE if ours else Decision.DROP)

    def get_description(self) -> str:
        return "NotTheirs"


def set_up(provider: str) -> None:
    if provider == "noop":
        trace.set_tracer_provider(trace.NoOpTracerProvider())
    elif provider != "none":
        sampler = NotTheirs() if provider == "not theirs" else None  # else by the variables
        sdk = TracerProvider(sampler=sampler)
        sdk.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(sdk)


def recorded() -> dict[str, int]:
    """How many spans of which name, and how many of them have tags."""
    found: dict[str, int] = {}
    for span in EXPORTER.get_finished_spans():
        found[span.name] = found.get(span.name, 0) + 1
        if "poolguard.request.outcome" in (span.attributes or {}):
            found["tagged"] = found.get("tagged", 0) + 1
    EXPORTER.clear()
    return found


async def asgi(dsn: str, headers: dict[str, str], told: dict[str, Any]) -> None:
    async with Guard(dsn, mode="async", budget=4, floor=2, spans="all") as guard:
        assert await guard.aopen(10)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await test_asgi.in_the_background(guard, send)

        for name, stack in test_asgi.STACKS.items():
            await asgi_get(test_asgi.build(stack, app, guard), **headers)
            told[f"asgi, {name}"] = recorded()


def wsgi(dsn: str, headers: dict[str, str], told: dict[str, Any]) -> None:
    environ = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    with Guard(dsn, mode="sync", name="sync", budget=4, floor=2, spans="all") as guard:
        assert guard.open(10)

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])
            return test_wsgi.by_a_generator(guard)

        for name, stack in test_wsgi.STACKS.items():
            wsgi_get(test_wsgi.build(stack, app, guard), **environ)
            told[f"wsgi, {name}"] = recorded()
        for place in test_flask.PLACES:
            for path in ("/page", "/stream"):
                served = test_flask.made(guard)
                served.before_request(lambda: use(guard))
                place(served, guard)
                wsgi_get(served, path, **environ)
                told[f"flask, {place.__name__} {path}"] = recorded()


def main(dsn: str, provider: str, traceparent: str = "") -> None:
    set_up(provider)
    headers = {"traceparent": traceparent} if traceparent else {}
    told: dict[str, Any] = {}
    asyncio.run(asgi(dsn, headers, told))
    wsgi(dsn, headers, told)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
