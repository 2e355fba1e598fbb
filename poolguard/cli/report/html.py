"""The comparison as one web page that needs no other file: no script, no font, no link."""

from __future__ import annotations

import re
from importlib import resources

from ...lab.result import Comparison, Run
from ..text import markup
from ..web import head
from . import charts, trees
from .picture import Scale
from .summary import Row, caveats, clock, rows, summarise, verdict

__all__ = ["page"]


def page(comparison: Comparison) -> str:
    """The whole page as text."""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        head("poolguard demo", style),
        _header(comparison),
        _figures(comparison),
        _requests(comparison),
        _curves(comparison),
        _three_requests(comparison.runs[-1]),
        _conditions(comparison),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _text(text: str) -> str:
    """*text* for a web page, in which figures stay on one line with their units."""
    return re.sub(r"(\d) ([mµ]?s|times)\b", "\\1\N{NO-BREAK SPACE}\\2", markup(text))


def _header(comparison: Comparison) -> str:
    slowest = max((summarise(run).maximum or 0.0 for run in comparison.runs), default=0.0)
    bars = "".join(_hero(comparison, run, slowest) for run in comparison.runs)
    notes = "".join(f'<p class="note">Note: {markup(note)}</p>' for note in caveats(comparison))
    return (
        '<header><p class="eyebrow">poolguard demo</p>'
        f"<h1>{_text(verdict(comparison))}</h1>"
        '<p class="lead">The same application under the same traffic, twice: first over an '
        "ordinary pool, then over poolguard. The slowest request of each:</p>"
        f'<div class="hero">{bars}</div>{notes}</header>'
    )


def _hero(comparison: Comparison, run: Run, slowest: float) -> str:
    maximum = summarise(run).maximum
    share = (maximum or 0.0) / slowest * 100 if slowest else 0.0
    return (
        f'<div class="{charts.role(comparison, run)}"><span class="run">{markup(run.name)}</span>'
        f'<span class="track"><span class="bar" style="width:{share:.1f}%"></span></span>'
        f'<span class="figure">{clock(maximum)}</span></div>'
    )


def _figures(comparison: Comparison) -> str:
    heads = "".join(
        f'<th scope="col" class="{charts.role(comparison, run)}">{markup(run.name)}</th>'
        for run in comparison.runs
    )
    body = "".join(_row(row) for row in rows(comparison))
    return (
        '<section><h2>The figures</h2><div class="scroll"><table>'
        '<caption class="unseen">Both runs side by side</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="small">Latency counts from the moment a request was meant to start, so that no '
        "stall is hidden, and a failed request counts with the time until it failed.</p></section>"
    )


def _row(row: Row) -> str:
    kind = ' class="detail"' if row.detail else ""
    cells = "".join(f"<td>{markup(value)}</td>" for value in row.values)
    return f'<tr{kind}><th scope="row">{markup(row.label)}</th>{cells}</tr>'


def _requests(comparison: Comparison) -> str:
    scale = Scale.over(comparison.runs)
    figures = "".join(_request_chart(comparison, run, scale) for run in comparison.runs)
    keys = (
        _key(charts.CREATED, "created", "a request whose connection was created while it waited")
        + _key(charts.OPENED, "opened", "a connection that reached the server")
        + _key(charts.FAILED, "failed", "a request that failed")
    )
    return (
        "<section><h2>Every request</h2>"
        "<p>One dot a request, on the same logarithmic scale in both charts.</p>"
        f'<ul class="legend">{keys}</ul>{figures}</section>'
    )


def _request_chart(comparison: Comparison, run: Run, scale: Scale) -> str:
    figures = summarise(run)
    kind = charts.role(comparison, run)
    chart = charts.scatter(run, comparison.phases, scale, kind)
    return (
        f'<figure><figcaption><strong class="{kind}">{markup(run.name)}</strong>: slowest '
        f"{clock(figures.maximum)}, {figures.opened} connections opened, {figures.opened_before} "
        f"of them before the traffic</figcaption>{chart}</figure>"
    )


def _key(path: str, kind: str, meaning: str) -> str:
    return (
        f'<li><svg class="key {kind}" viewBox="-8 -8 16 16" width="16" height="16" '
        f'aria-hidden="true"><path d="{path}"/></svg> {meaning}</li>'
    )


def _curves(comparison: Comparison) -> str:
    key = "".join(
        f'<span class="{charts.role(comparison, run)}"><svg class="key" width="26" height="10" '
        'aria-hidden="true"><line class="line '
        f'{charts.role(comparison, run)}" x1="1" x2="25" y1="5" y2="5"/></svg> '
        f"{markup(run.name)}</span> "
        for run in comparison.runs
    )
    scale = Scale.over(comparison.runs)
    return (
        f'<section class="pair"><figure><h2>Latency by percentile</h2><figcaption>{key}'
        f"</figcaption>{charts.percentiles(comparison, scale)}</figure>"
        f"<figure><h2>Server connections</h2><figcaption>{key}</figcaption>"
        f"{charts.connections(comparison)}</figure></section>"
    )


def _three_requests(run: Run) -> str:
    picked = trees.pick(run).items()
    blocks = "".join(_waterfall(outcome, tree, run) for outcome, tree in picked)
    return (
        "<section><h2>Three requests from inside</h2>"
        "<p>What the traces say of three of poolguard’s requests: for each outcome the one that "
        f"waited a middling time.</p>{blocks}</section>"
    )


def _waterfall(outcome: str, tree: trees.Tree | None, run: Run) -> str:
    if tree is None:
        return (
            f"<article><h3>{outcome}</h3>"
            f'<p class="missing">{markup(_capital(trees.missing(outcome, run)))}</p></article>'
        )
    begin, length = tree.window()
    lines = "".join(_span(node, depth, *node.place(begin, length)) for depth, node in tree.walk())
    return (
        f"<article><h3>{outcome} <span>{trees.MEANING[outcome]}</span></h3>"
        f'<ol class="spans">{lines}</ol></article>'
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _span(node: trees.Tree, depth: int, start: float, end: float) -> str:
    chips = "".join(
        f"<li><code>{markup(name)}</code> {markup(value)}</li>"
        for name, value in trees.attributes(node.span)
    )
    kind = node.span.name if node.span.name in ("pool.acquire", "pool.connect") else "other"
    return (
        f'<li class="span {kind.replace(".", "-")}"><span class="name" '
        f'style="padding-left:{depth * 1.1:.1f}em">{markup(node.span.name)}</span>'
        f'<span class="track"><span class="bar" style="left:{start * 100:.2f}%;'
        f'width:{(end - start) * 100:.2f}%"></span></span>'
        f'<span class="figure">{clock(node.duration)}</span>'
        f'<ul class="chips" style="margin-left:{depth * 1.1:.1f}em">{chips}</ul></li>'
    )


def _conditions(comparison: Comparison) -> str:
    if not comparison.facts:
        return ""
    pairs = "".join(
        f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd></div>"
        for name, value in comparison.facts.items()
    )
    return f"<section><h2>Conditions</h2><dl>{pairs}</dl></section>"
