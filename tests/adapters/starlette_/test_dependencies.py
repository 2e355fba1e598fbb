"""FastAPI's dependencies that yield a connection: when it is taken, committed and returned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from psycopg import AsyncConnection, Connection

import poolguard
from poolguard.starlette import (
    PoolGuardMiddleware,
    connection,
    connection_of,
    lifespan,
    sync_connection,
)
from poolguard.worker import registry

from ..conftest import Things
from .conftest import MakeClient

Conn = Annotated[AsyncConnection[Any], Depends(connection, scope="function")]
Held = Annotated[AsyncConnection[Any], Depends(connection)]
SyncConn = Annotated[Connection[Any], Depends(sync_connection, scope="function")]

INSERT = "INSERT INTO things VALUES (%s)"


@pytest.fixture(params=["pooled", "plain"])
def app(request: pytest.FixtureRequest, dsn: str, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """An application without a path. Without a lifespan no guard is opened, as in many tests."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "3")
    monkeypatch.setenv("POOLGUARD_FLOOR", "1")
    return FastAPI(lifespan=lifespan if request.param == "pooled" else None)


@contextmanager
def served(app: FastAPI, client_of: MakeClient) -> Iterator[Any]:
    """A client, with the lifespan; afterwards all that was lent has come back."""
    with client_of(app) as client:
        yield client
        guard = poolguard.guard()
        assert guard.opened == (app.router.lifespan_context is lifespan)
        assert used() == 0


def used() -> int:
    found: int = poolguard.guard().status().get("used", 0)
    return found


# -- how it ends -------------------------------------------------------------------------------


def test_what_an_endpoint_has_done_is_committed(
    app: FastAPI, client_of: MakeClient, things: Things
) -> None:
    @app.get("/")
    async def endpoint(conn: Conn) -> int:
        await conn.execute(INSERT, ["a"])
        return 1

    with served(app, client_of) as client:
        assert client.get("/").json() == 1
        assert things() == ["a"]


@pytest.mark.parametrize("error", [ValueError("nobody handles it"), KeyError(), HTTPException(409)])
def test_an_exception_rolls_back(
    app: FastAPI, client_of: MakeClient, things: Things, error: Exception
) -> None:
    @app.exception_handler(KeyError)
    async def handle(_: Any, error: Exception) -> Any:
        return StreamingResponse(iter("handled"), 400)

    @app.get("/")
    async def endpoint(conn: Conn) -> int:
        await conn.execute(INSERT, ["half of it"])
        raise error

    with served(app, client_of) as client:
        assert client.get("/").status_code in (400, 409, 500)
        assert things() == []


def test_a_commit_that_fails_is_no_success(
    app: FastAPI, client_of: MakeClient, things: Things
) -> None:
    """The response is not sent yet: the application's handlers answer."""

    @app.exception_handler(psycopg.IntegrityError)
    async def handle(_: Any, error: Exception) -> Any:
        return StreamingResponse(iter("twice"), 409)

    @app.get("/")
    async def endpoint(conn: Conn) -> int:
        await conn.execute(INSERT, ["same"])
        await conn.execute(INSERT, ["same"])  # refused by the commit
        return 1

    with served(app, client_of) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (409, "twice")
        assert things() == []


# -- how long it lasts -------------------------------------------------------------------------


def test_it_is_returned_before_the_response(
    app: FastAPI, client_of: MakeClient, things: Things
) -> None:
    """And before what follows it, for which FastAPI's own scope would hold it."""
    seen: list[tuple[str, int, list[str]]] = []

    def see(where: str) -> None:
        seen.append((where, used(), things()))

    async def body(where: str) -> AsyncIterator[str]:
        see(where)
        yield where

    @app.get("/early")
    async def early(conn: Conn, tasks: BackgroundTasks) -> StreamingResponse:
        await conn.execute(INSERT, ["a"])
        tasks.add_task(see, "task")
        return StreamingResponse(body("body"))

    @app.get("/late")
    async def late(conn: Held, tasks: BackgroundTasks) -> StreamingResponse:
        await conn.execute(INSERT, ["b"])
        tasks.add_task(see, "task")
        return StreamingResponse(body("body"))

    with served(app, client_of) as client:
        client.get("/early")
        assert seen == [("body", 0, ["a"]), ("task", 0, ["a"])]
        seen.clear()
        client.get("/late")
        held = int(poolguard.guard().opened)
        assert seen == [("body", held, ["a"]), ("task", held, ["a"])]
        assert things() == ["a", "b"]


def test_what_depends_on_it_has_the_same_one(app: FastAPI, client_of: MakeClient) -> None:
    async def user(conn: Conn) -> int:
        return id(conn)

    of_user = Depends(user)

    @app.get("/")
    async def endpoint(conn: Conn, other: int = of_user) -> bool:
        return id(conn) == other

    with served(app, client_of) as client:
        assert client.get("/").json() is True


def test_a_websocket_has_it_until_its_end(
    app: FastAPI, client_of: MakeClient, things: Things
) -> None:
    @app.websocket("/")
    async def endpoint(socket: WebSocket, conn: Conn) -> None:
        await socket.accept()
        await conn.execute(INSERT, [await socket.receive_text()])
        await socket.send_json(used())
        await socket.close()

    with served(app, client_of) as client:
        with client.websocket_connect("/") as socket:
            socket.send_text("a")
            assert socket.receive_json() == int(poolguard.guard().opened)
        assert things() == ["a"]


# -- other guards, and none --------------------------------------------------------------------


def test_plain_endpoints_have_a_sync_one(
    app: FastAPI, client_of: MakeClient, things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLGUARD_MODE", "sync")

    @app.get("/")
    def endpoint(conn: SyncConn) -> int:
        conn.execute(INSERT, ["a"])
        return used()

    with served(app, client_of) as client:
        assert client.get("/").json() == int(poolguard.guard().opened)
        assert things() == ["a"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_another_guard_has_a_dependency_of_its_own(
    app: FastAPI, client_of: MakeClient, dsn: str, mode: str
) -> None:
    named = poolguard.Guard(dsn, name="reports", mode=mode, kwargs={"application_name": "reports"})
    depends = Depends(connection_of(named), scope="function")

    @app.get("/")
    async def endpoint(conn: Any = depends) -> list[Any]:
        return [conn.info.parameter_status("application_name"), named.status().get("used", 0)]

    with client_of(app) as client:
        assert client.get("/").json() == ["reports", int(named.opened)]
        assert named.status().get("used", 0) == 0


def test_a_test_may_override_it(app: FastAPI, client_of: MakeClient) -> None:
    """Nothing is acquired then, nor is anybody asked for a guard."""

    @app.get("/")
    async def endpoint(conn: Conn) -> str:
        return str(conn)

    app.dependency_overrides[connection] = lambda: "ours"
    answer = client_of(app).get("/")
    assert answer.json() == "ours"
    assert registry.guards() == []


def test_without_a_lifespan_no_pool_is_opened_behind_the_middleware(
    client_of: MakeClient, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test client runs each request on an event loop of its own, and so each would open one."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    app = FastAPI()
    app.add_middleware(PoolGuardMiddleware)

    @app.get("/")
    async def endpoint(conn: Conn) -> bool:
        return poolguard.guard().opened

    client = client_of(app)
    assert [client.get("/").json() for _ in range(2)] == [False, False]


def test_it_imports_neither_framework() -> None:
    script = "import poolguard.starlette, sys; print(*{'starlette', 'fastapi'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
