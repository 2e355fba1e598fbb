"""A backend for tests: takes OTLP over HTTP from real workers, and adds up what came."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

POOL = "db.client.connection.pool.name"

Series = tuple[str, str]
"""A metric's name, and the value of the attribute that is not the pool's name."""


class Export:
    """What one worker said at one time."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.numbers: dict[Series, float] = {}
        self.histograms: dict[str, HistogramDataPoint] = {}
        self.attributes: set[str] = set()
        """The names of all attributes of all its points."""

    def add(self, metric: Metric) -> None:
        kind = str(metric.WhichOneof("data"))
        data = getattr(metric, kind)
        self.kinds[metric.name] = f"monotonic {kind}" if getattr(data, "is_monotonic", 0) else kind
        for point in data.data_points:
            attributes = attributes_of(point.attributes)
            self.attributes |= attributes.keys()
            del attributes[POOL]
            if isinstance(point, NumberDataPoint):
                value = point.as_int if point.HasField("as_int") else point.as_double
                self.numbers[metric.name, "".join(attributes.values())] = value
            else:
                self.histograms[metric.name] = point

    def counts(self) -> dict[Series, float]:
        """What only grows: the counters, and how often each histogram has recorded."""
        found = {
            series: n
            for series, n in self.numbers.items()
            if self.kinds[series[0]].startswith("monotonic")
        }
        return found | {(name, "count"): h.count for name, h in self.histograms.items()}


class Receiver:
    """All that came, by the ``service.instance.id`` of the resource. Any thread may ask."""

    def __init__(self) -> None:
        self.url = ""
        self.exports: dict[str, list[Export]] = {}
        self.spans: dict[str, list[Span]] = {}

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for of_resource in request.resource_metrics:
            export = Export()
            for of_scope in of_resource.scope_metrics:
                if of_scope.scope.name == "poolguard":
                    for metric in of_scope.metrics:
                        export.add(metric)
            who = attributes_of(of_resource.resource.attributes)["service.instance.id"]
            self.exports.setdefault(who, []).append(export)

    def take_spans(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            who = attributes_of(of_resource.resource.attributes)["service.instance.id"]
            for of_scope in of_resource.scope_spans:
                self.spans.setdefault(who, []).extend(of_scope.spans)

    def last(self, *workers: str) -> list[Export]:
        """The last export of each of these workers; of all where none is named."""
        return [self.exports[who][-1] for who in workers or [*self.exports]]

    def total(self, *workers: str) -> dict[Series, float]:
        """The counts of these workers added up, without those that are 0."""
        total: defaultdict[Series, float] = defaultdict(float)
        for export in self.last(*workers):
            for series, n in export.counts().items():
                total[series] += n
        return {series: n for series, n in total.items() if n}


def attributes_of(pairs: Any) -> dict[str, Any]:
    """OTLP's attributes by name; each is a single value here."""
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, str(pair.value.WhichOneof("value")))


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens on 127.0.0.1."""
    receiver = Receiver()
    lock = threading.Lock()
    takers: Mapping[str, tuple[Any, Any, Any]] = {
        "/v1/metrics": (
            ExportMetricsServiceRequest,
            ExportMetricsServiceResponse,
            receiver.take_metrics,
        ),
        "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse, receiver.take_spans),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kind, answers, take = takers[self.path]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with lock:
                take(kind.FromString(body))
            answer = answers().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
