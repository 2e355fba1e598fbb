"""What a setting can take: in words, and as a parser."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ..errors import SettingsError
from .shown import Plain, shown
from .urls import is_postgresql, plain_url

__all__ = [
    "ANY_PERCENT",
    "AUTO",
    "DSN",
    "FOLDER",
    "HISTORY_TABLE",
    "LABEL",
    "URL_PATH",
    "Auto",
    "Dsn",
    "Kind",
    "Percent",
    "Taken",
    "one_of",
    "seconds",
    "whole",
]

Auto: TypeAlias = Literal["auto"]
Dsn: TypeAlias = str | Callable[[], str]
Kind: TypeAlias = Literal["sync", "async"]
"""Of a pool, and of the guard that has it."""

_MOST = 10**9
"""Of whole numbers and of seconds alike: files hold no larger number, and no clock needs one."""
_LEAST = 0.001
"""Seconds: what is due again sooner would keep a processor busy, or is over before it began."""


class Percent(Plain):
    """A part of the server's capacity: ``Percent(80)`` is what ``"80%"`` says.

    Raises :exc:`SettingsError` unless ``value`` is above 0 and at most 100.
    """

    __slots__ = ("_value",)

    def __init__(self, value: float) -> None:
        try:
            number = _number(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= 100:
            raise SettingsError(f"Percent({shown(value)}): it takes more than 0, up to 100")
        self._value = float(number)

    @property
    def value(self) -> float:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Percent) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Percent, self._value))

    def __repr__(self) -> str:
        return f"Percent({self._value!r})"

    def __str__(self) -> str:
        return f"{shown(self.value)}%"


class Taken(NamedTuple):
    """What a setting takes: in words, and as a parser that raises ``ValueError`` at all else."""

    takes: str
    parse: Callable[[object], Any]

    def __or__(self, other: Taken) -> Taken:
        def parse(value: object) -> Any:
            try:
                return self.parse(value)
            except ValueError:
                return other.parse(value)

        return Taken(f"{self.takes}, or {other.takes}", parse)


def _number(value: object) -> int | float:
    """Read a number, or a plain decimal text; the caller judges its range, inf and nan included."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)", value):
        return float(value) if "." in value else int(value)
    raise ValueError


def whole(least: int) -> Taken:
    def parse(value: object) -> int:
        number = _number(value)
        if not isinstance(number, int) or not least <= number <= _MOST:
            raise ValueError
        return int(number)

    return Taken(f"a whole number from {least} to {_MOST}", parse)


def seconds(*, zero: bool = False) -> Taken:
    def parse(value: object) -> float:
        number = _number(value)
        # written so that nan, which compares false with everything, is refused
        if not (_LEAST <= number <= _MOST or (number == 0 and zero)):
            raise ValueError
        return float(number)

    least = f"0 or at least {_LEAST:g}" if zero else f"at least {_LEAST:g}"
    return Taken(f"seconds, {least} and at most {_MOST}", parse)


def _text(pattern: str, takes: str, make: Callable[[str], object] = str) -> Taken:
    def parse(value: object) -> object:
        if isinstance(value, str | Path) and re.fullmatch(pattern, str(value)):
            return make(str(value))
        raise ValueError

    return Taken(takes, parse)


def one_of(literal: Any) -> Taken:
    choices = get_args(literal)

    def parse(value: object) -> object:
        if isinstance(value, str) and value in choices:
            return choices[choices.index(value)]  # and no subclass of str
        raise ValueError

    return Taken(" or ".join(map(repr, choices)), parse)


def _parse_path(text: str) -> Path:
    os.fsencode(text)  # its UnicodeEncodeError is a ValueError
    return Path(text)


def _parse_percent(value: object) -> Percent:
    if isinstance(value, Percent):
        return value
    if isinstance(value, str) and value.endswith("%"):
        return Percent(_number(value[:-1]))
    raise ValueError


def _parse_dsn(value: object) -> Dsn | None:
    if isinstance(value, str):
        # libpq would take a foreign URL for a keyword and complain with fragments of it
        if re.match(r"[\w+.-]+://", value) and not is_postgresql(value):
            raise ValueError
        return plain_url(value) or None
    if callable(value):
        return value  # what it returns shows when it is called
    raise ValueError


AUTO = one_of(Auto)
ANY_PERCENT = Taken("a percentage above 0% and up to 100%, such as '80%'", _parse_percent)
DSN = Taken("a libpq string, a postgresql:// URL or a callable for one", _parse_dsn)
# absolute: a relative one would be another folder in each worker that changes its directory
FOLDER = _text(r"/[^\0\n]*", "the absolute path of a folder", _parse_path)
# It is shown in errors and tables, so what may be a conninfo is none.
LABEL = _text(
    r"(?i:(?!.*(?:://|=|:.*@|passw)))[!-~]{1,100}",
    "a name of up to 100 ASCII letters, digits and signs, without spaces, and no dsn",
)
_NAME, _SERVICE = "[A-Za-z_][A-Za-z0-9_]{0,62}", "[A-Za-z0-9_-]{1,63}"
HISTORY_TABLE = _text(
    rf"database:(?:{_NAME}\.{_NAME}(?::{_SERVICE})?|{_SERVICE})",
    "'database:' and a table, as in 'database:ops.history', the service's name, as in "
    "'database:billing', or both, as in 'database:ops.history:billing'",
)
# As servers hand it on: with nothing encoded, and not beyond ASCII, where WSGI and ASGI differ.
URL_PATH = _text(
    r"/[!$&-;=@-Z^_a-z~|]*",
    "a path that begins with '/', in ASCII letters, digits and signs, without query, % or spaces",
)
