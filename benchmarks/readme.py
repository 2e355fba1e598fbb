"""The tables of benchmarks/README.md: each benchmark writes its own, between its two marks."""

from __future__ import annotations

import os
import statistics
import tempfile
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


def replaced(text: str, name: str, lines: Sequence[str]) -> str:
    """*text* with *lines* between the marks of a benchmark, and all else as it was.

    Raises LabError where a mark is missing, or there twice.
    """
    before, mark, rest = text.partition(begin(name))
    inside, end, after = rest.partition(END)
    if not mark or not end or "<!-- table:" in inside:
        raise LabError(f"it needs {begin(name).strip()} and {END.strip()} after it, on own lines")
    if begin(name) in after:
        raise LabError(f"it has {begin(name).strip()} twice")
    return "".join([before, mark, *(f"{line}\n" for line in lines), end, after])


def check(path: Path, name: str, lines: Sequence[str] = ()) -> str:
    """What the file *path* would be. Raises LabError where it or a mark is missing."""
    try:
        return replaced(path.read_text(encoding="utf-8"), name, lines)
    except (OSError, LabError) as error:
        raise LabError(f"{name} cannot be written to {path.name}: {error}") from None


def write(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between a benchmark's marks, as a whole or not at all.

    The new text is written beside the file, and takes its place at once. Raises LabError where the
    file or a mark is missing.
    """
    text = check(path, name, lines)
    descriptor, beside = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(beside, path.stat().st_mode & 0o777)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
