"""PostgreSQL's wire protocol, as far as a stand-in for a server needs it: messages and values.

Protocol 3.0, after the PostgreSQL manual, "Frontend/Backend Protocol". Values are written and read
by psycopg's own dumpers and loaders, so that what a script gives is what an application would have
been given by a server.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "Column",
    "Reader",
    "columns_of",
    "complete",
    "data_row",
    "error",
    "message",
    "python_value",
    "row_description",
]

_TEXT, _TEXT_ARRAY, _INT8 = 25, 1009, 20
_LARGEST = 2**63
_EMPTY = (b"{}", struct.pack("!iii", 0, 0, _TEXT))
"""An array of nothing, as text and in binary."""


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message of the server's."""
    return kind + struct.pack("!I", 4 + len(body)) + body


def error(severity: str, sqlstate: str, text: str) -> bytes:
    """An ErrorResponse, of which psycopg makes the exception that belongs to *sqlstate*."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    told = "".join(f"{key}{value}\0" for key, value in fields.items())
    return message(b"E", told.encode() + b"\0")


def complete(tag: str) -> bytes:
    """A CommandComplete, which says what was done and to how many rows."""
    return message(b"C", tag.encode() + b"\0")


class Reader:
    """Reads the fields of one message of the client's, in their order."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, n: int) -> bytes:
        """The next *n* bytes."""
        self._at += n
        return self._body[self._at - n : self._at]

    def text(self) -> str:
        """What comes before the next zero byte."""
        end = self._body.index(b"\0", self._at)
        found = self._body[self._at : end]
        self._at = end + 1
        return found.decode(errors="replace")

    def integer(self, size: int = 2) -> int:
        """A signed integer of so many bytes."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def integers(self, size: int = 2) -> list[int]:
        """A list of integers, after their number."""
        return [self.integer(size) for _ in range(self.integer())]

    def values(self) -> list[bytes | None]:
        """A list of values, after their number; None for NULL."""
        return [
            None if (length := self.integer(4)) < 0 else self.take(length)
            for _ in range(self.integer())
        ]


class Column(NamedTuple):
    """A column of a result, as one format has it."""

    name: str
    oid: int
    format: int
    values: list[bytes | None]


def columns_of(
    names: Sequence[str], rows: Sequence[Sequence[Any]], formats: Sequence[int]
) -> list[Column]:
    """The columns of *rows*, in the *formats* that a client has asked for: 0 is text, 1 binary; one
    for all or one for each, none for text.

    Raises :exc:`psycopg.Error` where psycopg does not know how to write a value.
    """
    of_each = [*formats] * len(names) if len(formats) == 1 else [*formats] or [0] * len(names)
    return [_column(name, [row[n] for row in rows], of_each[n]) for n, name in enumerate(names)]


def _column(name: str, values: Iterable[Any], format_: int) -> Column:
    from psycopg.adapt import PyFormat, Transformer

    transformer = Transformer()
    wished = PyFormat.BINARY if format_ else PyFormat.TEXT
    oid, written = 0, list[bytes | None]()
    for value in values:
        if value is None:
            written.append(None)
            continue
        plain = _as_one_type(value)
        dumper = transformer.get_dumper(plain, wished)
        is_empty = isinstance(plain, list) and not plain  # of which nobody knows the type
        dumped = _EMPTY[format_] if is_empty else dumper.dump(plain)
        written.append(None if dumped is None else bytes(dumped))
        oid = oid or dumper.oid or (_TEXT_ARRAY if isinstance(plain, list) else _TEXT)
    return Column(name, oid or _TEXT, format_, written)


def _as_one_type(value: Any) -> Any:
    """Integers of any size as bigint, since a column has one type; a dict as jsonb."""
    from psycopg.types.json import Jsonb
    from psycopg.types.numeric import Int8

    if type(value) is int and -_LARGEST <= value < _LARGEST:
        return Int8(value)
    return Jsonb(value) if isinstance(value, dict) else value


def row_description(columns: Sequence[Column]) -> bytes:
    """What a client is told of a result before its rows."""
    fields = b"".join(
        column.name.encode()
        + b"\0"
        + struct.pack("!IhIhih", 0, 0, column.oid, -1, -1, column.format)
        for column in columns
    )
    return message(b"T", struct.pack("!h", len(columns)) + fields)


def data_row(values: Sequence[bytes | None]) -> bytes:
    """One row."""
    body = b"".join(
        struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
        for value in values
    )
    return message(b"D", struct.pack("!h", len(values)) + body)


def python_value(value: bytes | None, oid: int, format_: int) -> Any:
    """A parameter, as psycopg would read it back."""
    from psycopg.adapt import Transformer
    from psycopg.pq import Format

    if value is None:
        return None
    loader = Transformer().get_loader(oid, Format.BINARY if format_ else Format.TEXT)
    return loader.load(value)
