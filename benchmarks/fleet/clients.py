"""Clients of a fleet: each asks one host, and asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from time import monotonic

__all__ = ["GIVE_UP", "Clients", "Reply", "queries"]

GIVE_UP = 30.0
"""Seconds after which a client waits no longer for its answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request came to. Times by the monotonic clock."""

    host: str
    path: str
    began: float
    ended: float
    status: int
    """0 where there was no answer."""
    worker: int
    """Who answered; 0 where that is not known."""
    said: str
    """What the worker said of a failure, or how the connection ended."""

    def __str__(self) -> str:
        took = self.ended - self.began
        return (
            f"{self.host} /{self.path} {self.status} by {self.worker} in {took:.2f} s: {self.said}"
        )


def queries(low: float, high: float) -> Callable[[Random], str]:
    """Paths of queries that take from *low* to *high* seconds."""
    return lambda rng: f"{rng.uniform(low, high):.3f}"


class Clients:
    """Clients of many hosts, in a thread of their own; a context manager.

    :param path: what the next request is for.
    """

    def __init__(self, path: Callable[[Random], str], seed: int = 1) -> None:
        self.replies: list[Reply] = []
        self.discarding: set[str] = set()
        """Hosts whose requests let go of all that their sessions have set and locked."""
        self._path = path
        self._rng = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clients", daemon=True)
        self._there: dict[str, list[Future[None]]] = {}
        self._leaving: set[str] = set()

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Requests that are under way are waited for."""
        for host in list(self._there):
            self.withdraw(host)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, host: str, address: tuple[str, int], n: int) -> None:
        """Have *n* clients ask *host* from now on."""
        self._leaving.discard(host)
        self._there.setdefault(host, []).extend(
            asyncio.run_coroutine_threadsafe(self._client(host, address), self._loop)
            for _ in range(n)
        )

    def stop(self, host: str) -> None:
        """Its clients begin no more requests."""
        self._leaving.add(host)

    def withdraw(self, host: str) -> None:
        """The same, and wait for the requests that are under way."""
        self.stop(host)
        for client in self._there.pop(host, ()):
            client.result()

    async def _client(self, host: str, address: tuple[str, int]) -> None:
        while host not in self._leaving:
            path = ("discard/" if host in self.discarding else "") + self._path(self._rng)
            began = monotonic()
            status, worker, said = await _ask(address, path)
            self.replies.append(Reply(host, path, began, monotonic(), status, worker, said))
            if not status:
                await asyncio.sleep(0.05)  # as a balancer would, before it tries that host again


async def _answer(address: tuple[str, int], path: str) -> str:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(f"GET /{path} HTTP/1.0\r\nHost: fleet\r\n\r\n".encode())
        return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()


async def _ask(address: tuple[str, int], path: str) -> tuple[int, int, str]:
    """The status, the worker and the text of the answer."""
    try:
        answer = await asyncio.wait_for(_answer(address, path), GIVE_UP)
    except (OSError, asyncio.TimeoutError) as error:
        return 0, 0, repr(error)
    head, _, body = answer.partition("\r\n\r\n")
    words = head.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return 0, 0, "the connection ended without an answer"
    named = [line[9:].strip() for line in head.split("\r\n") if line.startswith("X-Worker:")]
    return int(words[1]), int(named[0]) if named else 0, "" if words[1] == "200" else body.strip()
