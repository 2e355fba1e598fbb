"""How figures are shown and judged: a row a contender, each figure once a round, and its goal."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
W = TypeVar("W")


def ratios(times: Sequence[float], units: Sequence[float]) -> list[float]:
    """Each round's time in the unit that was measured in the same round."""
    return [time / unit for time, unit in zip(times, units, strict=True)]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figures, each once a round, and what they ought to be at most."""

    who: str
    figures: Mapping[str, Sequence[float]]
    goals: Mapping[str, float] = field(default_factory=dict)
    """Those for which it has a figure count."""

    def judged(self, name: str) -> float:
        """The figure that is compared with the goal: the median, or the worst where it is 0."""
        of = self.figures[name]
        return statistics.median(of) if self.goals[name] else max(of)

    @property
    def missed(self) -> list[str]:
        return [name for name in self._goals if not self.judged(name) <= self.goals[name]]

    @property
    def verdict(self) -> str:
        if not self._goals:
            return ""
        missed = [f"{name} {number(self.judged(name))}" for name in self.missed]
        return f"MISSED ({', '.join(missed)})" if missed else "met"

    def cell(self, name: str) -> str:
        """The median, and the lowest and highest where they differ; empty where it has none."""
        values = self.figures.get(name)
        if values is None:
            return ""
        low, middle, high = min(values), statistics.median(values), max(values)
        return number(middle) if low == high else f"{number(middle)} ({number(low)}–{number(high)})"

    @property
    def goal(self) -> str:
        """The goals in the order of the figures."""
        goals = self.goals
        return ", ".join(f"{n} ≤ {goals[n]:g}" if goals[n] else f"{n} 0" for n in self._goals)

    @property
    def _goals(self) -> list[str]:
        return [name for name in self.figures if name in self.goals]


@dataclass(frozen=True, slots=True)
class Table:
    """What one part has measured."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        lines = [["", *names, "goal", ""]]
        lines += [[row.who, *map(row.cell, names), row.goal, row.verdict] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [self.title]
        for who, *cells, verdict in lines:
            padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True)]
            text.append("  ".join([f"  {who:<{widths[0]}}", *padded, verdict]).rstrip())
        return "\n".join([*text, *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict[str, object]:
        """Plain data; what never came is null."""
        rows = []
        for row in self.rows:
            figures = {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in row.figures.items()
            }
            goals = dict(row.goals)
            rows.append({"who": row.who, "figures": figures, "goals": goals, "missed": row.missed})
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}


def number(value: float) -> str:
    """A figure with as many digits as anybody reads; what never came is infinite."""
    if math.isinf(value):
        return "never"
    if float(value).is_integer() or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def say(text: str) -> None:
    """Say on stderr, where that is a terminal, what is being done: the next text replaces it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:79]}", end="", file=sys.stderr, flush=True)


def show(
    name: str, parts: Mapping[str, Callable[[S], Table]], chosen: Collection[str], stage: S
) -> dict[str, Table]:
    """Have the *chosen* parts measured on *stage*, or all.

    Prints each one's table, and which goals it missed.
    """
    tables: dict[str, Table] = {}
    for part in chosen or parts:
        say(f"{name}.{part}")
        tables[part] = parts[part](stage)
        say("")
        print(f"\n{tables[part]}", flush=True)
    missed = [f"{part} ({row.who})" for part in tables for row in tables[part].rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return tables


def turns(rounds: int, acts: Mapping[W, Callable[[], T]]) -> dict[W, list[T]]:
    """What each act returns, once a round; every other round they come in reversed order."""
    results: dict[W, list[T]] = {who: [] for who in acts}
    for nth in range(rounds):
        for who in list(acts)[:: -1 if nth % 2 else 1]:
            say(f"round {nth + 1} of {rounds}, {who}")
            results[who].append(acts[who]())
    return results
