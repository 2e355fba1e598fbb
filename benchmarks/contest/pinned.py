"""An open-loop load over connections that are kept: each goes to one worker, and stays with it.

So does a proxy or a load balancer that keeps its connections: how much a worker gets was decided
when they were made. As in the lab's load, each request is timed from when it is meant to start.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from poolguard.errors import LabError
from poolguard.lab.result import Sample
from poolguard.lab.story import Phase

__all__ = ["Share", "drive_pinned", "phases"]

AT_ONCE = 8
PINNED_WITHIN = 15.0
"""Seconds in which the kernel should have given a connection to every worker."""
GIVE_UP = 15.0

_HEAD = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.S | re.I)
_WORKER = re.compile(rb"\r\nx-worker: (\d+)\r\n", re.I)


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker gets."""

    rate: float
    """Requests per second."""
    connections: int
    """How many requests it may have at once: more wait in the load's own queue, and are timed."""


def phases(samples: Sequence[Sample], phase: str) -> list[Sample]:
    """The samples of one phase."""
    return [sample for sample in samples if sample.phase == phase]


def drive_pinned(
    address: tuple[str, int], story: Sequence[Phase], shares: Sequence[Share]
) -> tuple[list[Sample], float, float]:
    """Send to each worker its share for as long as *story* lasts, whose own rates do not count.

    The busiest worker is the one to which the kernel gives the most connections. Returns the
    samples, the worst own lag in seconds, and when it began. Raises LabError where there are not as
    many workers as shares.
    """
    return asyncio.run(_drive(address, story, shares))


async def _drive(
    address: tuple[str, int], story: Sequence[Phase], shares: Sequence[Share]
) -> tuple[list[Sample], float, float]:
    shares = sorted(shares, key=lambda share: -share.connections)
    due = sorted(
        (at, phase, nth)
        for nth, share in enumerate(shares)
        for at, phase in _arrivals(story, share.rate)
    )
    pending: list[asyncio.Task[Sample]] = []
    lag = 0.0
    async with _pinned(address, shares) as groups:
        began = monotonic()
        for at, phase, nth in due:
            if (ahead := began + at - monotonic()) > 0:
                await asyncio.sleep(ahead)
            lag = max(lag, monotonic() - began - at)
            pending.append(asyncio.create_task(_request(groups[nth], began, at, phase)))
        samples = await asyncio.gather(*pending)
    return list(samples), lag, began


def _arrivals(story: Sequence[Phase], rate: float) -> list[tuple[float, str]]:
    found = []
    start = 0.0
    for phase in story:
        found += [(start + nth / rate, phase.name) for nth in range(round(phase.seconds * rate))]
        start += phase.seconds
    return found


async def _request(free: _Free, began: float, at: float, phase: str) -> Sample:
    try:
        status = await asyncio.wait_for(_ask(free), GIVE_UP)
    except (OSError, asyncio.TimeoutError):
        status = 0
    return Sample(at, monotonic() - began - at, status, phase)


async def _ask(free: _Free) -> int:
    """One request over whichever is free next; one that is lost is never free again."""
    connection = await free.get()
    status = await connection.ask(b"/")
    free.put_nowait(connection)
    return status


class _Kept(asyncio.Protocol):
    """A connection over which one request after the other is sent."""

    def __init__(self) -> None:
        self.worker = 0
        self.lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[int] | None = None

    async def ask(self, path: bytes) -> int:
        """The HTTP status. Raises ConnectionError where the connection is lost."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the worker has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"GET %b HTTP/1.1\r\nHost: skew\r\n\r\n" % path)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = _HEAD.match(self._received)
        if head is None or len(self._received) < head.end() + int(head[2]):
            return
        if worker := _WORKER.search(head[0]):
            self.worker = int(worker[1])
        self._received = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the worker closed the connection"))

    async def close(self) -> None:
        """Abort it, and wait until its socket is closed."""
        if self._transport is not None:
            self._transport.abort()
            await self.lost.wait()


_Free = asyncio.Queue[_Kept]
"""Those connections to one worker that have no request under way."""


@asynccontextmanager
async def _pinned(address: tuple[str, int], shares: Sequence[Share]) -> AsyncIterator[list[_Free]]:
    """To each worker as many connections as its share needs; the busiest share comes first."""
    held: list[_Kept] = []
    try:
        by_worker = await _spread(address, shares, held)
        groups: list[_Free] = []
        for mine, share in zip(by_worker, shares, strict=False):
            free: _Free = asyncio.Queue()
            for connection in mine[: share.connections]:
                free.put_nowait(connection)
            groups.append(free)
        yield groups
    finally:
        for connection in held:
            await connection.close()


async def _spread(
    address: tuple[str, int], shares: Sequence[Share], held: list[_Kept]
) -> list[list[_Kept]]:
    """Connect until each worker has enough; who has the most comes first.

    The kernel chooses the worker: nobody can ask for one.
    """
    until = monotonic() + PINNED_WITHIN
    while True:
        made = [
            connection
            for _, connection in await asyncio.gather(*(_connect(address) for _ in range(AT_ONCE)))
        ]
        held += made
        await asyncio.gather(*(connection.ask(b"/health") for connection in made))
        by_worker: dict[int, list[_Kept]] = {}
        for connection in held:
            by_worker.setdefault(connection.worker, []).append(connection)
        groups = sorted(by_worker.values(), key=len, reverse=True)
        if len(groups) >= len(shares) and all(
            len(mine) >= share.connections for mine, share in zip(groups, shares, strict=False)
        ):
            return groups
        if monotonic() > until:
            raise LabError(
                f"the kernel does not spread connections over {len(shares)} workers as it should: "
                f"after {PINNED_WITHIN:g} s they have {', '.join(str(len(g)) for g in groups)}"
            )


async def _connect(address: tuple[str, int]) -> tuple[asyncio.BaseTransport, _Kept]:
    return await asyncio.get_running_loop().create_connection(_Kept, *address)
