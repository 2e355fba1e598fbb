"""Django's instrumentor, whose first middleware begins the span; under WSGI and under ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path as at
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import poolguard
from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware as OursForASGI
from poolguard.wsgi import PoolGuardMiddleware as OursForWSGI

from ..support import use
from .client import asgi_get, wsgi_get
from .conftest import Serve
from .judging import by_whom, judge, servers

NAMES = f"{__name__}."


def use_sync() -> None:
    use(poolguard.guard("sync"))


async def use_async() -> None:
    async with poolguard.guard("default").aconnection():
        pass


def page(request: HttpRequest) -> HttpResponse:
    use_sync()
    use_sync()
    return HttpResponse("")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[bytes]:
        for _ in range(2):
            use_sync()
            yield b"one"

    return StreamingHttpResponse(chunks())


async def page_of_task(request: HttpRequest) -> HttpResponse:
    await use_async()
    await sync_to_async(use_sync)()
    return HttpResponse("")


async def stream_of_task(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            await use_async()
            yield b"one"

    return StreamingHttpResponse(chunks())


def failing(request: HttpRequest) -> HttpResponse:
    use_sync()
    raise LookupError


urlpatterns = [
    at("page", page),
    at("stream", stream),
    at("task/page", page_of_task),
    at("task/stream", stream_of_task),
    at("failing", failing),
]


class Eager:
    """A middleware that acquires, such as one that knows users by their cookies."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        use_sync()
        return self._get_response(request)


@pytest.fixture(scope="module", autouse=True)
def _django() -> Iterator[None]:
    if not settings.configured:  # by other tests in this process
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="-", DATABASES={})
        django.setup()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[]):
        yield


@pytest.fixture(params=["instrumented", "not instrumented"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[bool]:
    with override_settings(MIDDLEWARE=[NAMES + "Eager"]):
        if request.param == "instrumented":
            instrumentor: Any = DjangoInstrumentor()
            instrumentor.instrument()
            yield True
            instrumentor.uninstrument()
        else:
            yield False


@pytest.mark.parametrize("path", ["/page", "/stream", "/failing"])
def test_wsgi(path: str, instrumented: bool, guard: Guard, exported: InMemorySpanExporter) -> None:
    app = OursForWSGI(WSGIHandler(), guard)
    assert wsgi_get(app, path).startswith("500" if path == "/failing" else "200")
    # Their span ends with the last middleware, and so before a body is iterated.
    late = 2 if path == "/stream" and instrumented else 0
    judge(exported, 2 if path == "/failing" else 3, late=late)
    assert (by_whom(exported) != "poolguard") == instrumented


@pytest.mark.parametrize("path", ["/page", "/task/page", "/task/stream", "/failing"])
def test_asgi(
    path: str,
    instrumented: bool,
    guard: Guard,
    serve: Serve[object],
    exported: InMemorySpanExporter,
) -> None:
    """Views of threads and of tasks."""

    async def run(asynchronous: Guard) -> None:
        app = OursForASGI(ASGIHandler(), asynchronous)
        assert await asgi_get(app, path) == (500 if path == "/failing" else 200)

    serve(run)
    late = 2 if path == "/task/stream" and instrumented else 0
    judge(exported, 2 if path == "/failing" else 3, late=late)
    assert (by_whom(exported) != "poolguard") == instrumented


@pytest.fixture
def _excluding() -> Iterator[None]:
    with override_settings(MIDDLEWARE=[]):
        instrumentor: Any = DjangoInstrumentor()
        instrumentor.instrument(excluded_urls="stream")
        yield
        instrumentor.uninstrument()


@pytest.mark.usefixtures("_excluding")
def test_a_page_that_is_left_out_has_no_server_span(
    guard: Guard, serve: Serve[object], exported: InMemorySpanExporter
) -> None:
    for path, count in (("/page", 1), ("/stream", 0), ("/page", 1), ("/stream", 0)):
        assert wsgi_get(OursForWSGI(WSGIHandler(), guard), path) == "200 OK"
        assert servers(exported) == count

    async def run(asynchronous: Guard) -> list[int]:
        app, found = OursForASGI(ASGIHandler(), asynchronous), []
        for path in ("/page", "/task/page", "/task/stream", "/task/page", "/task/stream"):
            assert await asgi_get(app, path) == 200
            found.append(servers(exported))
        return found

    assert serve(run) == [1, 1, 0, 1, 0]
