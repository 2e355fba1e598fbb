"""Spans recorded by OpenTelemetry's own SDK and exporters, with moments and ids that are known."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Literal

from opentelemetry import trace
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

__all__ = ["EPOCH", "Encoding", "Recording"]

Encoding = Literal["otlp", "console", "pretty"]
EPOCH = 1_790_000_000 * 10**9
MS = 10**6


class _Ids(IdGenerator):
    def __init__(self) -> None:
        self._next = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._next)

    def generate_trace_id(self) -> int:
        return next(self._next) << 64


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


class Recording:
    """What one service's worker wrote; times in milliseconds since :data:`EPOCH`."""

    def __init__(self, encoding: Encoding = "otlp", service: str = "shop") -> None:
        self._out = io.StringIO()
        exporters: dict[str, Callable[[], SpanExporter]] = {
            "otlp": lambda: FileSpanExporter(stream=self._out),
            "console": lambda: ConsoleSpanExporter(out=self._out, formatter=_line),
            "pretty": lambda: ConsoleSpanExporter(out=self._out),
        }
        provider = TracerProvider(resource=Resource({"service.name": service}), id_generator=_Ids())
        provider.add_span_processor(SimpleSpanProcessor(exporters[encoding]()))
        self._tracer = provider.get_tracer("tests")

    @property
    def text(self) -> str:
        return self._out.getvalue()

    def span(
        self,
        name: str,
        start: float,
        end: float,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        under: trace.Span | None = None,
        failed: bool = False,
        **attributes: AttributeValue,
    ) -> trace.Span:
        """One span; in the names of attributes ``__`` stands for a dot."""
        context = None if under is None else trace.set_span_in_context(under)
        span = self._tracer.start_span(
            name,
            context=context,
            kind=kind,
            start_time=EPOCH + int(start * MS),
            attributes={key.replace("__", "."): value for key, value in attributes.items()},
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR, "password=hunter2"))
        span.end(EPOCH + int(end * MS))
        return span

    def request(
        self,
        outcome: str,
        *,
        at: float = 0.0,
        wait: float = 0.0,
        work: float = 10.0,
        route: str = "/orders",
        kind: SpanKind = SpanKind.SERVER,
        under: trace.Span | None = None,
    ) -> trace.Span:
        """A request with the children that poolguard gives it, its own span written first."""
        done = at + 1 + wait
        root = self.span(
            "GET /orders",
            at,
            done + work,
            kind=kind,
            under=under,
            failed=outcome == "timeout",
            http__route=route,
            poolguard__request__outcome=outcome,
            poolguard__request__acquire_count=1,
            poolguard__request__wait_time=wait / 1000,
        )
        if outcome == "acquired":
            return root
        acquire = self.span(
            "pool.acquire",
            at + 1,
            done,
            under=root,
            poolguard__acquire__outcome=outcome,
            poolguard__acquire__wait_time=wait / 1000,
        )
        if outcome == "created":
            self.span(
                "pool.connect",
                at + 2,
                done - 1,
                kind=SpanKind.CLIENT,
                under=acquire,
                db__system__name="postgresql",
                server__address="db.internal",
                server__port=5432,
                db__namespace="shop",
            )
        return root
