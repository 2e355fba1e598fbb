"""Asks the server one question over an idle connection: sync and async I/O.

A question goes through libpq's own connection, and the bytes of its answer are read. So it does not
depend on what the application has set up, and changes none of it: loaders, factories, prepared
statements, the transaction mode, and the instrumentation that traces what the application executes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

__all__ = [
    "Row",
    "Values",
    "answer",
    "async_answer",
    "async_rows",
    "one_row",
    "rows",
    "rows_of",
]

ANSWER_TIMEOUT = 5000
"""Milliseconds after which the server gives up a question."""

PREFACE = f"""
SET LOCAL statement_timeout = {ANSWER_TIMEOUT};
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = {ANSWER_TIMEOUT};
SET LOCAL ROLE NONE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL extra_float_digits = 3;
SELECT CASE WHEN current_setting('transaction_timeout', true) <> '0'
            THEN set_config('transaction_timeout', '0', true) END;
"""
"""Settings for one question alone: what is sent as one message is one transaction.

The application, or its role, may have set any of these otherwise. The server would then answer too
late, to another role, by functions of the application's, or with fewer digits."""

WRITING = "SET TRANSACTION READ WRITE;"
"""Before the first query: later the server refuses it."""

Row = Mapping[str, Any]
Values = Mapping[str, int | str | Sequence[int]]


def answer(conn: psycopg.Connection[Any]) -> None:
    """Have the server give a sign of life, or raise :exc:`psycopg.Error`."""
    conn.wait(_ask(conn, ""))


async def async_answer(conn: psycopg.AsyncConnection[Any]) -> None:
    """As :func:`answer`."""
    await conn.wait(_ask(conn, ""))


def rows(
    conn: psycopg.Connection[Any], query: str, values: Values | None = None, *, writes: bool = False
) -> list[Row]:
    """What the server answers to *query*, in which *values* stand for ``%(name)s``.

    Integers, floats and booleans of a row have these types, as have arrays of integers, and
    anything else is text.

    :param writes: it writes, also where the application has its transactions read-only.

    Raises :exc:`psycopg.Error`.
    """
    return conn.wait(_ask(conn, _asked(query, values, writes=writes)))


async def async_rows(
    conn: psycopg.AsyncConnection[Any],
    query: str,
    values: Values | None = None,
    *,
    writes: bool = False,
) -> list[Row]:
    """As :func:`rows`."""
    return await conn.wait(_ask(conn, _asked(query, values, writes=writes)))


def one_row(conn: psycopg.Connection[Any], query: str, values: Values | None = None) -> Row:
    """The only row of :func:`rows`."""
    [row] = rows(conn, query, values)
    return row


def _asked(query: str, values: Values | None, *, writes: bool = False) -> str:
    preface = WRITING + PREFACE if writes else PREFACE
    if values is None:
        return preface + query
    return preface + query % {name: _literal(value) for name, value in values.items()}


def _literal(value: int | str | Sequence[int]) -> str:
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):  # whatever the session's encoding, and how it reads backslashes
        return f"convert_from(decode('{value.encode(errors='replace').hex()}', 'hex'), 'UTF8')"
    return "'{" + ",".join(str(int(n)) for n in value) + "}'"


def _ask(
    conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], query: str
) -> PQGen[list[Row]]:
    """Put *query* to the server, as what the ``wait()`` of a connection runs."""
    from psycopg.errors import error_from_result
    from psycopg.generators import execute
    from psycopg.pq import ExecStatus

    conn.pgconn.send_query(query.encode())
    results = yield from execute(conn.pgconn)
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result, encoding=conn.info.encoding)
    return rows_of(results[-1])


_READ: Mapping[int, Callable[[bytes], Any]] = {
    16: lambda value: value == b"t",
    20: int,
    21: int,
    23: int,
    700: float,
    701: float,
    1007: lambda value: [int(each) for each in value[1:-1].split(b",") if each],
}
"""How the types bool, int8, int2, int4, float4, float8 and int4[] are read, by their oids."""


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def rows_of(result: PGresult) -> list[Row]:
    """The rows of an answer, as :func:`rows` has them."""
    columns = [
        ((result.fname(n) or b"").decode(), _READ.get(result.ftype(n), _text))
        for n in range(result.nfields)
    ]
    return [
        {
            name: None if (value := result.get_value(row, n)) is None else read(value)
            for n, (name, read) in enumerate(columns)
        }
        for row in range(result.ntuples)
    ]
