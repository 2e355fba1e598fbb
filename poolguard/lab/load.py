"""An open-loop HTTP load: each request starts when it is due, whatever became of those before it.

A closed loop waits for an answer before it asks again, and so leaves out the very requests that a
stall would have hit (coordinated omission). Here latency is counted from the moment at which a
request was *meant* to start, and the generator reports how late it was itself.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from time import monotonic

from .result import Sample
from .story import Arrival

__all__ = ["GIVE_UP", "drive"]

GIVE_UP = 15.0
"""Seconds after which a request counts as failed, unless the caller says otherwise."""

REQUEST = b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"


async def drive(
    address: tuple[str, int],
    arrivals: Sequence[Arrival],
    *,
    began: float,
    progress: Callable[[float], None] = lambda _: None,
    give_up: float = GIVE_UP,
) -> tuple[list[Sample], float]:
    """Send the requests of *arrivals* to *address*; returns the samples and the worst own lag.

    *began* is the moment, by the monotonic clock, from which the arrivals count. *progress* is
    called before each request with the seconds that have passed since then. A request that has no
    answer *give_up* seconds after it was sent counts as failed.
    """
    loop = asyncio.get_running_loop()
    pending: list[asyncio.Future[Sample]] = []
    lag = 0.0
    collects = gc.isenabled()
    gc.disable()  # a full collection, with all the requests that there were, would make it late
    try:
        for arrival in arrivals:
            due = began + arrival.at
            if (ahead := due - monotonic()) > 0:
                await asyncio.sleep(ahead)
            lag = max(lag, monotonic() - due)
            progress(arrival.at)
            pending.append(loop.create_task(_request(address, arrival, due, give_up)))
        samples = await asyncio.gather(*pending)
    finally:
        if collects:
            gc.enable()
    return list(samples), lag


async def _request(
    address: tuple[str, int], arrival: Arrival, due: float, give_up: float
) -> Sample:
    loop = asyncio.get_running_loop()
    exchange = _Exchange(loop)
    try:
        await asyncio.wait_for(_exchange(exchange, address), give_up)
    except (OSError, asyncio.TimeoutError):
        return Sample(arrival.at, monotonic() - due, 0, arrival.phase)
    finally:
        if exchange.transport is not None:
            exchange.transport.abort()
    return Sample(
        arrival.at, exchange.ended - due, exchange.status(), arrival.phase, exchange.created()
    )


async def _exchange(exchange: _Exchange, address: tuple[str, int]) -> None:
    await asyncio.get_running_loop().create_connection(lambda: exchange, *address)
    await exchange.done


class _Exchange(asyncio.Protocol):
    """One request and its response, which ends with the connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.ended = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = monotonic()
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(exc)

    def status(self) -> int:
        """The HTTP status; 0 where there was no answer, or none of HTTP."""
        parts = self._received.split(b" ", 2)
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0

    def created(self) -> bool:
        """Whether the request was given a connection opened while it waited, as the app says."""
        head = self._received.partition(b"\r\n\r\n")[0].lower()
        return b"\r\nx-connection: created" in head
