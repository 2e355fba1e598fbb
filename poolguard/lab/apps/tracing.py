"""Real OpenTelemetry tracing in the demo's workers, to a file and, if one is named, a backend."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)

__all__ = ["set_up"]

SCHEDULE_DELAY_MS = 250
"""The SDK's default is 5,000. A thousand spans are then turned into JSON in one go, which keeps the
interpreter's lock from the requests for a tenth of a second."""


def set_up(path: str, otlp: str | None) -> None:
    """Have spans written to *path*, a JSON object a line, and sent to *otlp*, an OTLP/HTTP URL."""
    provider = TracerProvider(resource=Resource.create({"service.name": "poolguard-demo"}))
    out = open(path, "a", encoding="utf-8")  # noqa: SIM115 - it lives as long as the process
    exporters: list[SpanExporter] = [ConsoleSpanExporter(out=out, formatter=_line)]
    if otlp:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter(endpoint=otlp))
    for exporter in exporters:
        provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=SCHEDULE_DELAY_MS)
        )
    trace.set_tracer_provider(provider)


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"
