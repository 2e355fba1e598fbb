"""The tables of benchmarks/README.md: each benchmark writes its own, between its two marks."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from poolguard.errors import LabError
from poolguard.lab.binaries import find

from .table import Table, number

README = Path(__file__).with_name("README.md")
END = "<!-- end -->\n"


class Place(NamedTuple):
    """Where a figure stands: in which part's table, in whose row, under which name."""

    part: str
    who: str
    figure: str


@dataclass(frozen=True, slots=True)
class Digest:
    """Of a benchmark's tables what a stranger reads: one small table of medians."""

    heads: Sequence[str]
    rows: Mapping[str, Sequence[Sequence[Place]]]
    """By their first cell; each other cell has one figure or more, divided by a slash."""

    def lines(self, tables: Mapping[str, Table]) -> list[str]:
        """In Markdown; a figure that is not there is a dash, and a row without any is left out."""
        found = {
            Place(part, row.who, name): number(statistics.median(values))
            for part, table in tables.items()
            for row in table.rows
            for name, values in row.figures.items()
        }
        lines = [f"{os.cpu_count()} cores, PostgreSQL {find().version}; medians of the rounds:", ""]
        lines += ["| " + " | ".join(["", *self.heads]) + " |", "|---|" + "---|" * len(self.heads)]
        for first, cells in self.rows.items():
            if any(place in found for cell in cells for place in cell):
                told = (" / ".join(found.get(place, "–") for place in cell) for cell in cells)
                lines.append("| " + " | ".join([first, *told]) + " |")
        return lines


def begin(name: str) -> str:
    """The line before a benchmark's table."""
    return f"<!-- table:{name} -->\n"


def write(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between a benchmark's marks. Raises LabError where a mark is missing."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(begin(name))
    inside, end, after = rest.partition(END)
    if not mark or not end or "<!-- table:" in inside:
        raise LabError(f"{path.name} needs {begin(name).strip()} and {END.strip()}, on own lines")
    new = "".join(f"{line}\n" for line in lines)
    path.write_text("".join([before, mark, new, end, after]), encoding="utf-8")
