"""A guard is not ready while acquires only time out, and is again once one may succeed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg_pool
import pytest

import poolguard
import poolguard.asgi
import poolguard.wsgi
from poolguard import Guard

from ..doors.test_asgi import run, scope_of
from ..doors.test_readiness import application, get
from ..pool.support import eventually
from ..support import until

PATIENCE = 0.2
"""The acquire_timeout of guards that are to be stuck soon."""


def settings(mode: str, patience: float = PATIENCE, **more: Any) -> dict[str, Any]:
    """Those of a guard of one connection."""
    one = {"budget": 2, "floor": 1, "max_size": 1, "acquire_timeout": patience}
    return {"mode": mode, **one, "ready_path": "/ready", **more}


@pytest.fixture
def guard(dsn: str) -> Iterator[Guard]:
    with Guard(dsn, **settings("sync")) as guard:
        assert says(guard) is True
        yield guard


def says(guard: Guard) -> bool:
    """Whether it is ready, as it says everywhere. Time alone may change that between two looks."""
    while True:
        ready, told, stuck = guard.ready, guard.status()["ready"], guard.pool.stuck
        if ready == guard.ready:
            break
    assert told == ready
    assert not (ready and stuck)
    return ready


@contextmanager
def held(guard: Guard) -> Iterator[None]:
    """Its only connection is in use."""
    with guard.connection() as conn:
        conn.execute("SELECT 1")
        yield


def in_vain(guard: Guard, timeout: float | None = None) -> None:
    """Acquire until that times out."""
    with pytest.raises(psycopg_pool.PoolTimeout), guard.connection(timeout):
        pass


async def ain_vain(guard: Guard, timeout: float | None = None) -> None:
    with pytest.raises(psycopg_pool.PoolTimeout):
        async with guard.aconnection(timeout):
            pass


# -- sync --------------------------------------------------------------------------------------


def test_while_acquires_only_time_out_it_is_not_ready(guard: Guard) -> None:
    """It stays so, also between two of them, until a connection is returned."""
    with held(guard):
        for _ in range(2):
            in_vain(guard)
            until(lambda: not says(guard))
            assert guard.pool.stuck
            assert guard.pool.warm
        assert not says(guard)
    assert says(guard)
    assert not guard.pool.stuck
    with guard.connection() as conn:
        assert conn.execute("SELECT 7").fetchone() == (7,)
        assert says(guard)


def test_those_that_still_wait_make_it_so_too(guard: Guard) -> None:
    """And once one of them is served it is ready, though it has the connection now."""
    served, done = threading.Event(), threading.Event()

    def patient() -> None:
        with guard.connection(timeout=20):
            served.set()
            done.wait(20)

    thread = threading.Thread(target=patient)
    with held(guard):
        thread.start()
        until(lambda: guard.pool.stuck)
        assert guard.status()["waiting"] == 1
        assert not says(guard)
    assert served.wait(10)
    assert guard.status()["used"] == 1
    assert says(guard)
    done.set()
    thread.join(10)


def test_a_wait_that_is_shorter_does_not(dsn: str) -> None:
    """Whether it is under way, or was in vain."""
    with Guard(dsn, **settings("sync", 30.0)) as guard:
        pool: Any = guard.pool
        got: list[Any] = []  # what nobody refers to would be replaced, with none there meanwhile
        thread = threading.Thread(target=lambda: got.append(pool.getconn()))
        with held(guard):
            in_vain(guard, timeout=0.3)
            assert says(guard)
            thread.start()
            until(lambda: guard.status()["waiting"] == 1)
            assert says(guard)
        thread.join(10)
        assert says(guard)
        pool.putconn(got.pop())


def test_where_nobody_has_asked_it_is_ready_however_long_all_are_held(
    guard: Guard, dsn: str
) -> None:
    """For longer than it takes another guard, of which somebody asks."""
    with held(guard), Guard(dsn, name="asked", **settings("sync", 2 * PATIENCE)) as asked:
        with held(asked):
            in_vain(asked)
            until(lambda: not says(asked))
            assert says(guard)
        assert says(asked)


def test_where_a_new_connection_serves_it_is_ready_again(dsn: str) -> None:
    """The one that was held is held still."""
    with Guard(dsn, **settings("sync")) as guard, held(guard):
        in_vain(guard)
        until(lambda: not says(guard))
        guard.pool.resize(1, 2)
        with guard.connection(timeout=10):
            assert says(guard)
        assert guard.status()["used"] == 1
        assert says(guard)


def test_the_wsgi_door_tells_it(guard: Guard) -> None:
    app = poolguard.wsgi.PoolGuardMiddleware(application)
    assert get(app, "/ready")[0] == "200 OK"
    with held(guard):
        assert get(app, "/ready")[0] == "200 OK"
        in_vain(guard)
        until(lambda: get(app, "/ready")[0] == "503 Service Unavailable")
        told = json.loads(get(app, "/ready")[2])
        assert (told["ready"], told["guards"][0]["ready"]) == (False, False)
        assert told["guards"][0]["acquires"]["timeout"] == 1
    assert get(app, "/ready")[0] == "200 OK"


# -- async -------------------------------------------------------------------------------------


def test_an_async_one_is_not_ready_either(dsn: str) -> None:
    guard = Guard(dsn, **settings("async"))

    async def main() -> None:
        async with guard:
            assert says(guard)
            async with guard.aconnection():
                assert says(guard)
                for _ in range(2):
                    await ain_vain(guard)
                    await eventually(lambda: not says(guard))
                    assert guard.pool.stuck
            assert says(guard)
            assert not guard.pool.stuck
            async with guard.aconnection():
                patient = asyncio.create_task(guard.pool.getconn(20))
                await eventually(lambda: not says(guard))
                assert guard.status()["waiting"] == 1
            conn = await patient
            assert guard.status()["used"] == 1
            assert says(guard)
            await guard.pool.putconn(conn)  # type: ignore[misc]

    run(main)


def test_who_has_lost_interest_does_not_make_an_async_one_so(dsn: str) -> None:
    """It was cancelled, and did not time out."""
    guard = Guard(dsn, **settings("async"))
    control = Guard(dsn, name="control", **settings("async", 2 * PATIENCE))

    async def main() -> None:
        async with guard, control, guard.aconnection(), control.aconnection():
            asking = asyncio.create_task(ain_vain(guard, 20))
            await eventually(lambda: guard.status()["waiting"] == 1)
            asking.cancel()
            await asyncio.wait({asking})
            await ain_vain(control)
            await eventually(lambda: not says(control))
            assert says(guard)

    run(main)


def test_shorter_waits_and_none_do_not_make_an_async_one_so(dsn: str) -> None:
    guard = Guard(dsn, **settings("async", 30.0))

    async def main() -> None:
        async with guard, guard.aconnection():
            assert says(guard)
            await ain_vain(guard, 0.3)
            assert says(guard)

    run(main)


def test_the_asgi_door_tells_it(dsn: str) -> None:
    guard = Guard(dsn, **settings("async"))
    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def ask() -> int:
        answers.clear()
        asked = {**scope_of(method="GET"), "path": "/ready"}
        await poolguard.asgi.PoolGuardMiddleware(app)(asked, None, send)  # type: ignore[arg-type]
        assert json.loads(answers[1]["body"])["ready"] == (answers[0]["status"] == 200)
        return int(answers[0]["status"])

    async def main() -> None:
        async with guard:
            async with guard.aconnection():
                assert await ask() == 200
                await ain_vain(guard)
                await eventually(lambda: not guard.ready)
                assert await ask() == 503
            assert await ask() == 200

    run(main)
