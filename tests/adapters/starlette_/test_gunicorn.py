"""FastAPI under real gunicorn: wherever the middleware stands, and however errors are handled."""

from __future__ import annotations

from itertools import product

import pytest

from tests.doors.conftest import Serve
from tests.doors.server import Door
from tests.support import until

APP = "tests.adapters.starlette_.service:app"
UVICORN = Door("uvicorn_worker.UvicornWorker", APP)
ASGI = Door("asgi", APP, since=24)
ONE = {
    "POOLGUARD_BUDGET": "1",
    "POOLGUARD_FLOOR": "1",
    "POOLGUARD_ACQUIRE_TIMEOUT": "0.2",
    "POOLGUARD_CHECK_TIMEOUT": "0.1",
}


@pytest.mark.parametrize(
    ("door", "where"),
    [
        pytest.param(door, where, id=f"{door}-{where}", marks=[] if quick else pytest.mark.long)
        for (door, where), quick in zip(
            product((UVICORN, ASGI), ("HOOKS", "ADDED", "INNER")), "101110", strict=True
        )
    ],
)
def test_a_request_has_a_pools_connection_and_an_overload_is_503(
    serve: Serve, dsn: str, door: Door, where: str
) -> None:
    wrap = "on" if where == "HOOKS" else "off"
    server = serve(door, dsn, POOLGUARD_WRAP=wrap, **ONE, **{f"TEST_{where}": "1"})
    for mount in ["/inner"] if where == "INNER" else ["", "/inner"]:
        assert server.get(f"{mount}/query").body["pooled"]
        busy = server.get(f"{mount}/starve")
        assert (busy.status, busy.headers["Retry-After"]) == (503, "1")
    until(lambda: server.status()["used"] == 0)


@pytest.mark.parametrize(
    ("environ", "status", "body"),
    [
        ({"TEST_DEBUG": "1"}, 503, b"PoolTimeout"),
        ({"TEST_PAGE": "1"}, 503, b"our page"),
        ({"TEST_PAGE": "1", "TEST_ADDED": "1"}, 503, b"our page"),
        ({"TEST_PAGE": "1", "TEST_ADDED": "1", "POOLGUARD_WRAP": "off"}, 503, b"is busy"),
        ({"TEST_HANDLES": "1"}, 429, b"come back"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_the_applications_handlers_go_first(
    serve: Serve, dsn: str, environ: dict[str, str], status: int, body: bytes
) -> None:
    """A page for all errors stands outside what ``add_middleware`` adds, but inside the hooks'."""
    answer = serve(UVICORN, dsn, **ONE, **environ).get("/starve")
    assert answer.status == status
    assert body in answer.body
    assert answer.headers["Retry-After"] == ("1" if status == 503 else None)
