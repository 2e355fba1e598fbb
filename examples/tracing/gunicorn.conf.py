"""gunicorn that traces, to files and, if one is named, to a backend: see README.md."""

import os
from pathlib import Path
from uuid import uuid4

# Imported here, the SDK is there in each worker; in post_fork each would spend its boot on it.
# (Under gevent import it in post_fork after all: the worker is to be patched before.)
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import poolguard.gunicorn

workers = 2
threads = 8


def post_fork(server, worker):
    """Set tracing up in each worker: an exporter that was begun before the fork could hang."""
    who = {"service.name": "reports", "service.instance.id": str(uuid4())}
    resource = Resource.create(who)
    provider = TracerProvider(resource=resource)
    # a file each, so that no worker writes into another's line
    path = Path(os.environ.get("SPANS", "."), f"spans-{os.getpid()}.jsonl")
    provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(path)))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # their exemplars lead to the traces
    if os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        metrics.set_meter_provider(MeterProvider([reader], resource=resource))


poolguard.gunicorn.install(globals())  # poolguard's hooks, beside the one above
