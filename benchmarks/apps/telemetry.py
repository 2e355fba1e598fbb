"""Traces and metrics by OpenTelemetry's real SDK, in batches, to files."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter


def set_up(folder: str, *, hasty: bool) -> None:
    """Write spans, each a line of JSON, and metrics to *folder*: two files for each process.

    At the SDK's defaults a thousand spans are turned into JSON in one go, which keeps the
    interpreter's lock from the requests for a tenth of a second, and no metric is exported in the
    seconds that a contest takes: those who are *hasty* export more often.
    """
    spans, figures = (
        Path(folder, f"{os.getpid()}.{kind}").open("a", encoding="utf-8")  # noqa: SIM115
        for kind in ("spans", "metrics")
    )
    spans_ms, metrics_ms = (250, 1000) if hasty else (None, None)
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
