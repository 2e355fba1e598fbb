"""All of poolguard's telemetry by the real SDK: spans and metrics, in batches, to files."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

from poolguard.lab.apps import tracing

__all__ = ["set_up"]

EVERY_MS = 1000
"""The SDK's default is a minute, in which no run here would export once."""


def set_up(folder: str) -> None:
    """Write spans and metrics to *folder*, one file of each a worker."""
    tracing.set_up(str(Path(folder, f"{os.getpid()}.spans")), otlp=None)
    out = Path(folder, f"{os.getpid()}.metrics").open("a", encoding="utf-8")  # noqa: SIM115 - as above
    reader = PeriodicExportingMetricReader(
        ConsoleMetricExporter(out=out), export_interval_millis=EVERY_MS
    )
    metrics.set_meter_provider(MeterProvider([reader]))
