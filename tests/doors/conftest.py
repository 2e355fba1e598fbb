"""Servers of a test's own, which end with it, and the backends they leave behind, or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolguard.lab.janitor import Janitor

from .server import Door, Server, Span

Spans = Callable[[], list[Span]]


class Serve(Protocol):
    """Starts gunicorn; *environ* are further variables of its environment."""

    def __call__(self, door: Door, dsn: str, **environ: str) -> Server: ...


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """Ends the servers should the test run itself be killed."""
    with Janitor() as janitor:
        yield janitor


@pytest.fixture
def serve(janitor: Janitor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers that end with the test."""
    with ExitStack() as ending:

        def start(door: Door, dsn: str, **environ: str) -> Server:
            folder: Path = tmp_path_factory.mktemp("gunicorn")
            server = Server(door, environ, janitor=janitor, folder=folder, dsn=dsn)
            ending.callback(server.close)
            return server

        yield start


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The spans that ended in this process since the test began, by the real SDK.

    OpenTelemetry takes one provider for the whole process: the first test that needs one sets it.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    ended = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(ended))
    yield lambda: [Span(json.loads(span.to_json())) for span in ended.get_finished_spans()]
    ended.shutdown()


@pytest.fixture
def backends(admin: psycopg.Connection) -> Callable[[str], list[int]]:
    """The server processes that serve an ``application_name`` now."""

    def backends(application: str) -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY pid"
        return [pid for (pid,) in admin.execute(query, [application]).fetchall()]

    return backends
