"""The tables of a run in Markdown, from the very data that is written as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..table import Row

__all__ = ["markdown", "table"]


def markdown(
    commands: Sequence[str],
    environment: Mapping[str, str],
    measured: Mapping[str, Mapping[str, Any]],
    drawings: Sequence[str],
) -> str:
    """The whole page."""
    lines = ["# What the benchmarks measured", "", "```sh", *commands, "```", ""]
    lines += [f"{name} {value}  " for name, value in environment.items()]
    lines += [
        "",
        "Each figure is the median of the rounds, in brackets the lowest and the highest.",
    ]
    for name, value in measured.items():
        lines += ["", f"## {name}"]
        for part in value.get("parts", {}).values():
            lines += ["", *table(part)]
        own = [drawing for drawing in drawings if drawing.startswith(f"{name.partition('.')[0]}-")]
        for drawing in own:
            lines += ["", f"![{drawing.replace('-', ' ')}]({drawing}.svg)"]
    return "\n".join(lines) + "\n"


def table(part: Mapping[str, Any]) -> Iterator[str]:
    """One table, from :meth:`benchmarks.table.Table.as_json`."""
    rows = [_row(row) for row in part["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    yield f"**{part['title']}**"
    yield ""
    yield "| " + " | ".join(["", *names, "goal", ""]) + " |"
    yield "|---|" + "---:|" * len(names) + "---|---|"
    for row in rows:
        cells = [row.cell(name) for name in names]
        yield "| " + " | ".join([row.who, *cells, row.goal, row.verdict]) + " |"
    if part["notes"]:
        yield ""
        for note in part["notes"]:
            yield f"- {note}"


def _row(row: Mapping[str, Any]) -> Row:
    figures = {
        name: [math.inf if value is None else value for value in values]
        for name, values in row["figures"].items()
    }
    return Row(row["who"], figures, row["goals"])
