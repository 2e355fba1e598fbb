"""Traces and metrics by OpenTelemetry's real SDK, in batches, to files."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


def set_up(folder: str, *, spans_ms: float | None = None, metrics_ms: float | None = None) -> None:
    """Write spans, each a line of JSON, and metrics to *folder*: two files for each process.

    *spans_ms* and *metrics_ms* are the milliseconds from one export to the next; without them it
    is the SDK's own default, of five seconds and of a minute.
    """
    spans, figures = (
        Path(folder, f"{os.getpid()}.{kind}").open("a", encoding="utf-8")  # noqa: SIM115
        for kind in ("spans", "metrics")
    )
    tracer = TracerProvider()
    exporter = ConsoleSpanExporter(out=spans, formatter=_line)
    tracer.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=spans_ms))
    trace.set_tracer_provider(tracer)
    reader = PeriodicExportingMetricReader(
        ConsoleMetricExporter(out=figures), export_interval_millis=metrics_ms
    )
    metrics.set_meter_provider(MeterProvider([reader]))


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"
