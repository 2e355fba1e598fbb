"""Asks the server one thing over a connection, outside of any transaction: sync and async I/O.

The connection's own row factory, transaction mode and prepared statements are left as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

__all__ = ["async_autocommit", "async_row", "autocommit", "one_row"]


@contextmanager
def autocommit(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """What is set for a session is undone with a transaction that rolls back: open none."""
    before = conn.autocommit
    conn.autocommit = True
    yield
    conn.autocommit = before


@asynccontextmanager
async def async_autocommit(conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    before = conn.autocommit
    await conn.set_autocommit(True)
    yield
    await conn.set_autocommit(before)


def one_row(
    conn: psycopg.Connection[Any], query: str, values: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    from psycopg import Cursor
    from psycopg.rows import dict_row

    with Cursor(conn, row_factory=dict_row) as cursor:
        row = cursor.execute(query, values, prepare=False).fetchone()
    assert row is not None
    return row


async def async_row(
    conn: psycopg.AsyncConnection[Any], query: str, values: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    from psycopg import AsyncCursor
    from psycopg.rows import dict_row

    async with AsyncCursor(conn, row_factory=dict_row) as cursor:
        row = await (await cursor.execute(query, values, prepare=False)).fetchone()
    assert row is not None
    return row
