"""The page's charts as inline SVG: every request, latency by percentile, connections over time.

Each chart fills the width that it is given without scaling its text: x is in percent, y in
pixels. Lines, which cannot be in percent, stand in a nested drawing that is stretched. Labels of
the y axis stand in a narrow drawing of their own beside the chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...lab.result import Comparison, Run, Sample
from ..text import markup
from .picture import Phases, Scale, second_ticks, story_span, tick_label
from .summary import clock, percentile, summarise

__all__ = ["CREATED", "FAILED", "OPENED", "connections", "percentiles", "role", "scatter"]

TOP = 22
"""Pixels above a plot, for the names of the phases."""
BOTTOM = 24
"""Pixels beneath a plot, for its x axis."""
STRIP = 26
"""Pixels between plot and x axis for the marks of opened connections."""

OPENED = "M0,-5 L5,4 L-5,4 Z"
CREATED = "M0,-5 L5,0 L0,5 L-5,0 Z"
FAILED = "M-5,-5 L5,5 M-5,5 L5,-5"


def role(comparison: Comparison, run: Run) -> str:
    """The class that colours a run: ``guarded`` for the last one, ``ordinary`` for others."""
    return "guarded" if run is comparison.runs[-1] else "ordinary"


def scatter(run: Run, phases: Phases, scale: Scale, kind: str, height: int = 260) -> str:
    """Every request of a run as a dot; the runs are comparable if *scale* is the same for all."""
    story = _Story(*story_span(phases))
    floor = TOP + height

    def y(seconds: float) -> float:
        return floor - scale.place(seconds) * height

    dots = "".join(
        f'<circle cx="{story.x(s.at)}" cy="{y(s.latency):.1f}" r="2"/>'
        for s in run.samples
        if not (s.created or s.failed)
    )
    marked = "".join(
        _mark(FAILED if s.failed else CREATED, story.x(s.at), y(s.latency), _kind(s), _told(s))
        for s in run.samples
        if s.created or s.failed
    )
    opened = "".join(
        _mark(OPENED, story.x(at), floor + 14, "opened", f"connection opened at {at:.2f} s")
        for at in run.opened
        if at >= 0
    )
    figures = summarise(run)
    described = (
        f"{figures.requests} requests, the slowest {clock(figures.maximum)}, "
        f"{figures.created_during} of them with a connection created while they waited; "
        f"{figures.opened} connections opened, {figures.opened_before} before the traffic."
    )
    plot = (
        _phases(phases, story, floor)
        + _grid(y(tick) for tick in scale.ticks())
        + f'<g class="dots">{dots}</g>'
        + marked
        + f'<line class="axis" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>'
        + opened
        + _seconds(story, floor + STRIP)
    )
    ticks = [(y(tick), tick_label(tick)) for tick in scale.ticks()]
    ticks.append((floor + 16, "opened"))
    return _chart(
        kind,
        f"Latency of every request: {run.name}",
        described,
        labels=ticks,
        plot=plot,
        floor=floor + STRIP,
    )


def percentiles(comparison: Comparison, scale: Scale, height: int = 220) -> str:
    """Latency by percentile, both runs: the further right, the rarer the request."""
    floor = TOP + height
    most = max((len(run.samples) for run in comparison.runs), default=0)
    decades = max(math.log10(max(most, 2)), 1.0)
    lines = []
    for run in comparison.runs:
        latencies = sorted(sample.latency for sample in run.samples)
        points = (
            (
                -math.log10(1 - share) / decades * 1000,
                1000 - scale.place(percentile(latencies, share) or 0.0) * 1000,
            )
            for share in _shares(len(latencies))
        )
        lines.append(_line(points, role(comparison, run)))
    shares = [0.5, 0.9, 0.99, 0.999, 0.9999]
    ticks = [(-math.log10(1 - s) / decades * 100, f"{s * 100:g} %") for s in shares]
    plot = (
        _grid(floor - scale.place(tick) * height for tick in scale.ticks())
        + _stretched("".join(lines), height)
        + f'<line class="axis" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>'
        + _x_labels([*((x, text) for x, text in ticks if x < 80), (100.0, "slowest")], floor)
    )
    described = "; ".join(
        f"{s.name}: half within {clock(s.p50)}, 99 % within {clock(s.p99)}, "
        f"all within {clock(s.maximum)}"
        for s in map(summarise, comparison.runs)
    )
    labels = [(floor - scale.place(tick) * height, tick_label(tick)) for tick in scale.ticks()]
    return _chart("both", "Latency by percentile", described, labels=labels, plot=plot, floor=floor)


def connections(comparison: Comparison, height: int = 220) -> str:
    """Server connections over time, both runs, against the budget."""
    story = _Story(*story_span(comparison.phases))
    floor = TOP + height
    budgets = sorted({run.budget for run in comparison.runs})
    top = max(1, *budgets, *(run.peak for run in comparison.runs)) * 1.12

    def steps(run: Run) -> Iterator[tuple[float, float]]:
        before = None
        for at, count in run.connections:
            level = 1000 - count / top * 1000
            if before is not None and before != level:
                yield story.share(at) * 1000, before
            yield story.share(at) * 1000, level
            before = level

    lines = "".join(_line(steps(run), role(comparison, run)) for run in comparison.runs)
    limits = "".join(
        f'<line class="budget" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="label strong" x="6" y="{y - 5:.1f}">budget {budget}</text>'
        for budget in budgets
        for y in [floor - budget / top * height]
    )
    step = max(math.ceil(top / 5 / 5) * 5, 1) if top > 8 else 2
    labels = [
        (floor - count / top * height, str(count)) for count in range(0, math.ceil(top), step)
    ]
    plot = (
        _phases(comparison.phases, story, floor)
        + _grid(y for y, _ in labels[1:])
        + limits
        + _stretched(lines, height)
        + f'<line class="axis" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>'
        + _seconds(story, floor)
    )
    described = "; ".join(
        f"{run.name}: {run.peak} at most, budget {run.budget}" for run in comparison.runs
    )
    return _chart(
        "both", "Server connections over time", described, labels=labels, plot=plot, floor=floor
    )


@dataclass(frozen=True, slots=True)
class _Story:
    begin: float
    end: float

    def share(self, at: float) -> float:
        return (at - self.begin) / (self.end - self.begin)

    def x(self, at: float) -> str:
        return f"{min(max(self.share(at), 0.0), 1.0) * 100:.2f}%"


def _chart(
    kind: str,
    title: str,
    described: str,
    *,
    labels: Iterable[tuple[float, str]],
    plot: str,
    floor: float,
) -> str:
    height = floor + BOTTOM
    axis = "".join(
        f'<text class="label" x="100%" y="{y:.1f}" dy="0.32em">{markup(text)}</text>'
        for y, text in labels
    )
    # aria-label has the description: a <title> here would pop up over every empty spot
    return (
        f'<div class="chart {kind}">'
        f'<svg class="y" height="{height}" aria-hidden="true">{axis}</svg>'
        f'<svg class="plot" height="{height}" role="img" '
        f'aria-label="{markup(f"{title}. {described}")}"><desc>{markup(described)}</desc>'
        f"{plot}</svg></div>"
    )


def _phases(phases: Phases, story: _Story, floor: float) -> str:
    parts = []
    for number, (name, title, start, end) in enumerate(phases):
        share = story.share(end) - story.share(start)
        # a plot has room for about 50 letters on a phone, and for 110 on a desk
        text = name if share * 110 >= len(name) else ""
        tight = "" if share * 50 >= len(name) else " tight"
        parts.append(
            f'<g><title>{markup(title)}</title><rect class="phase p{number % 2}" '
            f'x="{story.x(start)}" y="0" width="{share * 100:.2f}%" height="{floor}"/>'
            f'<text class="label phase-name{tight}" x="{story.x((start + end) / 2)}" y="15">'
            f"{markup(text)}</text></g>"
        )
    return "".join(parts)


def _grid(heights: Iterable[float]) -> str:
    return "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>' for y in heights
    )


def _seconds(story: _Story, floor: float) -> str:
    moments = second_ticks(story.begin, story.end, 6)
    return _x_labels([(story.share(at) * 100, f"{at:g} s") for at in moments], floor)


def _x_labels(labels: Iterable[tuple[float, str]], floor: float) -> str:
    return "".join(
        f'<text class="label {"first" if x < 2 else "last" if x > 96 else "x"}" '
        f'x="{x:.2f}%" y="{floor + 17}">{markup(text)}</text>'
        for x, text in labels
    )


def _mark(path: str, x: str, y: float, kind: str, told: str) -> str:
    return (
        f'<svg x="{x}" y="{y:.1f}" class="{kind}" overflow="visible">'
        f'<path d="{path}"><title>{markup(told)}</title></path></svg>'
    )


def _kind(sample: Sample) -> str:
    return "failed" if sample.failed else "created"


def _told(sample: Sample) -> str:
    how = "no answer" if not sample.status else f"status {sample.status}"
    why = "; its connection was created while it waited" if sample.created else ""
    return f"{clock(sample.latency)} at {sample.at:.2f} s, {how}{why}"


def _stretched(lines: str, height: float) -> str:
    return (
        f'<svg class="clip" x="0" y="{TOP}" width="100%" height="{height}" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none">{lines}</svg>'
    )


def _line(points: Iterable[tuple[float, float]], kind: str) -> str:
    path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path class="line {kind}" d="M{path}"/>' if path else ""


def _shares(count: int) -> Sequence[float]:
    """Enough shares of ``count`` requests for a smooth line; the last is the slowest request's."""
    if not count:
        return ()
    last = math.log10(count) if count > 1 else 0.0
    # a hair less than the whole: the slowest of n requests stands at 1 - 1/n of the axis
    return [1 - 10 ** -(last * step / 160) * 0.999999 for step in range(161)]
