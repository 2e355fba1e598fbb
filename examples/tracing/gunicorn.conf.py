"""gunicorn that traces, to files and, if one is named, to a backend: see README.md."""

import os
from pathlib import Path

# Imported here, the SDK is there in each worker; in post_fork each would spend its boot on it.
# (Under gevent import it in post_fork after all: the worker is to be patched before.)
from opentelemetry import trace
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import poolguard.gunicorn

workers = 2
threads = 8


def post_fork(server, worker):
    """Set tracing up in each worker: an exporter that was begun before the fork could hang."""
    provider = TracerProvider(resource=Resource.create({"service.name": "reports"}))
    # a file each, so that no worker writes into another's line
    path = Path(os.environ.get("SPANS", "."), f"spans-{os.getpid()}.jsonl")
    provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(path)))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


poolguard.gunicorn.install(globals())  # poolguard's hooks, beside the one above
