"""Real OpenTelemetry in a gunicorn worker: spans and metrics, sent as OTLP to who is named."""

from __future__ import annotations

import uuid

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

EXPORT_INTERVAL_MS = 200


def set_up(url: str) -> None:
    """As a user would, in each worker: it is a service instance of its own."""
    resource = Resource.create(
        {"service.name": "shop", "service.instance.id": str(uuid.uuid4()), "host.name": "test"}
    )
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    trace.set_tracer_provider(tracing)
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{url}/v1/metrics"), export_interval_millis=EXPORT_INTERVAL_MS
    )
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))


def shut_down() -> None:
    """Report for the last time, where no handler of the interpreter's exit will."""
    for provider in (metrics.get_meter_provider(), trace.get_tracer_provider()):
        assert isinstance(provider, MeterProvider | TracerProvider)
        provider.shutdown()
