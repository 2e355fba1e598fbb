"""Acquires that find a connection free: told as events only where a listener wants to hear of them.

Each scenario runs with the sync and with the async pool.
"""

from __future__ import annotations

import asyncio

import pytest

from poolguard.pool.acquirer import Acquirer
from poolguard.pool.events import Listener, Listeners
from tests.pool.support import Kind, Recorder, eventually, in_loop, opened, serving


class Selective(Recorder):
    """Wants to hear of the others alone."""

    hears_immediate = False


class Request(Acquirer):
    """Counts what it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.acquires = 0
        self._error = error

    @property
    def label(self) -> str:
        return "GET /orders"

    def acquired(self) -> None:
        self.acquires += 1
        if self._error is not None:
            raise self._error


@in_loop
async def test_the_request_alone_is_told(kind: Kind, dsn: str) -> None:
    recorder, request = Selective(), Request()
    async with opened(kind, dsn, min_size=1, max_size=1, listener=recorder) as pool:
        with serving(request):
            for _ in range(2):
                await pool.put(await pool.get())
        assert (request.acquires, recorder.outcomes) == (2, [])
        assert pool.status()["acquires"] == {"acquired": 2}


@in_loop
async def test_of_one_that_waited_the_listener_is_told(kind: Kind, dsn: str) -> None:
    recorder, request = Selective(), Request()
    async with opened(kind, dsn, min_size=1, max_size=1, listener=recorder) as pool:
        conn = await pool.get()
        with serving(request):
            waiting = asyncio.create_task(pool.get())
        await eventually(lambda: pool.status()["waiting"] == 1)
        await pool.put(conn)
        await pool.put(await waiting)
        assert (request.acquires, recorder.outcomes) == (0, ["waited"])


@in_loop
async def test_where_one_listener_wants_all_every_listener_is_told(kind: Kind, dsn: str) -> None:
    """And so the request is not: a listener that tags it would count it twice."""
    selective, recorder, request = Selective(), Recorder(), Request()
    listener = Listeners([selective, recorder])
    async with opened(kind, dsn, min_size=1, max_size=1, listener=listener) as pool:
        with serving(request):
            await pool.put(await pool.get())
        assert (request.acquires, recorder.outcomes) == (0, ["acquired"])
        assert selective.outcomes == ["acquired"]


@in_loop
async def test_a_pool_that_nobody_listens_to_tells_nobody(kind: Kind, dsn: str) -> None:
    request = Request()
    async with opened(kind, dsn, min_size=1, max_size=1, listener=Listener()) as pool:
        with serving(request):
            await pool.put(await pool.get())
        assert request.acquires == 0


@in_loop
async def test_what_the_request_raises_loses_no_connection(
    kind: Kind, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request(ValueError("a span of somebody's own"))
    async with opened(kind, dsn, min_size=1, max_size=1, listener=Selective()) as pool:
        with serving(request):
            await pool.put(await pool.get())
        assert "could not be told of its acquire" in caplog.text
        assert (pool.status()["idle"], pool.status()["used"]) == (1, 0)
