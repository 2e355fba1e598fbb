"""uvicorn at SIGTERM: what it has accepted it reads, before it is told and closes it unread."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from poolguard import Guard
from poolguard.asgi import PoolGuardMiddleware
from poolguard.lab.server import listen
from poolguard.worker import uvicorn as _uvicorn
from poolguard.worker.uvicorn import (
    GOES_ON,
    PASS,
    PASSES,
    tell_when_read,
)

from ..runtime.test_guard import SMALL

TICK = 0.1
"""Seconds between two looks of uvicorn's main loop at whether it is to end."""
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def at_the_end() -> Iterator[list[int]]:
    """uvicorn raises the signal again when it is done, for the handler of before."""
    raised: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: raised.append(number))
    yield raised
    signal.signal(signal.SIGTERM, before)


class Late(H11Protocol):
    """Connections that are accepted just when the signal comes to a loop that is busy.

    The main loop's next look is due before the request, which has arrived, can be read.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        signal.raise_signal(signal.SIGTERM)
        until = time.monotonic() + LATE
        while time.monotonic() < until:
            pass


LATE = max(TICK, GOES_ON) + 0.05


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application without lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read"})


async def serve(
    app: Any, protocol: Any, meanwhile: Callable[[socket.socket], Awaitable[Any]]
) -> Any:
    """What came of *meanwhile*, while a uvicorn served until it was told to end."""
    with listen() as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listener.dup()]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0)
        came = await meanwhile(listener)
        await asyncio.wait_for(serving, 10)
        return came


def guarded(dsn: str) -> PoolGuardMiddleware:
    return PoolGuardMiddleware(answer, Guard(dsn, mode="async", **SMALL))


async def get(listener: socket.socket) -> bytes:
    """The whole response; raises ConnectionError where the connection is reset."""
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(REQUEST)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def test_a_request_that_was_accepted_before_the_signal_is_read(
    dsn: str, at_the_end: list[int]
) -> None:
    said = asyncio.run(serve(guarded(dsn), Late, get))
    assert said.startswith(b"HTTP/1.1 200")
    assert b"read" in said
    assert at_the_end == [signal.SIGTERM]


def test_by_itself_uvicorn_closes_it_unread(at_the_end: list[int]) -> None:
    """Why there is something to do at all; where this fails, uvicorn does it itself by now."""

    async def reset(listener: socket.socket) -> bytes:
        try:
            return await get(listener)
        except ConnectionError:
            return b""

    assert asyncio.run(serve(answer, Late, reset)) == b""


def test_who_comes_later_is_left_to_the_next_worker(
    dsn: str, at_the_end: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not accepted: the listener, which workers share, still has it."""

    stopped = asyncio.Event()
    stop = _uvicorn._accept_no_more

    def stop_and_tell(*given: Any) -> None:
        stop(*given)
        stopped.set()

    monkeypatch.setattr(_uvicorn, "_accept_no_more", stop_and_tell)

    def next_worker(listener: socket.socket) -> None:
        listener.settimeout(10)
        conn, _ = listener.accept()
        with conn:
            assert conn.recv(1024) == REQUEST
            conn.sendall(b"from the next")

    async def late(listener: socket.socket) -> bytes:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(stopped.wait(), 10)
        said, _ = await asyncio.gather(get(listener), asyncio.to_thread(next_worker, listener))
        return said

    assert asyncio.run(serve(guarded(dsn), H11Protocol, late)) == b"from the next"


# -- whoever is told at once -------------------------------------------------------------------


class Other:
    started = True
    servers = ()

    def handle_exit(self, number: int, frame: Any) -> None: ...


def test_the_handler_of_another_server_is_called_at_once() -> None:
    told: list[str] = []
    loop = asyncio.new_event_loop()
    tell = tell_when_read(loop)
    tell(lambda: told.append("a function's"), lambda *_: None)
    tell(lambda: told.append("a method's"), Other().handle_exit)
    assert told == ["a function's", "a method's"]
    loop.close()


@pytest.mark.parametrize("closed", [False, True])
def test_a_uvicorn_that_does_not_serve_is_told_at_once(closed: bool) -> None:
    """During the lifespan's startup it has no listener yet; and at its end, maybe no loop."""
    told: list[str] = []
    loop = asyncio.new_event_loop()
    server = uvicorn.Server(uvicorn.Config(answer))
    server.started = closed
    if closed:
        loop.close()
    tell_when_read(loop)(lambda: told.append("at once"), server.handle_exit)
    assert told == ["at once"]
    loop.close()


def test_it_is_told_though_its_listeners_cannot_be_had() -> None:
    """A signal that gets lost is a worker that has to be killed."""
    told: list[str] = []

    async def end() -> None:
        server = uvicorn.Server(uvicorn.Config(answer))
        server.started = True  # but ``servers`` is not there
        tell_when_read(asyncio.get_running_loop())(lambda: told.append("yes"), server.handle_exit)
        await asyncio.sleep(GOES_ON + PASSES * PASS)
        while not told:
            await asyncio.sleep(PASS)

    asyncio.run(asyncio.wait_for(end(), 10))
    assert told == ["yes"]
