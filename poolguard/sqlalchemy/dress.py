"""What an engine wants of a connection that is open already.

The hooks may have opened it before there was an engine; or it was opened before the dialect had
asked the server for its types, which the connection's adapters are to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.adapt import AdaptersMap

__all__ = ["dressed", "dressed_async"]

SETTABLE = frozenset({"cursor_factory", "prepare_threshold", "row_factory"})
"""What psycopg's ``connect()`` takes, and is an attribute of a connection."""
SET_ENCODING = "SELECT set_config('client_encoding', %s, false)"


def dressed(conn: Any, dress: Mapping[str, Any]) -> Any:
    """*conn*, with what of psycopg's ``connect(**dress)`` it lacks."""
    _put_on(conn, dress)
    if (autocommit := _autocommit(conn, dress)) is not None:
        conn.autocommit = autocommit
    if (encoding := _encoding(conn, dress)) is not None:
        conn.execute(SET_ENCODING, [encoding])
        conn.commit()
    return conn


async def dressed_async(conn: Any, dress: Mapping[str, Any]) -> Any:
    """As :func:`dressed`."""
    _put_on(conn, dress)
    if (autocommit := _autocommit(conn, dress)) is not None:
        await conn.set_autocommit(autocommit)
    if (encoding := _encoding(conn, dress)) is not None:
        await conn.execute(SET_ENCODING, [encoding])
        await conn.commit()
    return conn


def _put_on(conn: Any, dress: Mapping[str, Any]) -> None:
    for name in SETTABLE & dress.keys():
        if dress[name] is not None or name == "prepare_threshold":
            setattr(conn, name, dress[name])
    if (context := dress.get("context")) is not None:
        conn._adapters = AdaptersMap(context.adapters)  # as psycopg does when it connects


def _autocommit(conn: Any, dress: Mapping[str, Any]) -> bool | None:
    wanted = bool(dress.get("autocommit", False))
    return None if conn.autocommit == wanted else wanted


def _encoding(conn: Any, dress: Mapping[str, Any]) -> str | None:
    wanted: str | None = dress.get("client_encoding")
    said = conn.info.parameter_status("client_encoding") or ""
    return None if wanted is None or _plainly(wanted) == _plainly(said) else wanted


def _plainly(encoding: str) -> str:
    """As PostgreSQL compares the names of encodings."""
    return "".join(c for c in encoding.lower() if c.isalnum())
