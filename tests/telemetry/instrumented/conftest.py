"""Guards that are open and warm, each of whose acquires has a span."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from poolguard import Guard

T = TypeVar("T")
Serve = Callable[[Callable[[Guard], Awaitable[T]]], T]


@pytest.fixture
def guard(dsn: str) -> Iterator[Guard]:
    """For threads."""
    with Guard(dsn, mode="sync", name="sync", budget=4, floor=2, spans="all") as guard:
        assert guard.open(10)
        yield guard


@pytest.fixture
def serve(dsn: str) -> Serve[object]:
    """Runs a coroutine with a guard of its loop."""

    def serve(visit: Callable[[Guard], Awaitable[object]]) -> object:
        async def run() -> object:
            async with Guard(dsn, mode="async", budget=4, floor=2, spans="all") as guard:
                assert await guard.aopen(10)
                return await visit(guard)

        return asyncio.run(run())

    return serve
