"""What a server span of our own says of its request: OpenTelemetry's conventions for HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
    user_agent_attributes,
)
from opentelemetry.trace import StatusCode

from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware as OursForASGI
from poolguard.telemetry.http import of_asgi, of_wsgi
from poolguard.wsgi import PoolGuardMiddleware as OursForWSGI

from .support import attributes_of, use

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Expected = dict[str, object]

# -- what a request says -----------------------------------------------------------------------

ADDRESSES: list[tuple[str, Expected]] = [
    ("", {"server.address": "10.0.0.1", "server.port": 8000}),
    ("shop.example", {"server.address": "shop.example"}),
    ("shop.example:8443", {"server.address": "shop.example", "server.port": 8443}),
    ("[::1]", {"server.address": "::1"}),
    ("[::1]:8443", {"server.address": "::1", "server.port": 8443}),
    ("shop.example:x", {"server.address": "shop.example"}),
    ("shop.example:²", {"server.address": "shop.example"}),
    ("SHOP.example:99999", {"server.address": "shop.example"}),
    ("shop.example:" + "9" * 20, {"server.address": "shop.example"}),
    ("shop.example:" + "9" * 5000, {"server.address": "shop.example"}),
    ("shop.example:-1", {"server.address": "shop.example"}),
    ("me:secret@shop.example:8443", {"server.address": "shop.example", "server.port": 8443}),
    (":", {}),
    ("[::1", {}),
]
QUERIES: list[tuple[str, Expected]] = [
    ("", {}),
    ("a=1&b=&c", {"url.query": "a=1&b=&c"}),
    ("a=sig&signature=1", {"url.query": "a=sig&signature=1"}),
    (
        "sig=1&a=2&X-Amz-Signature=3&sig=",
        {"url.query": "sig=REDACTED&a=2&X-Amz-Signature=REDACTED&sig="},
    ),
]


def asgi(query: str = "", host: str = "", **more: Any) -> Expected:
    scope = {
        "type": "http",
        "scheme": "https",
        "query_string": query.encode(),
        "server": ("10.0.0.1", 8000),
        "http_version": "2",
        "client": ("10.0.0.2", 50000),
        **more,
    }
    return dict(of_asgi(scope, {"host": host, "user-agent": "tests"}))


def wsgi(query: str = "", host: str = "", **more: Any) -> Expected:
    environ = {
        "wsgi.url_scheme": "https",
        "QUERY_STRING": query,
        "HTTP_HOST": host,
        "SERVER_NAME": "10.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/2",
        "REMOTE_ADDR": "10.0.0.2",
        "HTTP_USER_AGENT": "tests",
        **more,
    }
    return dict(of_wsgi(environ))


ALWAYS: Expected = {
    "url.scheme": "https",
    "client.address": "10.0.0.2",
    "network.protocol.version": "2",
    "user_agent.original": "tests",
}


@pytest.mark.parametrize("of", [asgi, wsgi])
@pytest.mark.parametrize(("host", "expected"), ADDRESSES)
def test_the_server_is_called_as_the_client_calls_it(
    host: str, expected: Expected, of: Any
) -> None:
    assert of(host=host) == ALWAYS | expected


@pytest.mark.parametrize("of", [asgi, wsgi])
@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_secrets_of_the_query_are_not_shown(query: str, expected: Expected, of: Any) -> None:
    said = of(query=query)
    assert {name: value for name, value in said.items() if name == "url.query"} == expected


def test_what_is_not_known_is_left_out() -> None:
    """As over a socket of a file, or from a server that gives only what it must."""
    assert of_asgi({"type": "http"}, {}) == {"url.scheme": "http"}
    assert of_asgi({"type": "websocket", "server": ("/run/socket", None), "client": None}, {}) == {
        "url.scheme": "ws",
        "server.address": "/run/socket",
    }
    assert of_wsgi({"wsgi.url_scheme": "http"}) == {"url.scheme": "http"}
    for port in ("", "x", "²", "9" * 5000):
        assert of_wsgi({"SERVER_NAME": "a", "SERVER_PORT": port}) == {"server.address": "a"}


def test_the_path_is_whole() -> None:
    """WSGI has UTF-8 as if it were Latin-1, and the path of a mounted application in two parts."""
    path = "/Zürich".encode().decode("latin-1")
    assert wsgi(SCRIPT_NAME="/shop", PATH_INFO=path)["url.path"] == "/shop/Zürich"
    assert wsgi(PATH_INFO="/\xff")["url.path"] == "/\ufffd"


def test_names_are_those_of_the_conventions() -> None:
    known = {
        value
        for module in (
            client_attributes,
            error_attributes,
            http_attributes,
            network_attributes,
            server_attributes,
            url_attributes,
            user_agent_attributes,
        )
        for value in vars(module).values()
        if isinstance(value, str)
    }
    assert asgi("a", "b:1").keys() | wsgi("a", "b:1", PATH_INFO="/").keys() <= known


# -- what the span says ------------------------------------------------------------------------


@pytest.fixture
def guard(dsn: str) -> Guard:
    return Guard(dsn, mode="sync", name="sync", budget=2, floor=1)


def served_by_wsgi(guard: Guard, method: str, status: str) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(guard)
        start_response(status, [])
        return []

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/orders",
        "QUERY_STRING": "",
        "SERVER_NAME": "shop",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }
    OursForWSGI(app, guard)(environ, lambda status, headers, exc_info=None: lambda chunk: None)


def served_by_asgi(guard: Guard, method: str, status: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(use, guard)
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": []})
        await send({"type": "http.response.body"})

    async def nothing(*_: object) -> Any: ...

    async def run() -> None:
        async with Guard(guard.settings.dsn, mode="async", budget=2, floor=1) as asynchronous:
            scope = {
                "type": "http",
                "method": method,
                "path": "/orders",
                "server": ("shop", 80),
                "http_version": "1.1",
            }
            await OursForASGI(app, asynchronous)(scope, nothing, nothing)

    asyncio.run(run())


def only(exported: InMemorySpanExporter) -> ReadableSpan:
    [span] = [each for each in exported.get_finished_spans() if each.name != "pool.acquire"]
    return span


@pytest.mark.parametrize("served", [served_by_wsgi, served_by_asgi])
@pytest.mark.parametrize(
    ("status", "failed"),
    [("200 OK", False), ("404 Not Found", False), ("500 Oh", True), ("503 Busy", True)],
)
def test_only_a_server_that_fails_is_an_error(
    status: str, failed: bool, served: Any, guard: Guard, exported: InMemorySpanExporter
) -> None:
    with guard:
        served(guard, "GET", status)
    span = only(exported)
    said = {name: value for name, value in attributes_of(span).items() if "poolguard" not in name}
    code = int(status[:3])
    assert said == {
        "http.request.method": "GET",
        "http.response.status_code": code,
        "url.scheme": "http",
        "url.path": "/orders",
        "server.address": "shop",
        "server.port": 80,
        "network.protocol.version": "1.1",
    } | ({"error.type": str(code)} if failed else {})
    assert (span.status.status_code is StatusCode.ERROR) == failed


@pytest.mark.parametrize("served", [served_by_wsgi, served_by_asgi])
@pytest.mark.parametrize("known", [None, "GET, BREW"])
def test_a_method_that_nobody_knows(
    known: str | None,
    served: Any,
    guard: Guard,
    exported: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could be anything, and names are to be few; the variable says which are known."""
    if known is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", known)
    with guard:
        served(guard, "BREW", "200 OK")
    span = only(exported)
    said = {name: value for name, value in attributes_of(span).items() if ".method" in name}
    if known is None:
        assert span.name == "HTTP"
        assert said == {
            "http.request.method": "_OTHER",
            "http.request.method_original": "BREW",
        }
    else:
        assert (span.name, said) == ("BREW", {"http.request.method": "BREW"})


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        (["websocket.accept", "websocket.close"], 101),
        (["websocket.close"], 403),
        (["websocket.http.response.start"], 401),
        ([], None),
    ],
)
def test_the_status_of_a_websockets_handshake(
    messages: list[str], status: int | None, dsn: str, exported: InMemorySpanExporter
) -> None:
    async def run() -> None:
        async with Guard(dsn, mode="async", budget=2, floor=1) as guard:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                async with guard.aconnection():
                    pass
                for message in messages:
                    await send({"type": message, "status": 401})

            async def nothing(*_: object) -> Any: ...

            await OursForASGI(app, guard)({"type": "websocket", "path": "/talk"}, nothing, nothing)

    asyncio.run(run())
    said = attributes_of(only(exported))
    assert said.get("http.response.status_code") == status
    assert (said["url.scheme"], said["http.request.method"]) == ("ws", "GET")
