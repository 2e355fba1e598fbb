"""Plain text for terminals, files and pipes: aligned columns, wrapped lines, no colour."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from textwrap import TextWrapper

__all__ = ["columns", "say", "wrapped"]

WIDEST = 100
"""Wider lines are no easier to read."""

_ASCII = str.maketrans({"÷": "/", "×": "x", "−": "-", "–": "-", "…": ".", "→": ">"})


def say(lines: Iterable[str]) -> None:
    """Print *lines*; where the encoding has no Unicode, in ASCII."""
    text = "\n".join(lines)
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    print(text)


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned columns, two blanks apart; those in *right* are right-aligned."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def wrapped(text: str, first: str = "", indent: int | None = None) -> list[str]:
    """*text* in lines no wider than the terminal, the first after *first*, the rest indented."""
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    rest = " " * (len(first) if indent is None else indent)
    wrapper = TextWrapper(
        max(width, len(rest) + 40),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.wrap(text)
