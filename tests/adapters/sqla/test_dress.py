"""A connection that was open before its engine was: what it is given that it lacks."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row, tuple_row
from psycopg.types.string import TextLoader

from poolguard.sqlalchemy.dress import dressed, dressed_async


class Loud(TextLoader):
    """Reads text in capitals."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


def wanted() -> dict[str, Any]:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("text", Loud)

    class Context:
        pass

    context: Any = Context()
    context.adapters = adapters
    return {
        "context": context,
        "row_factory": dict_row,
        "prepare_threshold": None,
        "cursor_factory": None,
        "autocommit": True,
        "client_encoding": "latin-1",
    }


QUERY = "SELECT 'loud'::text AS it, current_setting('client_encoding') AS encoding"
AS_WANTED = {"it": "LOUD", "encoding": "LATIN1"}


def test_it_becomes_as_if_it_had_connected_so(dsn: str) -> None:
    """What it is told lasts: it is told outside of a transaction."""
    with psycopg.connect(dsn) as conn:
        assert dressed(conn, wanted()) is conn
        assert conn.autocommit
        assert conn.prepare_threshold is None
        assert conn.cursor_factory is psycopg.Cursor
        row: Any = conn.execute(QUERY).fetchone()
        assert row == AS_WANTED


def test_an_async_one_does(dsn: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            assert await dressed_async(conn, wanted()) is conn
            assert conn.autocommit
            row: Any = await (await conn.execute(QUERY)).fetchone()
            assert row == AS_WANTED

    asyncio.run(main())


def test_what_is_as_it_is_to_be_is_not_asked_for(dsn: str) -> None:
    """In a transaction that has failed, the server would refuse to answer."""
    with psycopg.connect(dsn) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")
        dressed(conn, {"autocommit": False, "row_factory": tuple_row, "client_encoding": "utf-8"})
        conn.rollback()
