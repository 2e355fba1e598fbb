"""A table of columns, of which some are left out where a terminal is too narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..util.escape import escaped
from .text import columns

__all__ = ["Column", "fitted", "shortened", "trimmed"]

R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column of rows that are made of an *R* each."""

    head: str
    cell: Callable[[R], object]
    goes: int = 0
    """The order in which columns are dropped where the terminal is too narrow; 0 always stays."""
    right: bool = True


def fitted(shown: Sequence[Column[R]], rows: Sequence[R], width: int | None) -> list[str]:
    """The head and the rows, no wider than *width* where that is possible; None: any width."""
    lines = _lines(shown, rows)
    if width is None or _widest(lines) <= width:
        return lines
    gone = [0, *sorted(column.goes for column in shown if column.goes)]
    for last in gone:
        left = [column for column in shown if not 0 < column.goes <= last]
        lines = _lines(left, rows, blanks=1)
        if _widest(lines) <= width:
            break
    return lines


def shortened(lines: list[str], room: int) -> list[str]:
    """As many lines as there is room for; the last one says how many more there are."""
    if len(lines) <= room:
        return lines
    if room < 1:
        return []
    return [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]


def trimmed(lines: Iterable[str], width: int, height: int) -> list[str]:
    """The lines, cut to the width and the height of the terminal."""
    fitting = [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
    return fitting[:height]


def _lines(shown: Sequence[Column[R]], rows: Iterable[R], blanks: int = 2) -> list[str]:
    table = [[column.head for column in shown]]
    table += [[escaped(str(column.cell(row))) for column in shown] for row in rows]
    return columns(table, [n for n, column in enumerate(shown) if column.right], blanks)


def _widest(lines: Iterable[str]) -> int:
    return max(map(len, lines))
