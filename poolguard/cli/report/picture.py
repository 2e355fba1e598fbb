"""Draws latency over time as lines of text: a panel for each run, and one scale for all panels.

::

      1 s ┤     ╻               the thin line ends at the slowest request of its column,
          │     ┃   ╻           the solid body at the median;
    10 ms ┤▂▂▃▂▄█▃▂▂▃▂▂▂▂
          └┴─────────┴─────
           0 s       5 s
    opened 4    2               connections that the server saw arrive in that column
   created      1               requests that had to wait while theirs was created
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...lab.result import Run, Sample
from .summary import clock, percentile, summarise

__all__ = ["Phases", "Scale", "draw", "legend", "second_ticks", "story_span", "tick_label"]

Phases = Sequence[tuple[str, str, float, float]]
"""(name, title, start, end) of each phase, as in :class:`~poolguard.lab.result.Comparison`."""

_Column = Callable[[float], int]
"""Gives the column in which a moment of the story is drawn."""

GUTTER = 8
"""Columns to the left of the plot: seven for labels, one for the axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic scale of seconds that every panel shares."""

    low: float
    high: float

    @classmethod
    def over(cls, runs: Iterable[Run], *, below: float = 0.0) -> Scale:
        """The scale that holds the requests of all runs, with some room at either end.

        :param below: the share of the fastest requests that may lie under the scale. It gives the
            slow ones more room where only they matter.
        """
        latencies = sorted(sample.latency for run in runs for sample in run.samples)
        high = (latencies[-1] if latencies else 1.0) * 1.1 or 1.0
        # four decades are enough: one freak of a microsecond must not flatten the rest
        floor = max((percentile(latencies, below) or 1e-3) / 1.25, high / 1e4)
        return cls(max((tick for tick in _COARSE if tick <= floor), default=_COARSE[0]), high)

    def place(self, seconds: float) -> float:
        """Where a latency stands: 0 at the bottom, 1 at the top, never outside."""
        clamped = min(max(seconds, self.low), self.high)
        return math.log(clamped / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Round latencies, from the lowest to the highest, evenly apart on a logarithmic scale."""
        steps = _FINE if self.high < self.low * 100 else _COARSE
        return [tick for tick in steps if self.low <= tick <= self.high]


def _steps(*mantissas: int) -> list[float]:
    # through text, so that a tick is exactly what its label says
    return [float(f"{m}e{exponent}") for exponent in range(-6, 4) for m in mantissas]


_FINE, _COARSE = _steps(1, 2, 5), _steps(1, 3)


@dataclass(frozen=True, slots=True)
class _Pen:
    """The characters that a panel is drawn with."""

    body: str
    """The cell in which a body ends, filled by one eighth up to eight."""
    stem: str
    half_stem: str
    separator: str
    axis: str
    tick: str
    corner: str
    floor: str
    floor_tick: str


_UNICODE = _Pen("▁▂▃▄▅▆▇█", "┃", "╻", "┊", "│", "┤", "└", "─", "┴")
_ASCII = _Pen("____####", "|", ".", ":", "|", "+", "+", "-", "+")


def draw(
    run: Run, phases: Phases, width: int, height: int, *, scale: Scale, unicode: bool = True
) -> list[str]:
    """One run's panel.

    :param width: the most columns of a line; from about 40 on the panel is readable.
    :param height: the rows of the plot itself; six more are added for names, axis and markers.
    """
    pen = _UNICODE if unicode else _ASCII
    columns = max(width - GUTTER, 1)
    begin, end = story_span(phases)

    def column(at: float) -> int:
        return min(max(int((at - begin) / (end - begin) * columns), 0), columns - 1)

    edges = [column(start) for _, _, start, _ in phases[1:]]
    names = _names(phases, edges, columns, pen)
    plot = _plot(_bin(run.samples, columns, column), height, scale, pen)
    for row in plot:
        for edge in edges:
            row[edge] = pen.separator if row[edge] == " " else row[edge]
    labels = _labels(scale, height)
    axis, seconds = _floor(begin, end, columns, column, pen)
    opened = _counts((column(at) for at in run.opened if at >= 0), columns)
    created = _counts((column(sample.at) for sample in run.samples if sample.created), columns)
    lines = [
        _heading(run, width),
        " " * GUTTER + names,
        *(
            f"{label:>{GUTTER - 2}} {pen.tick if label else pen.axis}{''.join(row)}"
            for label, row in zip(labels, plot, strict=True)
        ),
        " " * (GUTTER - 1) + pen.corner + axis,
        " " * GUTTER + seconds,
        f"{'opened':>{GUTTER - 1}} {opened}",
        f"{'created':>{GUTTER - 1}} {created}",
    ]
    return [line[:width].rstrip() for line in lines]


