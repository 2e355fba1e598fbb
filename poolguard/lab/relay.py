"""The slow proxy's own process: it passes on what clients and a server send, late or not at all.

:class:`~poolguard.lab.proxy.SlowProxy` starts it and sends it commands, a line of JSON each.
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
from collections.abc import Callable, Mapping
from typing import Any, cast

from .ports import PORTS

__all__ = ["Relay"]

_HELD_MOST = 1 << 20  # bytes held in one direction, before their sender is slowed down
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0: close() sends RST


class Relay:
    """The state that all links go by, and the commands that change it."""

    def __init__(self) -> None:
        self.connect_delay = 0.0
        self.latency = 0.0
        self.target = ("", 0)
        self.flowing = asyncio.Event()
        """Cleared while nothing is let through."""
        self.flowing.set()
        self.links: set[Link] = set()
        self.accepted = 0
        self._listener: socket.socket | None = None
        self._beginning: set[asyncio.Task[Any]] = set()
        self._address = ("", 0)
        self._commands: Mapping[str, Callable[..., Mapping[str, object] | None]] = {
            "set": self._set,
            "open": self._open,
            "blackhole": self._blackhole,
            "refuse": self._refuse,
            "resume": self._resume,
            "reset_all": self._reset_all,
            "silence_all": self._silence_all,
            "forget_all": self._forget_all,
            "stats": self._stats,
        }

    def obey(self, do: str, **arguments: Any) -> Mapping[str, object]:
        """Carry out the command *do*; returns what there is to answer."""
        if do not in self._commands:
            return {"error": f"unknown command {do!r}"}
        return self._commands[do](**arguments) or {}

    def _set(self, connect_delay: float | None, latency: float | None) -> None:
        if connect_delay is not None:
            self.connect_delay = connect_delay
        if latency is not None:
            self.latency = latency

    def _open(self, host: str, port: int, target: tuple[str, int]) -> Mapping[str, object]:
        self.target = target[0], target[1]
        tries = 1 if port else 100
        while self._listener is None:
            tries -= 1
            self._address = (host, port or random.choice(PORTS))
            with contextlib.suppress(OSError) if tries else contextlib.nullcontext():
                self._listen(*self._address)
        return {"port": self._address[1]}

    def _blackhole(self) -> None:
        self.flowing.clear()
        self._regulate()

    def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _resume(self) -> None:
        self._listen(*self._address)
        self.flowing.set()
        self._regulate()

    def _reset_all(self) -> None:
        for link in list(self.links):
            link.reset()

    def _silence_all(self) -> None:
        for link in self.links:
            link.silence()

    def _forget_all(self) -> None:
        for link in list(self.links):
            link.silence()
            link.client.reset()

    def _stats(self) -> Mapping[str, object]:
        return {"open": len(self.links), "accepted": self.accepted}

    def _listen(self, host: str, port: int) -> None:
        # This is no server of asyncio's. One that is closed between an accept and the task that
        # goes on with it leaves the client a socket that is never read.
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
                    loop.connect_accepted_socket(lambda: Link(self).client, sock)
                )
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)

    def _regulate(self) -> None:
        for link in self.links:
            link.client.regulate()
            link.server.regulate()


class Link:
    """One client's connection, and the connection to the server that belongs to it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client = End(self)
        self.server = End(self)
        self.client.other = self.server
        self.server.other = self.client
        self._silent = False
        self._connecting: asyncio.Task[None] | None = None

    def made(self, end: End) -> None:
        if end is self.client:
            self.relay.accepted += 1
            self.relay.links.add(self)
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        self.client.regulate()
        self.server.regulate()
        self.client.flush()

    @property
    def open(self) -> bool:
        """Whether anything is let through."""
        return self.relay.flowing.is_set() and not self._silent

    def silence(self) -> None:
        self._silent = True
        if self._connecting is not None and self.server.transport is None:
            self._connecting.cancel()
        for end in (self.client, self.server):
            end.regulate()

    async def _connect(self) -> None:
        await asyncio.sleep(self.relay.connect_delay)
        await self.relay.flowing.wait()
        host, port = self.relay.target
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, host, port)
        except OSError:
            self.reset()

    def lost(self, error: Exception | None) -> None:
        if error is not None:
            self.reset()
        if self.client.lost and (self.server.lost or self.server.transport is None):
            self.relay.links.discard(self)

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


class End(asyncio.Protocol):
    """One of a link's two sockets: what arrives here is written to the other one.

    After each change :meth:`regulate` derives from the state alone whether it reads.
    """

    other: End

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._full = False  # the outgoing buffer of this socket
        self._ended = False  # what arrives here: its end has been read
        self.passed_on = False  # and that end has been written to the other socket
        # What arrived and is still held: when it is due, and its bytes (b"" at the stream's end).
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
        due = self._loop.time() + self._link.relay.latency
        self._held.append((due, data))
        self._held_bytes += len(data)
        self.flush()
        if self._held_bytes > _HELD_MOST:
            self.regulate()

    def flush(self) -> None:
        """Write to the other socket what is due, in order; call this again when more is due."""
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
    relay = Relay()
    # An owner that was killed before it read its answer shows as an error instead of end-of-file.
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            command = json.loads(line)
            number = command.pop("number")
            try:
                answer = relay.obey(**command)
            except OSError as error:
                answer = {"error": str(error)}
            print(json.dumps({"number": number, **answer}), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
