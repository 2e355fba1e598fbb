"""uvicorn: has it read what it has accepted before it is told of SIGTERM.

Told, it closes each connection whose request it has not read yet, however soon that would come: at
each reload under load some requests are reset. It has no hook between the signal and that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

__all__ = ["tell_when_read"]

GOES_ON = 0.1
"""Seconds for which it goes on accepting: the longest that it may by itself, since its main loop
looks ten times a second whether it is to end."""
PASSES = 5
"""How often the event loop goes round between the last accept and the word: from an accept to the
request's first byte it takes four passes of asyncio's."""
PASS = 0.005
"""Seconds that each of them takes at least, for a client whose first byte is late."""


class _Server(Protocol):
    """What is used of ``uvicorn.Server``."""

    started: bool
    servers: Iterable[asyncio.Server]


def tell_when_read(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], Any], Any], None]:
    """How to pass on a signal: the function that does so is called when what was accepted is read.

    At once, where the handler, the second argument, is not that of a uvicorn that serves.
    """
    telling: set[asyncio.Task[None]] = set()  # the loop itself would let a task go

    def tell(pass_on: Callable[[], Any], handler: Any) -> None:
        server = _server_of(handler)
        if server is None or not server.started or loop.is_closed():
            pass_on()
            return

        def begin() -> None:
            task = loop.create_task(_read_and_tell(loop, server, pass_on))
            telling.add(task)
            task.add_done_callback(telling.discard)

        loop.call_soon_threadsafe(begin)  # which a handler of signals may do

    return tell


def _server_of(handler: Any) -> _Server | None:
    server = getattr(handler, "__self__", None)
    return cast("_Server", server) if type(server).__module__ == "uvicorn.server" else None


async def _read_and_tell(
    loop: asyncio.AbstractEventLoop, server: _Server, pass_on: Callable[[], Any]
) -> None:
    try:
        await asyncio.sleep(GOES_ON)
        for each in server.servers:
            _accept_no_more(loop, each)
        for _ in range(PASSES):
            await asyncio.sleep(PASS)
    finally:
        pass_on()


def _accept_no_more(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    """Leave what is in the listener's backlog to the workers that come next.

    asyncio's server must not be closed for it: until Python 3.12 at least, that loses a connection
    that it has accepted in this pass. uvloop's reads from no selector, and loses none.
    """
    stopped = [loop.remove_reader(listener.fileno()) for listener in server.sockets]
    if not all(stopped):
        server.close()
