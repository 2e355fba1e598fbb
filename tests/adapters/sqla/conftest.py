"""Engines whose guards are open on purpose, a process that is a worker, and what a wire carries."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, Engine, create_engine, exc
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import poolguard.sqlalchemy
from poolguard.worker import registry
from poolguard.worker.context import WorkerContext

from ...doors.conftest import backends, janitor, serve

__all__ = ["Wire", "backends", "janitor", "serve", "url_of"]

Make = Callable[..., Engine]
Run = Callable[..., Any]
SMALL = {"floor": 2, "budget": 4, "acquire_timeout": 0.5}

plugins = importlib.import_module("sqlalchemy.engine.url").plugins
try:
    plugins.load("poolguard")
except exc.NoSuchModuleError:  # a checkout that is not installed has no entry points
    plugins.register("poolguard", "poolguard.sqlalchemy", "PoolGuardPlugin")


def url_of(dsn: str, driver: str = "psycopg") -> URL:
    """The URL of an engine for a connection string of libpq's."""
    said = conninfo_to_dict(dsn)
    return URL.create(
        f"postgresql+{driver}",
        username=str(said["user"]),
        password=str(said["password"]),
        host=str(said["host"]),
        port=int(str(said["port"])),
        database=str(said["dbname"]),
        query={k: str(v) for k, v in said.items() if k in ("application_name", "options")},
    )


@pytest.fixture
def url(dsn: str) -> URL:
    return url_of(dsn)


@pytest.fixture
def pooled(url: URL) -> Iterator[Make]:
    """Makes engines that are pooled until the test ends."""
    with ExitStack() as stack:

        def make(to: URL | str = url, *, settings: Any = None, **arguments: Any) -> Engine:
            settings = {**SMALL, **(settings or {})}
            engine = create_engine(to, plugins=["poolguard"], poolguard=settings, **arguments)
            stack.enter_context(poolguard.sqlalchemy.guard(engine))
            return engine

        yield make


@pytest.fixture
def run(url: URL) -> Run:
    """Runs a coroutine function with an async engine that is pooled meanwhile."""

    def run(
        main: Callable[[AsyncEngine], Awaitable[Any]], *, settings: Any = None, **arguments: Any
    ) -> Any:
        async def pooled() -> Any:
            engine = create_async_engine(
                make_url(url).set(drivername="postgresql+psycopg_async"),
                plugins=["poolguard"],
                poolguard={**SMALL, **(settings or {})},
                **arguments,
            )
            async with poolguard.sqlalchemy.guard(engine):
                return await main(engine)

        return asyncio.run(pooled())

    return run


@pytest.fixture
def worker() -> Iterator[None]:
    """This process is a worker of gunicorn's."""
    registry.become(WorkerContext(role="worker"))
    yield
    gc.collect()


@contextmanager
def Wire(conn: Any, folder: Path) -> Iterator[Callable[[], list[str]]]:
    """While the block runs: what *conn* sends as queries."""
    path = folder / "wire"
    with path.open("w+b") as file:
        conn.pgconn.trace(file.fileno())
        try:
            yield lambda: [
                line for line in path.read_text().splitlines() if "\tF\t" in line and '"' in line
            ]
        finally:
            conn.pgconn.untrace()
