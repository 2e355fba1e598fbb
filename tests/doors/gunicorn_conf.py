"""gunicorn's configuration for the test applications: what the environment asks for, our hooks."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import poolguard.gunicorn

from ..support import until

if "TEST_PATCHES" in os.environ:
    from gevent import monkey

    monkey.patch_all()
if "TEST_IMPORTS" in os.environ:
    import_module(os.environ["TEST_IMPORTS"])

workers = int(os.environ.get("TEST_WORKERS", "1"))
worker_class = os.environ["TEST_WORKER_CLASS"]
threads = int(os.environ["TEST_THREADS"])
graceful_timeout = int(os.environ.get("TEST_GRACEFUL_TIMEOUT", "10"))
asgi_lifespan = os.environ.get("TEST_LIFESPAN", "auto")
control_socket_disable = True
preload_app = "TEST_PRELOAD" in os.environ
globals().update(json.loads(os.environ.get("TEST_OPTIONS", "{}")))

# What psycopg_pool warns of would reach standard error without its name.
teller = logging.StreamHandler()
teller.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
logging.getLogger("psycopg").addHandler(teller)
# Some workers leave SIGABRT to its default, which would leave a core file.
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def on_starting(server: Any) -> None:
    """Do what a user should not: open a guard in the master."""
    if "TEST_OPEN_IN_MASTER" in os.environ:
        poolguard.guard().open()


def when_ready(server: Any) -> None:
    """gunicorn heeds SIGWINCH as a daemon only, which a test could not wait for."""
    server.cfg.set("daemon", "TEST_HEED_WINCH" in os.environ)


def tell_at_patch(worker: Any, path: str) -> None:
    """Have the worker write what it has imported of psycopg, when it patches itself."""
    patch = worker.patch

    def tell_and_patch() -> None:
        Path(path).write_text(str([name for name in sys.modules if "psycopg" in name]))
        patch()

    worker.patch = tell_and_patch


def post_fork(server: Any, worker: Any) -> None:
    """Set telemetry up, in the worker: each span written as it ends, or all sent as OTLP."""
    if "TEST_TELL_AT_PATCH" in os.environ:
        tell_at_patch(worker, os.environ["TEST_TELL_AT_PATCH"])
    if "TEST_OTLP" in os.environ:
        from tests.telemetry.otlp import set_up

        set_up(os.environ["TEST_OTLP"])
        return
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
    if "TEST_INSTRUMENTOR" in os.environ:
        home, _, name = os.environ["TEST_INSTRUMENTOR"].partition(":")
        getattr(import_module(home), name)().instrument()


def post_worker_init(worker: Any) -> None:
    """Boot no further before the gate is there."""
    if "TEST_GATE" in os.environ:
        until(Path(os.environ["TEST_GATE"]).exists, within=60)


def worker_exit(server: Any, worker: Any) -> None:
    """Say what poolguard's own hook, which runs before, has left."""
    print("the pool is", "open" if poolguard.guard().opened else "closed", flush=True)
    names = sorted(thread.name for thread in threading.enumerate())
    left = [name for name in names if name.startswith(("default-", "poolguard-"))]
    print("threads left:", *left or ["none"], flush=True)


poolguard.gunicorn.install(globals())
