"""The applications that are measured: ``/`` asks one query of the given length, ``/health`` none.

Contenders hold connections as their projects' documentation has it, at the defaults or well tuned,
and crews as many as they are told. The environment says which one this worker is. Nothing else of
the benchmarks is imported here, and of the drivers only its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import asynccontextmanager, nullcontext
from time import thread_time
from typing import Any

DSN = os.environ["DATABASE_URL"]
SIZE = int(os.environ["SERVICE_SIZE"])
"""Connections that this worker may hold: its share of the budget."""
SETTING = os.environ["SERVICE_SETTING"]
"""``defaults``, ``tuned`` or ``limit``; a crew's ``warm``, or ``opening``, which waits for none."""
TUNED = SETTING == "tuned"
WAITS = SETTING in ("tuned", "limit", "warm")
QUERY = float(os.environ["SERVICE_QUERY"])
"""Seconds that a request's query takes."""
MINUTE = float(os.environ["SERVICE_HOUR"]) / 60
SLEEP = "SELECT pg_sleep(%s)"

until = thread_time() + float(os.environ.get("SERVICE_IMPORT", "0"))
while thread_time() < until:
    pass  # importing an application is work for the interpreter, and so is this


def idle(minutes: float) -> float:
    """An idle timeout in fast motion, in seconds.

    It is at least 0.1: a shorter one would close connections between two requests of a busy day,
    since requests are not in fast motion, and that no real one does.
    """
    return max(minutes * MINUTE, 0.1)


def wsgi(query: Callable[[], object]) -> Any:
    """The application in threads; *query* does all that a request does with its database."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] != "/health":
            query()
        start_response("200 OK", [("Content-Length", "3")])
        return [b"ok\n"]

    return app


def asgi(query: Callable[[], Any], pool: Callable[[], Any] = nullcontext) -> Any:
    """The same in an event loop; *pool* opens one for the lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with pool():
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] != "/health":
            await query()
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok\n"})

    return app


def borrowing(connection: Callable[[], Any]) -> Any:
    """A request's query that borrows one connection."""

    def query() -> None:
        with connection() as conn:
            conn.execute(SLEEP, [QUERY])

    return query


def aborrowing(connection: Callable[[], Any], *statement: Any) -> Any:
    """The same in an event loop."""

    async def query() -> None:
        async with connection() as conn:
            await conn.execute(*(statement or (SLEEP, [QUERY])))

    return query


def nothing() -> Any:
    """No pool, and no driver either: what a worker costs without all this."""

    async def query() -> None:
        pass

    return wsgi(int) if os.environ["SERVICE_CLASS"] in ("sync", "gthread") else asgi(query)


def guarded() -> Any:
    """poolguard. By default it keeps half of its share warm here."""
    import poolguard
    from poolguard.wsgi import PoolGuardMiddleware

    return PoolGuardMiddleware(wsgi(borrowing(poolguard.connection)))


def guarded_async() -> Any:
    """poolguard. Tuned: it keeps half of its share warm; by default up to 10."""
    import poolguard
    from poolguard.asgi import PoolGuardMiddleware

    return PoolGuardMiddleware(asgi(aborrowing(poolguard.aconnection)))


def psycopg_settings(**careful: Any) -> dict[str, Any]:
    """psycopg_pool's, the same for both of its classes; *careful* is added where it is tuned.

    Defaults (psycopg.org/psycopg3/docs/api/pool.html): min_size 4, max_idle 10 minutes; max_size is
    given, since its default is min_size.
    """
    if SETTING in ("warm", "opening"):
        return {"min_size": SIZE}
    if SETTING == "limit":  # always open, and nothing that a request would have to pay for
        return {"min_size": SIZE, "max_size": SIZE, "num_workers": 32}
    if TUNED:
        # psycopg.org/psycopg3/docs/advanced/pool.html: a fixed size ("What's the right size for the
        # pool?"), check= ("Connection quality"), wait() before the first request ("Pool startup
        # check"); more num_workers, so that these do not open three at a time.
        tuned = {"min_size": SIZE, "max_size": SIZE, "num_workers": 10, "timeout": 5.0}
        return tuned | careful
    return {"max_size": SIZE, "max_idle": idle(10)}


def psycopg_sync() -> Any:
    """psycopg_pool, opened at import as its documentation has it."""
    from psycopg_pool import ConnectionPool

    settings = psycopg_settings(check=ConnectionPool.check_connection)
    pool = ConnectionPool(DSN, open=False, **settings)
    pool.open(wait=WAITS)
    return wsgi(borrowing(pool.connection))


