"""The few shapes that pictures of benchmarks are drawn with."""

from __future__ import annotations

from collections.abc import Iterator

TEXT, RULE, TITLE = "#57606a", "#d0d7de", "#24292f"

Point = tuple[float, float]


def page(width: float, height: float, *parts: str) -> str:
    """A picture of so many pixels."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">'
    )
    return "\n".join(
        [head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>\n"]
    )


def group(x: float, y: float, *parts: str) -> Iterator[str]:
    """All of them, moved to that place."""
    yield f'<g transform="translate({x} {y})">'
    yield from parts
    yield "</g>"


def axes(width: float, height: float) -> Iterator[str]:
    yield line((0, 0), (0, height), TEXT)
    yield line((0, height), (width, height), TEXT)


def title(words: str) -> str:
    return f'<text x="0" y="-18" font-size="15" font-weight="600" fill="{TITLE}">{words}</text>'


def text(x: float, y: float, words: str, anchor: str = "middle", fill: str = TEXT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def line(begin: Point, end: Point, color: str = TEXT, more: str = "") -> str:
    (x1, y1), (x2, y2) = begin, end
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{color}" {more}/>'
