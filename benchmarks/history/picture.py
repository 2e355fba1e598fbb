"""A picture of the last week of a traffic, as SVG: beside history, what today's guess does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poolguard.history.minutes import DAY, WEEK

from ..svg import RULE, axes, group, line, page, text, title
from .replay import History, Replayed, fixed, replay
from .traffic import TRAFFICS, Scale, Traffic, traffic

WIDTH, HEIGHT = 980, 200
"""Of each diagram, in pixels."""
LEFT, TOP, BETWEEN = 48, 44, 84
EVERY = 10
"""Minutes that are drawn as one."""
DEMAND, LEVEL, CREATED = "#b6d7ff", "#0969da", "#cf222e"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def picture(name: str, scale: Scale) -> str:
    """Both diagrams, one above the other."""
    of = traffic(name, scale)
    ways = {
        f"History: {TRAFFICS[name]}": replay(of, History(of)),
        "Today's guess: a floor of 10, and what was needed in the last half hour": replay(
            of, fixed(10)
        ),
    }
    week = range(max(0, of.minutes - WEEK), of.minutes)
    parts = [
        part
        for nth, (words, played) in enumerate(ways.items())
        for part in group(
            LEFT, TOP + nth * (HEIGHT + BETWEEN), title(words), *_drawn(of, played, week)
        )
    ]
    return page(LEFT + WIDTH + 20, TOP + 2 * (HEIGHT + BETWEEN) - 24, *parts)


def _drawn(of: Traffic, played: Replayed, week: range) -> Iterator[str]:
    workers = len(of.peaks)
    needs = _most([*map(max, zip(*of.peaks, strict=True))], week)
    kept = [each / workers for each in _most(played.kept, week)]
    top = max(*needs, *kept) * 1.15
    xs = [WIDTH * nth / len(needs) for nth in range(len(needs))]

    def points(values: Sequence[float]) -> str:
        return " ".join(
            f"{x:.1f},{HEIGHT * (1 - value / top):.1f}" for x, value in zip(xs, values, strict=True)
        )

    yield f'<polygon points="0,{HEIGHT} {points(needs)} {xs[-1]:.1f},{HEIGHT}" fill="{DEMAND}"/>'
    yield f'<polyline points="{points(kept)}" fill="none" stroke="{LEVEL}" stroke-width="1.5"/>'
    created = [sum(played.created[at : at + EVERY]) for at in week[::EVERY]]
    for x, n in zip(xs, created, strict=True):
        if n:
            yield f'<circle cx="{x:.1f}" cy="-4" r="{1.5 + n**0.5 / 2:.1f}" fill="{CREATED}"/>'
    for value in range(0, int(top), 10):
        yield text(-8, HEIGHT * (1 - value / top) + 4, str(value), "end")
    for nth in range(len(week) // DAY):
        x = WIDTH * nth * DAY / len(week)
        yield line((x, 0), (x, HEIGHT), RULE)
        yield text(x + WIDTH * DAY / len(week) / 2, HEIGHT + 18, DAYS[nth % 7])
    yield from axes(WIDTH, HEIGHT)
    words = f"created while a request waited: {sum(created)}"
    yield text(WIDTH, -18, words, "end", CREATED)
    yield text(WIDTH, HEIGHT + 40, "needed by the busiest worker; kept by each (line)", "end")


def _most(values: Sequence[int], week: range) -> list[int]:
    return [max(values[at : at + EVERY]) for at in week[::EVERY]]
