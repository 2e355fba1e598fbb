"""How figures are shown and judged: a row a contender, each figure once a round, and its goal."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

__all__ = ["Progress", "Row", "Table", "ratios"]


def ratios(times: Sequence[float], units: Sequence[float]) -> list[float]:
    """Each round's time in the unit that was measured in the same round."""
    return [time / unit for time, unit in zip(times, units, strict=True)]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figures, each once a round, and what they ought to be at most."""

    who: str
    figures: Mapping[str, Sequence[float]]
    goals: Mapping[str, float] = field(default_factory=dict)

    def judged(self, name: str) -> float:
        """The figure that is compared with the goal: the median, or the worst where it is 0."""
        of = self.figures[name]
        return statistics.median(of) if self.goals[name] else max(of)

    @property
    def missed(self) -> list[str]:
        return [name for name, goal in self.goals.items() if not self.judged(name) <= goal]

    @property
    def verdict(self) -> str:
        if not self.goals:
            return ""
        missed = [f"{name} {_number(self.judged(name))}" for name in self.missed]
        return f"MISSED ({', '.join(missed)})" if missed else "met"

    def cell(self, name: str) -> str:
        """The median, and the lowest and highest where they differ; empty where it has none."""
        return _cell(self.figures[name]) if name in self.figures else ""

    @property
    def goal(self) -> str:
        """The goals in the order of the figures."""
        goals = [(name, self.goals[name]) for name in self.figures if name in self.goals]
        return ", ".join(f"{name} ≤ {goal:g}" if goal else f"{name} 0" for name, goal in goals)


@dataclass(frozen=True, slots=True)
class Table:
    """What one part has measured."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        lines = [["", *names, "goal", ""]]
        for row in self.rows:
            cells = [row.cell(name) for name in names]
            lines.append([row.who, *cells, row.goal, row.verdict])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [self.title]
        for who, *cells, verdict in lines:
            padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True)]
            text.append("  ".join([f"  {who:<{widths[0]}}", *padded, verdict]).rstrip())
        return "\n".join([*text, *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict[str, object]:
        rows = [
            {
                "who": row.who,
                "figures": {
                    name: [value if math.isfinite(value) else None for value in values]
                    for name, values in row.figures.items()
                },
                "goals": dict(row.goals),
                "missed": row.missed,
            }
            for row in self.rows
        ]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}


def _cell(values: Sequence[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    if low == high:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)}–{_number(high)})"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    if float(value).is_integer() or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


class Progress:
    """A line on stderr that says what is being done, where stderr is a terminal."""

    def __init__(self) -> None:
        self.part = ""
        self._began = perf_counter()

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            line = f"{perf_counter() - self._began:4.0f} s  {self.part}: {text}"
            print(f"\r\x1b[K{line[:79]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
