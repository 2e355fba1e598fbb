"""What a user of the doors and the adapters writes. Type checkers read it; nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import flask
import psycopg
from fastapi import Depends, FastAPI
from sqlalchemy import CreateEnginePlugin, Engine, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from typing_extensions import assert_type

import poolguard.asgi
import poolguard.django
import poolguard.sqlalchemy
import poolguard.wsgi
from poolguard import Guard
from poolguard.flask import PoolGuard
from poolguard.starlette import (
    PoolGuardMiddleware,
    connection,
    connection_of,
    lifespan,
    sync_connection,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

replica = Guard("postgresql://replica/shop", name="replica")


# -- WSGI and ASGI -----------------------------------------------------------------------------


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


wsgi_application: WSGIApplication = poolguard.wsgi.PoolGuardMiddleware(app)
twice: WSGIApplication = poolguard.wsgi.PoolGuardMiddleware(wsgi_application, guard=replica)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204})


async def asgi_app_of_dicts(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """As Django's handler is typed by its stubs, and much else that is called with dicts."""
    await send({"type": "http.response.start", "status": 204})


asgi_application: Callable[[Scope, Receive, Send], Awaitable[None]] = (
    poolguard.asgi.PoolGuardMiddleware(asgi_app)
)
another = poolguard.asgi.PoolGuardMiddleware(asgi_app_of_dicts, guard=replica)


# -- Starlette and FastAPI ---------------------------------------------------------------------

first = Starlette(lifespan=lifespan, middleware=[Middleware(PoolGuardMiddleware)])
second = Starlette()
second.add_middleware(PoolGuardMiddleware, guard=replica)


@asynccontextmanager
async def own_lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with poolguard.asgi.lifespan(guard=replica):
        yield


api = FastAPI(lifespan=own_lifespan)
api.add_middleware(PoolGuardMiddleware)
of_replica = connection_of(replica)

Conn = Annotated[psycopg.AsyncConnection[Any], Depends(connection, scope="function")]
SyncConn = Annotated[psycopg.Connection[Any], Depends(sync_connection, scope="function")]
Replica = Annotated[psycopg.AsyncConnection[Any], Depends(of_replica, scope="function")]


@api.get("/orders")
async def orders(conn: Conn, replica: Replica) -> int:
    cursor = await conn.execute("SELECT count(*) FROM orders")
    return len(await cursor.fetchall())


@api.get("/carts")
def carts(conn: SyncConn) -> int:
    return conn.execute("SELECT 1 FROM carts").rowcount


async def dependencies() -> None:
    async for conn in connection():
        assert_type(conn, psycopg.AsyncConnection[Any])
    for sync_conn in sync_connection():
        assert_type(sync_conn, psycopg.Connection[Any])


# -- Flask -------------------------------------------------------------------------------------

db = PoolGuard()
shop = flask.Flask(__name__)
shop.config["POOLGUARD"] = {"floor": 4}
db.init_app(shop)
of_another = PoolGuard(flask.Flask("another"), guard=replica)


@shop.get("/")
def index() -> str:
    assert_type(db.guard, Guard)
    assert_type(db.connection, psycopg.Connection[Any])
    return str(db.connection.execute("SELECT now()").fetchone())


# -- SQLAlchemy and Django ---------------------------------------------------------------------

engine = create_engine(
    "postgresql+psycopg://localhost/shop", plugins=["poolguard"], poolguard={"floor": 4}
)
async_engine = create_async_engine("postgresql+psycopg://localhost/shop", plugins=["poolguard"])


def script() -> None:
    with poolguard.sqlalchemy.guard(engine) as guard, engine.connect():
        assert_type(guard, Guard)
    with poolguard.django.guard("default") as of_django:
        assert_type(of_django, Guard)


async def async_script() -> None:
    async with poolguard.sqlalchemy.guard(async_engine), async_engine.connect():
        pass


def overloaded(error: Exception) -> bool:
    return isinstance(error, poolguard.sqlalchemy.GuardTimeout)


def is_guarded(of: Engine) -> bool:
    kinds = poolguard.sqlalchemy.GuardPool, poolguard.sqlalchemy.AsyncGuardPool
    return isinstance(of.pool, kinds)


plugins: list[type[CreateEnginePlugin]] = [poolguard.sqlalchemy.PoolGuardPlugin]