def psycopg_async() -> Any:
    """psycopg_pool, opened in the lifespan as its documentation has it."""
    from psycopg_pool import AsyncConnectionPool

    settings = psycopg_settings(check=AsyncConnectionPool.check_connection)
    pool = AsyncConnectionPool(DSN, open=False, **settings)

    @asynccontextmanager
    async def opened() -> Any:
        await pool.open(wait=WAITS)
        yield
        await pool.close()

    return asgi(aborrowing(pool.connection), opened)


def per_request() -> Any:
    """One connection a request: to the server, or to the PgBouncer that stands before it."""
    import psycopg

    return wsgi(borrowing(lambda: psycopg.connect(DSN)))


def sqlalchemy_pool() -> Any:
    """SQLAlchemy's QueuePool over psycopg 3.

    Defaults (docs.sqlalchemy.org/en/20/core/pooling.html): pool_size 5 and overflow connections,
    which are closed when they are returned; here there may be as many as the budget has room for.
    """
    from psycopg.conninfo import conninfo_to_dict
    from sqlalchemy import create_engine, text

    settings: dict[str, Any] = {"pool_size": 5, "max_overflow": SIZE - 5}
    if TUNED:
        # The same page: pool_pre_ping ("Disconnect Handling - Pessimistic") and pool_recycle; what
        # is no overflow stays open. The pool has no way to open connections before they are wanted.
        settings = {"pool_size": SIZE, "max_overflow": 0, "pool_timeout": 5}
        settings |= {"pool_pre_ping": True, "pool_recycle": 1800}
    place = conninfo_to_dict(DSN)
    engine = create_engine("postgresql+psycopg://", connect_args=place, **settings)
    statement = text("SELECT pg_sleep(:seconds)")

    def query() -> None:
        with engine.connect() as conn:
            conn.execute(statement, {"seconds": QUERY})

    return wsgi(query)


def django_pool() -> Any:
    """Django with its ``pool`` option, which is psycopg_pool inside.

    Defaults (docs.djangoproject.com/en/5.2/ref/databases, "Connection pool"): psycopg_pool's own,
    to which it hands the options on; CONN_HEALTH_CHECKS is check=. Django opens the pool when the
    first request asks for a connection.
    """
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django.http import HttpRequest, HttpResponse
    from django.urls import path
    from psycopg.conninfo import conninfo_to_dict

    place = conninfo_to_dict(DSN)
    names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}

    def index(request: HttpRequest) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute(SLEEP, [QUERY])
        return health(request)

    def health(_: HttpRequest) -> HttpResponse:
        return HttpResponse("ok\n", headers={"Content-Length": "3"})

    database = {
        **{theirs: place.get(ours, "") for theirs, ours in names.items()},
        "ENGINE": "django.db.backends.postgresql",
        "NAME": place["dbname"],
        "CONN_HEALTH_CHECKS": TUNED,
        "OPTIONS": {"pool": psycopg_settings()},
    }
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="of no consequence",
        ROOT_URLCONF=(path("", index), path("health", health)),
        USE_TZ=True,
        DATABASES={"default": database},
    )
    app = get_wsgi_application()
    if TUNED:
        connection.ensure_connection()  # opens the pool, whose other connections open meanwhile
        connection.close()
    return app


def asyncpg_pool() -> Any:
    """asyncpg's pool, opened in the lifespan.

    Defaults (magicstack.github.io/asyncpg/current/api, "Connection Pools"): min_size 10, closed
    after 5 minutes unused; max_size, by default 10 too, is given.
    """
    import asyncpg
    from psycopg.conninfo import conninfo_to_dict

    minimum, unused = min(10, SIZE), idle(5)
    settings: dict[str, Any] = {"min_size": minimum, "max_inactive_connection_lifetime": unused}
    if TUNED:
        # The same page: a fixed size, all of it opened by create_pool(), nothing closed for being
        # idle (0 switches that off), and bounds on what may take how long.
        settings = {"min_size": SIZE, "max_inactive_connection_lifetime": 0}
        settings |= {"command_timeout": 5, "timeout": 5}
    place: dict[str, Any] = conninfo_to_dict(DSN)
    where = {name: place.get(name) for name in ("host", "user", "password")}
    where |= {"port": int(place["port"]), "database": place["dbname"]}
    pools: list[Any] = []

    @asynccontextmanager
    async def opened() -> Any:
        async with asyncpg.create_pool(**where, max_size=SIZE, **settings) as pool:
            pools.append(pool)
            yield

    def connection() -> Any:
        return pools[0].acquire()

    return asgi(aborrowing(connection, "SELECT pg_sleep($1)", QUERY), opened)


app = globals()[os.environ["SERVICE_APP"]]()
