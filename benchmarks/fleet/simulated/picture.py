"""A picture of simulated fleets, as SVG: who has the slots over time, and how long hosts wait."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...svg import RULE, axes, group, line, page, text, title

WIDTH, HEIGHT = 460, 300
"""Of each of the two diagrams, in pixels."""
LEFT, TOP, BETWEEN = 56, 44, 96
COLORS = ("#0969da", "#54aeff", "#afb8c1")
CURVES = ("#0969da", "#54aeff", "#bf3989", "#f778ba")


class Layer(NamedTuple):
    """One part of a whole, over time."""

    name: str
    values: Sequence[float]


class Curve(NamedTuple):
    """Seconds by the number of hosts."""

    name: str
    points: Sequence[tuple[float, float]]


def picture(
    times: Sequence[float], layers: Sequence[Layer], budget: float, curves: Sequence[Curve]
) -> str:
    """Both diagrams, side by side."""
    width, height = 2 * (LEFT + WIDTH) + BETWEEN, TOP + HEIGHT + 64
    shares = group(LEFT, TOP, *_layers(times, layers, budget))
    waits = group(2 * LEFT + WIDTH + BETWEEN // 2, TOP, *_curves(curves))
    return page(width, height, *shares, *waits)


def _layers(times: Sequence[float], layers: Sequence[Layer], budget: float) -> Iterator[str]:
    end, top = times[-1], budget * 1.15
    xs = [WIDTH * at / end for at in times]

    def y(value: float) -> float:
        return HEIGHT * (1 - value / top)

    yield title("3 hosts become 50: who has the slots of one budget")
    below = [0.0] * len(times)
    for layer, color in zip(layers, COLORS, strict=True):
        above = [a + b for a, b in zip(below, layer.values, strict=True)]
        outline = [*zip(xs, above, strict=True), *reversed([*zip(xs, below, strict=True)])]
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in outline)
        yield f'<polygon points="{points}" fill="{color}"/>'
        below = above
    yield line((0, y(budget)), (WIDTH, y(budget)), "#cf222e", 'stroke-dasharray="6 4"')
    yield text(WIDTH, y(budget) - 6, f"budget {budget:g}", "end", "#cf222e")
    for value in range(0, int(top), 200):
        yield text(-8, y(value) + 4, str(value), "end")
        yield line((-4, y(value)), (0, y(value)))
    for second in range(0, round(end) + 1, 5):
        yield text(WIDTH * second / end, HEIGHT + 20, str(second))
        yield line((WIDTH * second / end, HEIGHT), (WIDTH * second / end, HEIGHT + 4))
    yield text(WIDTH / 2, HEIGHT + 42, "seconds; one host joins each half second")
    yield from axes(WIDTH, HEIGHT)
    first, others, control = (layer.name for layer in layers)
    yield text(8, HEIGHT - 12, first, "start", "#ffffff")
    yield text(WIDTH / 2, HEIGHT / 2, others, "middle", "#24292f")
    last = sum(layer.values[-1] for layer in layers[:2])
    yield text(WIDTH - 8, y((last + budget) / 2) + 4, control, "end", "#24292f")


def _curves(curves: Sequence[Curve]) -> Iterator[str]:
    hosts = [point[0] for curve in curves for point in curve.points]
    seconds = [point[1] for curve in curves for point in curve.points]
    low, high = math.log10(min(hosts)), math.log10(max(hosts))
    bottom, top = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(n: float) -> float:
        return WIDTH * (math.log10(n) - low) / max(1e-9, high - low)

    def y(value: float) -> float:
        return HEIGHT * (1 - (math.log10(value) - bottom) / max(1, top - bottom))

    yield title("99 of 100 hosts have what is theirs after")
    for power in range(bottom, top + 1):
        yield line((0, y(10**power)), (WIDTH, y(10**power)), RULE)
        yield text(-8, y(10**power) + 4, f"{10**power:g} s", "end")
    for n in sorted({*hosts}):
        yield text(x(n), HEIGHT + 20, f"{n:g}")
        yield line((x(n), HEIGHT), (x(n), HEIGHT + 4))
    yield text(WIDTH / 2, HEIGHT + 42, "hosts of 8 workers")
    yield from axes(WIDTH, HEIGHT)
    for nth, (curve, color) in enumerate(zip(curves, CURVES, strict=True)):
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in curve.points)
        dash = 'stroke-dasharray="5 4"' if nth % 2 else ""
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" {dash}/>'
        for n, value in curve.points:
            yield f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3" fill="{color}"/>'
        yield line((12, 14 + 18 * nth), (40, 14 + 18 * nth), color, f'stroke-width="2" {dash}')
        yield text(48, 18 + 18 * nth, curve.name, "start")
