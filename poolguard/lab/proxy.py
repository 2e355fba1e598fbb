"""A TCP proxy that makes connecting slow and breaks connections on command, as its own process.

Being a process, it takes no share of anybody's GIL; it ends when its owner does. It can do what
happens to byte streams: delays, silence, FIN, RST. It acknowledges what it reads, so it cannot
show what unacknowledged packets do (``tcp_user_timeout``, keepalives).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from .helper import Helper
from .ports import PORTS

__all__ = ["SlowProxy"]

_HELD_MOST = 1 << 20  # bytes of one direction on their way, before its sender is slowed down
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0: close() sends RST


class SlowProxy:
    """A proxy on 127.0.0.1 before one server; a context manager. Times are in seconds.

    A new connection is accepted at once and held for ``connect_delay`` before the proxy connects
    on to the server. Half-closes and resets are passed on as such; where the server refuses the
    connection, the client's is reset. Every method returns when the proxy has obeyed, and raises
    :class:`LabError` when it cannot.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        connect_delay: float = 0.1,
        latency: float = 0.0,
        port: int = 0,
    ) -> None:
        """``port`` 0 stands for a free one."""
        self.host = "127.0.0.1"
        self._target = target
        self._helper = Helper("poolguard.lab.proxy")
        try:
            self._helper.ask("set", connect_delay=connect_delay, latency=latency)
            opened = self._helper.ask("open", host=self.host, port=port, target=target)
        except BaseException:
            self._helper.close()
            raise
        self.port = int(opened["port"])

    def __repr__(self) -> str:
        return f"SlowProxy({self.host}:{self.port} -> {self._target[0]}:{self._target[1]})"

    def __enter__(self) -> SlowProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._helper.pid

    def set(self, *, connect_delay: float | None = None, latency: float | None = None) -> None:
        """Change what new connections wait, or what is added to each chunk in each direction."""
        self._helper.ask("set", connect_delay=connect_delay, latency=latency)

    def blackhole(self) -> None:
        """Let nothing through, neither data nor FIN nor RST, without a word to either side.

        As on a network that loses every packet, nothing is lost for good: what was sent meanwhile
        arrives after :meth:`resume`. New connections are accepted and hang.
        """
        self._helper.ask("blackhole")

    def refuse(self) -> None:
        """Stop listening: new connections are refused, those that exist go on."""
        self._helper.ask("refuse")

    def resume(self) -> None:
        """End :meth:`blackhole` and :meth:`refuse`; the port stays the same."""
        self._helper.ask("resume")

    def reset_all(self) -> None:
        """Reset every connection, towards the client and towards the server."""
        self._helper.ask("reset_all")

    def silence_all(self) -> None:
        """Let nothing more through on any connection there is now; new ones are not touched.

        As a firewall that has forgotten them all: neither side hears a word, for good.
        """
        self._helper.ask("silence_all")

    def stats(self) -> dict[str, int]:
        """``open``: clients' connections now; ``accepted``: since the start."""
        return self._helper.ask("stats")

    def close(self) -> None:
        """End the proxy and all its connections. Idempotent."""
        self._helper.close()


