"""``ready_path``: who answers it, with what, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

import poolguard
import poolguard.asgi
import poolguard.wsgi
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.worker.readiness import readiness

from ..support import until
from .conftest import Serve
from .server import DOORS, Door
from .test_asgi import run

AWAY = "host=127.0.0.1 port=1 dbname=shop"
"""Nobody listens there."""


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"the application"]


def get(
    app: Any, path: str, method: str = "GET", root: str = ""
) -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "SCRIPT_NAME": root}
    setup_testing_defaults(environ)
    answered: list[Any] = []
    body = b"".join(app(environ, lambda line, headers: answered.extend((line, dict(headers)))))
    line, headers = answered
    return line, headers, body


@pytest.fixture
def guard(dsn: str) -> Iterator[poolguard.Guard]:
    with poolguard.Guard(dsn, mode="sync", budget=2, floor=2, ready_path="/ready") as guard:
        yield guard


def test_it_is_answered_with_the_status(guard: poolguard.Guard) -> None:
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    line, headers, body = get(app, "/ready")
    assert line == "200 OK"
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Cache-Control"] == "no-store"
    told = json.loads(body)
    assert told["ready"] is True
    assert [each["name"] for each in told["guards"]] == ["default"]
    assert told["guards"][0]["idle"] == 2
    assert guard.status()["acquires"] == {}


def test_who_asks_for_the_head_gets_no_body(guard: poolguard.Guard) -> None:
    line, headers, body = get(poolguard.wsgi.PoolGuardMiddleware(application), "/ready", "HEAD")
    assert (line, body) == ("200 OK", b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/ready", "POST"), ("/ready/", "GET")])
def test_everything_else_is_the_applications(
    guard: poolguard.Guard, path: str, method: str
) -> None:
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    assert get(app, path, method)[2] == b"the application"


def test_without_the_setting_it_is_nobodys(dsn: str) -> None:
    with poolguard.Guard(dsn, mode="sync", budget=2):
        app = poolguard.wsgi.PoolGuardMiddleware(application)
        assert get(app, "/ready")[2] == b"the application"


def test_one_guard_that_is_not_ready_is_enough(guard: poolguard.Guard) -> None:
    """Both have the path; a third one, which has not, is not asked about."""
    app = poolguard.wsgi.PoolGuardMiddleware(application, guard)
    poolguard.Guard(AWAY, name="third", mode="sync", budget=2)
    assert get(app, "/ready")[0] == "200 OK"
    replica = poolguard.Guard(AWAY, name="replica", mode="sync", budget=2, ready_path="/ready")
    replica.open()
    line, _, body = get(app, "/ready")
    assert line == "503 Service Unavailable"
    assert [(each["name"], each["ready"]) for each in json.loads(body)["guards"]] == [
        ("default", True),
        ("replica", False),
    ]


def test_a_guard_that_leaves_is_not_ready(guard: poolguard.Guard) -> None:
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    guard.leave()
    assert get(app, "/ready")[0] == "503 Service Unavailable"


def test_asked_before_any_request_it_opens_them(dsn: str) -> None:
    """A balancer may send no request before it is ready. What was closed by name is left out."""
    with poolguard.Guard(dsn, name="done", mode="sync", budget=2, ready_path="/ready"):
        pass
    guard = poolguard.Guard(dsn, mode="sync", budget=2, ready_path="/ready")
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    until(lambda: get(app, "/ready")[0] == "200 OK")
    assert [each["name"] for each in json.loads(get(app, "/ready")[2])["guards"]] == ["default"]
    guard.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_asgi_door_answers_the_same(dsn: str, method: str) -> None:
    guard = poolguard.Guard(dsn, mode="async", budget=2, ready_path="/ready")
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        return str(scope["path"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        middleware = poolguard.asgi.PoolGuardMiddleware(app)
        async with guard:
            scope = {"type": "http", "method": method, "path": "/ready", "headers": []}
            await middleware(scope, None, send)  # type: ignore[arg-type]
            for other in ({"path": "/"}, {"method": "POST"}, {"type": "websocket"}):
                asked = {**scope, **other}
                assert await middleware(asked, None, send) == asked["path"]  # type: ignore[arg-type]

    run(main)
    start, body = sent
    assert (start["status"], body["type"]) == (200, "http.response.body")
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    if method == "HEAD":
        assert body["body"] == b""
    else:
        assert json.loads(body["body"])["guards"][0]["ready"] is True


MOUNTED = [
    # ready_path, the whole path, where the application is mounted, whether it is answered
    ("/ready", "/ready", "", True),
    ("/ready", "/ready", "/api", True),  # a server has taken the root away
    ("/ready", "/api/ready", "/api", True),
    ("/ready", "/api/ready", "/api/", True),
    ("/ready", "/api//ready", "/api/", True),
    ("/ready", "/api/shop/ready", "/api/shop", True),
    ("/ready", "/shop/ready", "/api/shop", True),  # as Starlette mounts on such a server
    ("/shop/ready", "/api/shop/ready", "/api/shop", True),  # as it is asked of a uvicorn
    ("/api/ready", "/api/ready", "/api", True),
    ("/ready", "/api/ready", "", False),
    ("/ready", "/other/ready", "/api", False),
    ("/ready", "/ap/ready", "/api", False),
    ("/ready", "/api/shop/ready", "/api", False),
    ("/ready", "/api/already", "/api", False),
]


@pytest.mark.parametrize(("ready_path", "whole", "root", "answered"), MOUNTED)
def test_it_is_found_wherever_the_application_is_mounted(
    ready_path: str, whole: str, root: str, answered: bool, dsn: str
) -> None:
    """WSGI and some ASGI servers give the path without the root, uvicorn leaves it in."""
    with poolguard.Guard(dsn, mode="sync", budget=2, ready_path=ready_path):
        assert (readiness("GET", whole, root, "sync") is not None) == answered
        assert (readiness("HEAD", whole, root, "sync") is not None) == answered


def test_the_wsgi_door_finds_it_below_a_mount(guard: poolguard.Guard) -> None:
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    assert get(app, "/ready", root="/shop")[0] == "200 OK"
    assert get(app, "/other", root="/shop")[2] == b"the application"


def test_the_asgi_door_finds_it_below_a_mount_and_behind_a_proxy(dsn: str) -> None:
    """Of applications of Starlette, one in the other, which a uvicorn with a root_path serves."""
    guard = poolguard.Guard(dsn, mode="async", budget=2, ready_path="/ready")
    inner = Starlette(middleware=[Middleware(poolguard.asgi.PoolGuardMiddleware)])
    app = Starlette(routes=[Mount("/v1", Starlette(routes=[Mount("/shop", inner)]))])
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    async def main() -> None:
        async with guard:
            for path in ("/v1/shop/ready", "/v1/shop/other", "/v1/ready"):
                await app(
                    {
                        "type": "http",
                        "method": "GET",
                        "path": f"/api{path}",
                        "root_path": "/api",
                        "headers": [],
                    },
                    None,  # type: ignore[arg-type]
                    send,
                )

    run(main)
    assert [status for status in sent if status] == [200, 404, 404]


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_a_worker_is_ready_when_its_database_is_there(
    door: Door, serve: Serve, postgres: PrivatePostgres
) -> None:
    with SlowProxy(target=("127.0.0.1", postgres.port), connect_delay=0) as proxy:
        proxy.refuse()
        server = serve(
            door,
            postgres.conninfo(host=proxy.host, port=proxy.port),
            POOLGUARD_READY_PATH="/ready",
            POOLGUARD_WARMUP_TIMEOUT="0.2",
        )
        answer = server.get("/ready")
        assert (answer.status, answer.body["ready"]) == (503, False)
        until(lambda: "refused" in str(server.get("/ready").body["guards"][0]["last_error"]))
        proxy.resume()
        until(lambda: server.get("/ready").status == 200)
        assert not server.server_spans("/ready")
