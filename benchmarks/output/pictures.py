"""Pictures of a contest as SVG files, with the charts of the demo's page, one under the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from poolguard.cli import report
from poolguard.cli.report import charts
from poolguard.cli.report.picture import Phases, Scale
from poolguard.cli.report.summary import clock, summarise
from poolguard.lab.result import Comparison, Run
from poolguard.lab.story import Story

__all__ = ["pictures"]

WIDTH = 860
AXIS = 58
"""Pixels for the labels of the y axis."""
MARGIN = 12
HEADING = 30
SMALL = 120
"""The height in pixels of a plot of which there are many."""

_STYLED: tuple[str, ...] = (
    "label",
    "y ",
    "phase",
    "grid",
    "axis",
    "dots",
    "ordinary",
    "guarded",
    "created",
    "line",
)
_STYLED += ("opened", "failed", "budget")


def pictures(name: str, story: Story, runs: Sequence[Run], favourite: str) -> dict[str, str]:
    """Three drawings by their names: each has a chart for each run.

    Latency over time; latency by percentile and server connections over time, each beside the
    *favourite*'s, where that has a run.
    """
    phases = tuple((phase.name, phase.title, start, end) for phase, start, end in story.bounds())
    scale = Scale.over(runs)
    ours = [run for run in runs if run.name == favourite]
    pairs = [Comparison(phases, (run, *ours), {}) for run in runs if run.name != favourite]
    return {
        f"{name}-latency": _sheet(
            "Latency over time",
            ((_told(run), _scatter(run, phases, scale, favourite)) for run in runs),
        ),
        f"{name}-percentiles": _sheet(
            f"Latency by percentile: each contender (dashed) and {favourite}",
            ((pair.runs[0].name, charts.percentiles(pair, scale, SMALL)) for pair in pairs),
        ),
        f"{name}-connections": _sheet(
            f"Server connections over time: each contender (dashed) and {favourite}",
            ((pair.runs[0].name, charts.connections(pair, SMALL)) for pair in pairs),
        ),
    }


def _scatter(run: Run, phases: Phases, scale: Scale, favourite: str) -> str:
    kind = "guarded" if run.name == favourite else "ordinary"
    return charts.scatter(run, phases, scale, kind, SMALL)


def _told(run: Run) -> str:
    figures = summarise(run)
    failed = f", {figures.failed} failed" if figures.failed else ""
    return f"{run.name}: slowest {clock(figures.maximum)}{failed}"


def _sheet(title: str, drawn: Iterable[tuple[str, str]]) -> str:
    """Charts of a page, which spread over whatever room they are given, at fixed places."""
    top = float(HEADING + MARGIN)
    parts = []
    for heading, chart in drawn:
        found = re.fullmatch(
            r'<div class="chart (\w+)"><svg class="y" height="([\d.]+)" aria-hidden="true">'
            r'(.*?)</svg><svg class="plot" height="[\d.]+" role="img" [^>]*>(.*)</svg></div>',
            chart,
            re.DOTALL,
        )
        assert found is not None, "a chart of the page has another form than it had"
        kind, height, axis, plot = found.groups()
        parts.append(
            f'<text class="heading" x="{MARGIN}" y="{top + 16}">{escape(heading)}</text>'
            f'<g class="{kind}"><svg x="{MARGIN}" y="{top + HEADING}" width="{AXIS}" '
            f'height="{height}" class="y" overflow="visible">{axis}</svg>'
            f'<svg x="{MARGIN + AXIS + 8}" y="{top + HEADING}" '
            f'width="{WIDTH - AXIS - 8 - 2 * MARGIN}" height="{height}" overflow="visible">'
            f"{plot}</svg></g>"
        )
        top += HEADING + float(height) + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" width="{WIDTH}" '
        f'height="{top:.0f}" role="img" aria-label="{escape(title)}"><style>{_style()}</style>'
        f'<rect class="paper" width="100%" height="100%"/>'
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 18}">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _style() -> str:
    """Of the page's style what charts need."""
    page = resources.files(report).joinpath("page.css").read_text(encoding="utf-8")
    colours = page[page.index(":root {") : page.index("* {")]
    wanted = tuple(f".{name}" for name in _STYLED)
    rules = [line for line in page.splitlines() if line.startswith(wanted)]
    return "\n".join(
        [
            colours.strip(),
            *rules,
            ".clip { overflow: hidden; }",
            ".paper { fill: var(--paper); }",
            'text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }',
            ".heading { fill: var(--ink); font-weight: 600; }",
            ".title { fill: var(--ink); font-size: 16px; font-weight: 600; }",
        ]
    )
