"""The history as one web page that needs no other file: no script, no font, no link."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

from ..history.minutes import DAY
from ..history.numbers import Limit, Numbers, numbers
from . import history_charts
from .history_days import Day, days
from .history_files import Recorded
from .history_text import ESTIMATED, known, period, share, summary
from .text import markup
from .web import head

__all__ = ["page"]

# The pattern of stripes is for those who cannot tell the colours apart.
_STRIPES = (
    '<svg width="0" height="0" class="unseen" aria-hidden="true"><defs>'
    '<pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect class="stripes" width="6" height="6"/>'
    '<line class="stripe" x1="0" x2="0" y1="0" y2="6"/></pattern></defs></svg>'
)


def page(found: Sequence[Recorded], shown: int) -> str:
    """The whole page as text: the last *shown* days of each guard."""
    style = resources.files(__package__).joinpath("history.css").read_text(encoding="utf-8")
    guards = "".join(_guard(each, shown) for each in found)
    return (
        f"{head('poolguard history', style)}"
        f'<p class="eyebrow">poolguard history, the last {period(shown * DAY)} until '
        f"{time.strftime('%a %d %b %Y, %H:%M %Z')}</p>{_STRIPES}{guards}</main>\n</body>\n</html>\n"
    )


def _guard(each: Recorded, shown: int) -> str:
    sums = numbers(each.last(shown))
    heading = f"<section><h1>Guard {markup(each.called)}</h1>"
    if sums is None:
        return f"{heading}<p>Nothing is recorded of that time.</p></section>"
    drawn = days(each.past, each.end - sums.span, each.end + 1)
    note = known(sums)
    return (
        heading
        + f'<p class="lead">{_capital(markup(summary(sums)))}.</p>'
        + (f'<p class="note">Note: {markup(note)}.</p>' if note else "")
        + _legend()
        + "".join(_days(drawn))
        + _costs(sums)
        + _table_of(drawn)
        + "</section>"
    )


def _legend() -> str:
    return (
        '<ul class="legend">'
        f"<li>{_swatch('lent')} the most connections lent at once in one worker</li>"
        f"<li>{_swatch('beyond')} what of them was above the level that was kept warm</li>"
        '<li><svg class="key" width="26" height="12" aria-hidden="true">'
        '<path class="level" d="M1,6H25"/></svg> that level</li>'
        f"<li>{_swatch('unknown')} not recorded</li>"
        '<li><svg class="key created" viewBox="-8 -8 16 16" width="16" height="16" '
        f'aria-hidden="true"><path d="{history_charts.CREATED}"/></svg> connections created while '
        "a request waited</li></ul>"
    )


def _swatch(kind: str) -> str:
    return (
        '<svg class="key" width="26" height="12" aria-hidden="true">'
        f'<rect class="{kind}" width="26" height="12"/></svg>'
    )


def _days(drawn: Sequence[Day]) -> Iterator[str]:
    top = max(
        (max(minute.one, minute.level) for day in drawn for minute in day.known),
        default=1,
    )
    for day in drawn:
        told = _told(day)
        caption = f"<figcaption><strong>{_name(day)}</strong> {markup(told)}</figcaption>"
        chart = history_charts.chart(day, max(top, 4), f"{_name(day)}: {told}") if day.known else ""
        yield f"<figure>{caption}{chart}</figure>"


def _name(day: Day) -> str:
    return f"{day.date:%A} {day.date.day} {day.date:%b}"


def _told(day: Day) -> str:
    if not day.known:
        return "nothing recorded"
    busiest = max((minute.one, -at) for at, minute in enumerate(day.minutes) if minute is not None)
    hour, minute_of = divmod(-busiest[1], 60)
    told = f"{busiest[0]} lent at once in one worker (first at {hour}:{minute_of:02})"
    told += f", {max(minute.host for minute in day.known)} on the host"
    if created := sum(minute.created for minute in day.known):
        told += f", {created:,} created while a request waited"
    if day.changed:
        told += "; the clocks were changed"
    return told


def _costs(sums: Numbers) -> str:
    floors = (
        (
            str(each.floor),
            f"{each.minutes:,}",
            share(each.minutes / sums.known),
            f"about {each.created:,}" if each.created else "0",
        )
        for each in (sums.floor, *sums.lower)
    )
    return (
        "<h2>What less would have cost</h2>"
        + _table(
            "Lower floors",
            ("floor", "minutes beyond it", "of all", "created while a request waited"),
            floors,
        )
        + f'<p class="small">{markup(ESTIMATED)}</p><div class="pair">'
        + _limits("max_size", (Limit(sums.max_size, 0), *sums.max_sizes), sums.known)
        + _limits("budget", (Limit(sums.budget, 0), *sums.budgets), sums.known)
        + "</div>"
    )


def _limits(name: str, limits: Iterable[Limit], of: int) -> str:
    return _table(
        f"Lower values of {name}",
        (name, "minutes in which requests would have waited for a return", "of all"),
        ((str(each.limit), f"{each.minutes:,}", share(each.minutes / of)) for each in limits),
    )


def _table_of(drawn: Iterable[Day]) -> str:
    """The pictures as a table, for those who do not see them."""
    rows = (
        (
            _name(day),
            *(
                (
                    str(max(minute.one for minute in day.known)),
                    str(max(minute.host for minute in day.known)),
                    str(max(minute.level for minute in day.known)),
                    str(max(minute.waiting for minute in day.known)),
                    f"{sum(minute.created for minute in day.known):,}",
                    period(len(day.known)),
                )
                if day.known
                else ("–", "–", "–", "–", "–", "0 min")
            ),
        )
        for day in drawn
    )
    heads = ("day", "lent in one worker", "on the host", "level", "waited at once", "created", "")
    return (
        "<h2>The days in numbers</h2><p>The most of each day at once, the connections that were "
        "created while a request waited, and of how much of the day anything is known.</p>"
        + _table("The most of each day", (*heads[:-1], "known"), rows)
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{markup(each)}</th>' for each in heads)
    body = "".join(
        f'<tr><th scope="row">{markup(first)}</th>'
        + "".join(f"<td>{markup(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><caption class="unseen">{markup(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
