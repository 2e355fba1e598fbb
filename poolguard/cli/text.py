"""Plain text for terminals, files and pipes: aligned columns, wrapped lines, no colour."""

from __future__ import annotations

import html
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from textwrap import TextWrapper

from ..util.escape import escaped

__all__ = [
    "columns",
    "columns_to_fit",
    "encodable",
    "markup",
    "plural",
    "say",
    "sessions",
    "span",
    "speaks_unicode",
    "terminal_width",
    "wrapped",
]

WIDEST = 100
"""Wider lines are no easier to read."""

_ASCII = str.maketrans(
    {"÷": "/", "×": "x", "−": "-", "–": "-", "…": ".", "→": ">", "·": ",", "µ": "u", "’": "'"}
)
"""What replaces characters that an encoding lacks."""


def say(lines: Iterable[str]) -> None:
    """Print *lines*; where the encoding has no Unicode, in ASCII.

    What could end a line, or what a terminal would obey, is escaped in each of them.
    """
    print(encodable("\n".join(map(escaped, lines)), sys.stdout.encoding or "ascii"))


def encodable(text: str, encoding: str) -> str:
    """*text*, or its ASCII replacement where *encoding* lacks one of its characters."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def markup(text: str) -> str:
    """*text* escaped for a web page."""
    return html.escape(escaped(text))


def speaks_unicode() -> bool:
    """Whether standard output can take the characters that trees and bars are drawn with."""
    drawn = "█├─└│·µ"
    return encodable(drawn, sys.stdout.encoding or "ascii") == drawn


def terminal_width(widest: int = WIDEST) -> int:
    """How many columns to fill: the terminal's, but no more than *widest*."""
    return min(shutil.get_terminal_size((WIDEST, 24)).columns, widest)


def columns_to_fit() -> int | None:
    """The terminal's columns; None for a file or a pipe, which take lines of any length."""
    return shutil.get_terminal_size((WIDEST, 24)).columns if sys.stdout.isatty() else None


def span(seconds: float) -> str:
    """A time in a unit that suits it: ``90 s``, ``12 min``, ``3 h 20 min``."""
    seconds = int(seconds)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def plural(n: int, noun: str) -> str:
    """*noun*, or its plural unless *n* is 1."""
    return noun if n == 1 else f"{noun}s"


def sessions(n: int, role: str, application: str) -> str:
    """*n* connections of one role and application: ``3 of alice (psql)``."""
    return f"{n} of {role} ({application})" if application else f"{n} of {role}"


def columns(
    rows: Iterable[Sequence[str]], right: Collection[int] = (), blanks: int = 2
) -> list[str]:
    """The rows as lines of aligned columns, *blanks* apart; those in *right* are right-aligned."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    between = " " * blanks
    return [
        between.join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def wrapped(
    text: str, first: str = "", indent: int | None = None, width: int | None = None
) -> list[str]:
    """*text* in lines no wider than *width*: the first begins with *first*, the rest is indented.

    *width* is the terminal's by default, and never more than 100.
    """
    width = terminal_width() if width is None else min(width, WIDEST)
    rest = " " * (len(first) if indent is None else indent)
    wrapper = TextWrapper(
        max(width, len(rest) + 40),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.wrap(text)