class _Proxy:
    """The proxy's process: the state that all links obey, and the commands that change it."""

    def __init__(self) -> None:
        self.connect_delay = 0.0
        self.latency = 0.0
        self.target = ("", 0)
        self.light = asyncio.Event()
        self.light.set()
        self.links: set[_Link] = set()
        self.accepted = 0
        self._listener: socket.socket | None = None
        self._beginning: set[asyncio.Task[Any]] = set()
        self._address = ("", 0)

    async def obey(self, command: Mapping[str, Any]) -> Mapping[str, object]:
        match command["do"]:
            case "set":
                self._set(command)
            case "open":
                self.target = tuple(command["target"])
                return {"port": self._open(command["host"], command["port"])}
            case "blackhole":
                self.light.clear()
                self._regulate()
            case "refuse":
                self._refuse()
            case "resume":
                self._listen(*self._address)
                self.light.set()
                self._regulate()
            case "reset_all":
                for link in list(self.links):
                    link.reset()
            case "silence_all":
                for link in self.links:
                    link.silence()
            case "stats":
                return {"open": len(self.links), "accepted": self.accepted}
            case unknown:
                return {"error": f"unknown command {unknown!r}"}
        return {}

    def _set(self, command: Mapping[str, Any]) -> None:
        if command["connect_delay"] is not None:
            self.connect_delay = command["connect_delay"]
        if command["latency"] is not None:
            self.latency = command["latency"]

    def _open(self, host: str, port: int) -> int:
        tries = 1 if port else 100
        while self._listener is None:
            tries -= 1
            self._address = (host, port or random.choice(PORTS))
            with contextlib.suppress(OSError) if tries else contextlib.nullcontext():
                self._listen(*self._address)
        return self._address[1]

    def _listen(self, host: str, port: int) -> None:
        # Not a server of asyncio's: one that is closed between an accept and the task which goes on
        # with it leaves that client a socket that nobody will ever read.
        if self._listener is None:
            self._listener = socket.create_server((host, port), backlog=1024)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                task = loop.create_task(
                    loop.connect_accepted_socket(lambda: _Link(self).client, sock)
                )
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)

    def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _regulate(self) -> None:
        for link in self.links:
            link.client.regulate()
            link.server.regulate()


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: _Proxy) -> None:
        self.proxy = proxy
        self.client = _End(self)
        self.server = _End(self)
        self.client.other = self.server
        self.server.other = self.client
        self._silent = False
        self._connecting: asyncio.Task[None] | None = None

    def made(self, end: _End) -> None:
        if end is self.client:
            self.proxy.accepted += 1
            self.proxy.links.add(self)
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        self.client.regulate()
        self.server.regulate()
        self.client.flush()

    @property
    def open(self) -> bool:
        """Whether anything is let through."""
        return self.proxy.light.is_set() and not self._silent

    def silence(self) -> None:
        self._silent = True
        if self._connecting is not None and self.server.transport is None:
            self._connecting.cancel()
        for end in (self.client, self.server):
            end.regulate()

    async def _connect(self) -> None:
        await asyncio.sleep(self.proxy.connect_delay)
        await self.proxy.light.wait()
        host, port = self.proxy.target
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, host, port)
        except OSError:
            self.reset()

    def lost(self, error: Exception | None) -> None:
        if error is not None:
            self.reset()
        if self.client.lost and (self.server.lost or self.server.transport is None):
            self.proxy.links.discard(self)

    def reset(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        for end in (self.client, self.server):
            end.reset()

    def close_if_done(self) -> None:
        if self.client.passed_on and self.server.passed_on:
            for end in (self.client, self.server):
                if end.transport is not None:
                    end.transport.close()


class _End(asyncio.Protocol):
    """One of a link's two sockets: what arrives here is written to the other one.

    Whether it reads is derived anew by :meth:`regulate` after each change, from the state alone.
    """

    other: _End

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._full = False  # this socket's own outgoing buffer
        self._ended = False
        self.passed_on = False  # the end of what arrived here
        # What arrived and is on its way: when it is due, and b"" for the end of the stream.
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        self._arrived(data)

    def eof_received(self) -> bool:
        if not self._ended:
            self._ended = True
            self._arrived(b"")
        return True  # the socket stays open for what the other side still has to say

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        self.other.regulate()

    def resume_writing(self) -> None:
        self._full = False
        self.other.regulate()

    def regulate(self) -> None:
        # Reading again after the end of the stream would report that end once more.
        if self.transport is None or self.lost or self._ended:
            return
        if (
            not self._link.open
            or self.other.transport is None
            or self.other._full
            or self._held_bytes > _HELD_MOST
        ):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        self.flush()

    def _arrived(self, data: bytes) -> None:
        due = self._loop.time() + self._link.proxy.latency
        self._held.append((due, data))
        self._held_bytes += len(data)
        self.flush()
        if self._held_bytes > _HELD_MOST:
            self.regulate()

    def flush(self) -> None:
        """Write to the other socket what is due, in order, and come back when the next is."""
        target = self.other.transport
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if target is None or self.other.lost or not self._link.open:
            return
        was_too_much = self._held_bytes > _HELD_MOST
        while self._held:
            due, data = self._held[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.flush)
                break
            self._held.popleft()
            self._held_bytes -= len(data)
            if data:
                target.write(data)
            else:
                target.write_eof()
                self.passed_on = True
                self._link.close_if_done()
        if was_too_much and self._held_bytes <= _HELD_MOST:
            self.regulate()

    def reset(self) -> None:
        if self.transport is None or self.lost:
            return
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    proxy = _Proxy()
    # An owner that was killed before it read its answer shows as an error instead of end-of-file.
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            command = json.loads(line)
            try:
                answer = await proxy.obey(command)
            except OSError as error:
                answer = {"error": str(error)}
            answer = {"number": command["number"], **answer}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
