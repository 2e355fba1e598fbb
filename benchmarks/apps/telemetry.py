"""The real SDK with its own defaults, traces and metrics, in batches and to files."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

__all__ = ["set_up"]


def set_up(folder: str) -> None:
    """Write spans and metrics to *folder*, one file of each a worker."""
    spans, figures = (
        Path(folder, f"{os.getpid()}.{kind}").open("a", encoding="utf-8")  # noqa: SIM115
        for kind in ("spans", "metrics")
    )
    tracer = TracerProvider()
    tracer.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=spans)))
    trace.set_tracer_provider(tracer)
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=figures))
    metrics.set_meter_provider(MeterProvider([reader]))
