"""What psycopg_pool's own class does where ours promises something else, one beside the other.

The traps that need a server or a network to fail are in test_death.py, lost connections are in
test_leaks.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg_pool
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from poolguard.errors import ForkError
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.sync import GuardedPool
from tests.pool.support import Face, Kind, in_child, in_loop

PLAIN: dict[Kind, Callable[..., Any]] = {"sync": ConnectionPool, "async": AsyncConnectionPool}
GUARDED: dict[Kind, Callable[..., Any]] = {"sync": GuardedPool, "async": AsyncGuardedPool}


def face(kind: Kind, made: Any) -> Face:
    """A pool of any class behind the face that both kinds have."""
    pool = Face.__new__(Face)
    pool.kind, pool.pool, pool.name = kind, made, made.name
    return pool


async def slowest_of_a_burst(pool: Face, n: int) -> float:
    """Seconds until *n* that ask at once all have a connection, which they keep till then."""
    await pool.call("open")
    began = monotonic()
    conns = await asyncio.gather(*(pool.get(timeout=20) for _ in range(n)))
    took = monotonic() - began
    await pool.put(*conns)
    await pool.close()
    return took


@in_loop
async def test_a_pool_grows_by_one_connection_at_a_time(kind: Kind, slow_dsn: str) -> None:
    """Ten at once wait for ten connects, one after the other; ours are there in the time of a few.

    The ratio of both counts: this machine may be slow."""
    arguments: dict[str, Any] = {"min_size": 0, "max_size": 10, "open": False}
    theirs = await slowest_of_a_burst(face(kind, PLAIN[kind](slow_dsn, **arguments)), 10)
    ours = await slowest_of_a_burst(face(kind, GUARDED[kind](slow_dsn, **arguments)), 10)
    assert theirs > 3 * ours


@in_loop
async def test_waiting_for_the_floor_in_vain_closes_the_pool_for_good(kind: Kind) -> None:
    """Both do, as it is documented; :meth:`wait_warm` is ours, and leaves the pool open."""
    nowhere = "host=127.0.0.1 port=1"
    for make in (PLAIN[kind], GUARDED[kind]):
        pool = face(kind, make(nowhere, min_size=1, open=False))
        await pool.call("open")
        with pytest.raises(psycopg_pool.PoolTimeout):
            await pool.call("wait", 0.1)
        assert pool.pool.closed
    pool = face(kind, GUARDED[kind](nowhere, min_size=1, open=False))
    await pool.call("open")
    assert not await pool.call("wait_warm", 0.1)
    assert not pool.pool.closed
    await pool.close()


def backend_of_a_child(pool: Any) -> str:
    """Which server session a child gets that uses its parent's pool."""

    def child() -> object:
        try:
            return pool.getconn(timeout=1).info.backend_pid
        except ForkError:
            return "ForkError"

    return in_child(child)


def test_after_a_fork_the_child_is_given_its_parents_connections(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=1) as theirs:
        theirs.wait()
        with theirs.connection() as conn:
            shared = str(conn.info.backend_pid)
        assert backend_of_a_child(theirs) == shared
    with GuardedPool(dsn, min_size=1, max_size=1) as ours:
        ours.wait()
        assert backend_of_a_child(ours) == "ForkError"
        with ours.connection() as conn:
            conn.execute("SELECT 1")
