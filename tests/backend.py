"""A backend for tests: it takes OTLP over HTTP, spans and metrics, and remembers what came."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["Backend", "tracing_backend"]


@dataclass
class Backend:
    """As Jaeger or Tempo would be, or Prometheus."""

    url: str = ""
    span_ids: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    metrics: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Their names, by the service's name and the id of its instance."""
    exemplars: dict[str, set[str]] = field(default_factory=dict)
    """The ids of the spans to which those of each histogram lead, by its name."""

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for of_resource in request.resource_metrics:
            who = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            names = {each.name for scope in of_resource.scope_metrics for each in scope.metrics}
            key = (who["service.name"], who["service.instance.id"])
            self.metrics.setdefault(key, set()).update(names)
            for metric in (each for scope in of_resource.scope_metrics for each in scope.metrics):
                for point in metric.histogram.data_points:
                    spans = {exemplar.span_id.hex() for exemplar in point.exemplars}
                    self.exemplars.setdefault(metric.name, set()).update(spans)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            for attribute in of_resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for of_scope in of_resource.scope_spans:
                self.span_ids.update(span.span_id.hex() for span in of_scope.spans)


@contextmanager
def tracing_backend() -> Iterator[Backend]:
    """One that listens on 127.0.0.1."""
    taken = Backend()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/metrics":
                taken.take_metrics(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
            else:
                assert self.path == "/v1/traces"
                taken.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield taken
        server.shutdown()
        thread.join()