def legend(phases: Phases, width: int, *, unicode: bool = True) -> list[str]:
    """What the marks of all panels mean."""
    pen = _UNICODE if unicode else _ASCII
    begin, end = story_span(phases)
    each = clock((end - begin) / max(width - GUTTER, 1))
    return [
        f"{pen.body[-1]} median and {pen.stem} slowest request of each column "
        f"({each} wide), on a log scale.",
        "opened: connections that reached the server then (+ stands for more than 9).",
        "created: requests that had to wait while their connection was created.",
    ]


def story_span(phases: Phases) -> tuple[float, float]:
    """When the story begins and ends. Its length is never 0, so that one may divide by it."""
    begin = min((start for _, _, start, _ in phases), default=0.0)
    end = max((end for _, _, _, end in phases), default=1.0)
    return begin, end if end > begin else begin + 1.0


def tick_label(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def second_ticks(begin: float, end: float, room: int) -> list[float]:
    """At most about ``room`` round moments of the story, for labels on its axis."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
    step = next((s for s in steps if (end - begin) / s <= max(room, 1)), steps[-1])
    return [float(s) for s in range(math.ceil(begin / step) * step, math.floor(end) + 1, step)]


def _heading(run: Run, width: int) -> str:
    figures = summarise(run)
    facts = (
        f": slowest {clock(figures.maximum)}, {figures.opened} connections opened, "
        f"{figures.opened_before} before the traffic"
    )
    return run.name[: max(width - len(facts), 8)] + facts


def _bin(
    samples: Iterable[Sample], columns: int, column: _Column
) -> list[tuple[float, float] | None]:
    """(median, maximum) of each column's requests."""
    bins: list[list[float]] = [[] for _ in range(columns)]
    for sample in samples:
        bins[column(sample.at)].append(sample.latency)
    return [(percentile(sorted(b), 0.5) or 0.0, max(b)) if b else None for b in bins]


def _plot(
    bins: Sequence[tuple[float, float] | None], height: int, scale: Scale, pen: _Pen
) -> list[list[str]]:
    """The cells of the plot, the top row first."""
    rows = [[" "] * len(bins) for _ in range(height)]
    for at, found in enumerate(bins):
        if found is None:
            continue
        eighths = max(round(scale.place(found[0]) * height * 8), 1)
        halves = round(scale.place(found[1]) * height * 2)
        for level in range(height):
            body, stem = eighths - level * 8, halves - level * 2
            if body > 0:
                cell = pen.body[min(body, 8) - 1]
            elif stem > 0:
                cell = pen.stem if stem > 1 else pen.half_stem
            else:
                break
            rows[height - 1 - level][at] = cell
    return rows


def _labels(scale: Scale, height: int) -> list[str]:
    """The label of each row, top first. In one row a power of ten goes before other ticks."""
    labels = [""] * height
    by_weight = sorted(scale.ticks(), key=lambda tick: (round(math.log10(tick), 6) % 1, tick))
    for tick in by_weight:
        # a bar that reaches the tick ends in this row
        row = height - max(math.ceil(scale.place(tick) * height), 1)
        if not labels[row]:
            labels[row] = tick_label(tick)
    return labels


def _names(phases: Phases, edges: Sequence[int], columns: int, pen: _Pen) -> str:
    starts = [0, *edges]
    rooms = [end - start - 1 for start, end in zip(starts, [*edges, columns], strict=True)]
    # a phase that is too narrow for its name has none: half a name says nothing
    cells = [
        next((text for text in (title, name) if len(text) <= room), "")
        for (name, title, _, _), room in zip(phases, rooms, strict=False)
    ]
    row = [" "] * columns
    for start, text in zip(starts, cells, strict=False):
        if start:
            row[start] = pen.separator
        at = start + 1 if start else 0
        row[at : at + len(text)] = text
    return "".join(row)


def _floor(begin: float, end: float, columns: int, column: _Column, pen: _Pen) -> tuple[str, str]:
    axis, labels = [pen.floor] * columns, [" "] * columns
    for second in second_ticks(begin, end, columns // 8):
        at, text = column(second), f"{second:g} s"
        axis[at] = pen.floor_tick
        if at + len(text) <= columns:
            labels[at : at + len(text)] = text
    return "".join(axis), "".join(labels)


def _counts(where: Iterable[int], columns: int) -> str:
    counts = [0] * columns
    for at in where:
        counts[at] += 1
    return "".join(" " if not n else str(n) if n < 10 else "+" for n in counts)
