"""gunicorn's configuration for the test applications: what the environment asks for, our hooks."""

from __future__ import annotations

import json
import os
from typing import Any

import poolguard.gunicorn

workers = int(os.environ.get("TEST_WORKERS", "1"))
worker_class = os.environ["TEST_WORKER_CLASS"]
threads = int(os.environ["TEST_THREADS"])
graceful_timeout = 10
asgi_lifespan = os.environ.get("TEST_LIFESPAN", "auto")
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Do what a user should not: open a guard in the master."""
    if "TEST_OPEN_IN_MASTER" in os.environ:
        poolguard.guard().open()


def post_fork(server: Any, worker: Any) -> None:
    """Set tracing up, in the worker, each span written as it ends."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    def line(span: ReadableSpan) -> str:
        assert span.instrumentation_scope is not None
        scope = {"scope": span.instrumentation_scope.name}
        return f"{json.dumps(json.loads(span.to_json()) | scope)}\n"

    out = open(os.environ["TEST_SPANS"], "a", encoding="utf-8")  # noqa: SIM115 - the worker's
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
    trace.set_tracer_provider(provider)


def worker_exit(server: Any, worker: Any) -> None:
    """Say what poolguard's own hook, which runs before, has left."""
    print("the pool is", "open" if poolguard.guard().opened else "closed", flush=True)


poolguard.gunicorn.install(globals())
