"""gunicorn whose workers tell their pools' metrics, pushed or pulled: see README.md."""

import os
from uuid import uuid4

# Imported here, the SDK is there in each worker; in post_fork each would spend its boot on it.
# (Under gevent import it in post_fork after all: the worker is to be patched before.)
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

import poolguard.gunicorn

workers = 2
threads = 8

FIRST_PORT = int(os.environ.get("METRICS_PORT", "9464"))
PORTS = range(FIRST_PORT, FIRST_PORT + 16)  # room for the old and the new workers of a reload


def post_fork(server, worker):
    """Set metrics up in each worker: what is begun before the fork would count for all of them."""
    # Workers must not write into each other's series, and pids come again: an id for each.
    who = {"service.name": "reports", "service.instance.id": str(uuid4())}
    reader = pushing() if os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") else pulled(server)
    metrics.set_meter_provider(MeterProvider([reader], resource=Resource.create(who)))


def pushing():
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter())


def pulled(server):
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import start_http_server

    for port in PORTS:  # each worker answers on a port of its own, the first that is free
        try:
            start_http_server(port, addr=os.environ.get("METRICS_HOST", "127.0.0.1"))
        except OSError:
            continue
        break
    else:  # no reason not to serve
        server.log.warning("no port of %s to %s is free for metrics", PORTS[0], PORTS[-1])
    return PrometheusMetricReader()


poolguard.gunicorn.install(globals())  # poolguard's hooks, beside the one above
