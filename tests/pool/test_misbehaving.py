"""Listeners that raise or block: the pool goes on, and its counts stay right."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from poolguard.budget.static import StaticLedger
from poolguard.pool.events import Listener
from poolguard.util.clock import now as clock

from .support import Face, Kind, at_rest, eventually, in_loop, opened

EVENTS = ["acquire_ended", "connected", "closed", "warmed", "connect_failed", "leak"]
KINDS: list[Kind] = ["sync", "async"]


class Failing(Listener):
    """Raises when it is told of one kind of event."""

    def __init__(self, event: str, error: BaseException | None = None) -> None:
        self.calls = 0
        self._error = error or RuntimeError("no such backend")
        setattr(self, event, self._fail)

    def _fail(self, event: Any, /) -> None:
        self.calls += 1
        raise self._error


class Blocking(Listener):
    """Blocks when it is told of one kind of event, until it is released."""

    def __init__(self, event: str) -> None:
        self.blocks = threading.Event()
        self.released = threading.Event()
        setattr(self, event, self._block)

    def _block(self, event: Any, /) -> None:
        self.blocks.set()
        assert self.released.wait(60)


@contextmanager
def blocking(event: str) -> Iterator[Blocking]:
    listener = Blocking(event)
    try:
        yield listener
    finally:
        listener.released.set()


async def live(face: Face, admin: psycopg.Connection[Any]) -> None:
    """All that can happen: growth, returns, death, replacement."""
    for _ in range(3):
        await face.put(*await face.get_all(3))
    await eventually(lambda: face.status()["opening"] == 0)
    made = sum(face.status()["created"].values())
    face.kill(admin)
    await eventually(lambda: sum(face.status()["closed"].values()) >= made)
    await eventually(lambda: face.status()["idle"] >= 1)
    conn = await face.get()
    await face.execute(conn, "SELECT 1")
    await face.put(conn)


@pytest.mark.parametrize("event", ["acquire_ended", "connected", "closed", "warmed"])
@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_one_that_raises_changes_nothing(
    kind: Kind,
    event: str,
    dsn: str,
    admin: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every acquire is served, every connection comes back, and it is said ever more rarely."""
    listener, ledger = Failing(event), StaticLedger(3)
    async with opened(kind, dsn, min_size=1, max_size=3, listener=listener, ledger=ledger) as face:
        await live(face, admin)
        await eventually(lambda: at_rest(face, ledger))
        assert sum(face.status()["acquires"].values()) == 10
        assert face.status()["leaks"] == {}
    await eventually(lambda: ledger.in_use == 0)
    said = [record for record in caplog.records if record.name == "poolguard"]
    assert len(said) == listener.calls.bit_length() > 0  # the 1st, 2nd, 4th, 8th … time
    assert all("a listener failed" in record.getMessage() for record in said)
    assert str(psycopg.conninfo.conninfo_to_dict(dsn)["password"]) not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_one_that_raises_when_a_connect_fails(kind: Kind, dsn: str) -> None:
    """It is tried again all the same."""
    listener = Failing("connect_failed")
    nowhere = psycopg.conninfo.make_conninfo(dsn, dbname="nowhere")
    async with opened(kind, nowhere, warm=False, min_size=1, listener=listener) as face:
        await eventually(lambda: listener.calls >= 2)
        assert face.status()["used"] == 0


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_one_that_raises_when_told_of_a_leak(kind: Kind, dsn: str) -> None:
    """The connection that was held for too long comes back."""
    listener = Failing("leak")
    async with opened(
        kind, dsn, min_size=1, max_size=1, leak_after=0.05, listener=listener
    ) as face:
        conn = await face.get()
        await eventually(lambda: listener.calls == 1)
        await face.put(conn)
        assert listener.calls == 2
        assert (face.status()["idle"], face.status()["used"]) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_what_is_to_end_the_process_leaves_the_connection_in_the_pool(
    kind: Kind, dsn: str
) -> None:
    """As a timeout of gevent's that strikes while an exporter waits: it is no ``Exception``."""

    class Timeout(BaseException):
        pass

    listener = Failing("acquire_ended", Timeout())
    async with opened(kind, dsn, min_size=1, max_size=1, listener=listener) as face:
        for _ in range(2):
            with pytest.raises(Timeout):
                await face.get()
        assert (face.status()["idle"], face.status()["used"]) == (1, 0)
        assert face.status()["acquires"] == {"acquired": 2}


@pytest.mark.parametrize("event", ["connected", "closed", "warmed"])
@in_loop
async def test_one_that_blocks_does_not_stop_the_pool(
    event: str, dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """Growth, verification and replacement go on, though it blocks for ever.

    An async pool tells on its loop, where nothing can help.
    """
    with blocking(event) as listener:
        async with opened(
            "sync", dsn, min_size=1, max_size=3, check_interval=0.05, listener=listener
        ) as face:
            await live(face, admin)
            assert listener.blocks.wait(10)
            await live(face, admin)
            then = clock()
            await eventually(lambda: any(s.proved_at > then for s in face.pool._core.idle))
            listener.released.set()  # or closing would wait for it, as long as it may


@in_loop
async def test_one_that_blocks_when_told_of_a_leak_does_not_stop_the_pool(dsn: str) -> None:
    with blocking("leak") as listener:
        async with opened(
            "sync", dsn, min_size=1, max_size=3, leak_after=0.05, listener=listener
        ) as face:
            conn = await face.get()
            assert await face.call("wait_warm", 10)
            await eventually(listener.blocks.is_set)
            others = await face.get_all(2)
            listener.released.set()
            await face.put(conn, *others)


@in_loop
async def test_one_that_blocks_when_a_connect_fails_is_tried_again_all_the_same(dsn: str) -> None:
    nowhere = psycopg.conninfo.make_conninfo(dsn, dbname="nowhere")
    with blocking("connect_failed") as listener:
        async with opened("sync", nowhere, warm=False, min_size=1, listener=listener) as face:
            await eventually(listener.blocks.is_set)
            first = face.pool._keeper.outage.last_error
            assert first
            begun: set[int | None] = set()

            def tried_again() -> bool:
                begun.update(t.ident for t in threading.enumerate() if t.name.endswith("-connect"))
                return len(begun) >= 3

            await eventually(tried_again)
            listener.released.set()


@in_loop
async def test_one_that_blocks_delays_the_closing_by_no_more_than_its_time(dsn: str) -> None:
    with blocking("warmed") as listener:
        async with opened("sync", dsn, min_size=1, listener=listener) as face:
            await eventually(listener.blocks.is_set)
            await face.call("close", 0.1)
            assert face.pool.closed
            listener.released.set()


@in_loop
async def test_an_acquire_that_is_held_up_holds_up_no_other(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that blocks in one acquire: the pool's lock is free, and others are served."""
    caplog.set_level(logging.ERROR, "poolguard")

    class Once(Listener):
        def __init__(self) -> None:
            self.blocks, self.released = threading.Event(), threading.Event()

        def acquire_ended(self, event: Any, /) -> None:
            if not self.blocks.is_set():
                self.blocks.set()
                assert self.released.wait(60)

    listener = Once()
    async with opened("sync", dsn, min_size=1, max_size=3, listener=listener) as face:
        held_up = threading.Thread(target=lambda: face.pool.putconn(face.pool.getconn()))
        held_up.start()
        await eventually(listener.blocks.is_set)
        await face.put(*await face.get_all(2))
        assert face.status()["used"] == 1
        listener.released.set()
        held_up.join(10)
        assert face.status()["used"] == 0
        assert sum(face.status()["acquires"].values()) == 3
