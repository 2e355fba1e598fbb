"""``poolguard trace``: what recorded spans say of a service's requests, with no tracing backend."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ..errors import PoolguardError
from ..util.escape import as_json, escaped
from .arguments import from_zero
from .report import requests, trees
from .report.requests import Figures, Request
from .report.summary import clock
from .spanfiles import Recorded, read
from .text import columns, plural, say, speaks_unicode, terminal_width, wrapped

__all__ = ["add_to"]

VERSION = 1
"""The version of the JSON. It is raised when a key changes its meaning or goes, and not when keys
are added."""

WIDEST = 120
"""The most columns of a tree, which gains from wider lines than text does."""

MOST_SPANS = 15
"""A tree with more spans is cut to the pool's spans and the longest."""

MOST_ROUTES = 20
"""The most rows of the table; --json has all routes."""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "trace",
        help="what recorded spans say: how long requests waited for a connection, and which",
        description="Reads spans from files, with no tracing backend: OTLP/JSON lines, as the "
        "OpenTelemetry Collector's file exporter writes them, or what the SDK's "
        "ConsoleSpanExporter writes. Either may be compressed with gzip. It tells how many "
        "requests waited for a connection or for its creation, and shows those that waited "
        "longest.",
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a file; - is standard input")
    parser.add_argument(
        "--slowest",
        metavar="N",
        type=from_zero,
        default=5,
        help="how many requests to show, of those that waited longest (5)",
    )
    parser.add_argument("--routes", action="store_true", help="also show the figures of each route")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    recorded = read(options.files)
    found = requests.find(recorded.spans)
    if not found.found:
        raise PoolguardError(
            f"no requests among the {_counted(len(recorded.spans), 'span')}: none is of kind "
            f"SERVER, and none has {trees.OUTCOME}"
        )
    slowest = requests.slowest(found.found, recorded.spans, options.slowest)
    if options.json:
        print(as_json(_machine(recorded, found, slowest), indent=1))
    else:
        say(_report(recorded, found, slowest, by_route=options.routes))
    return 0


_Slowest = list[tuple[Request, trees.Tree]]


def _report(
    recorded: Recorded, found: requests.Requests, slowest: _Slowest, *, by_route: bool
) -> Iterator[str]:
    figures = requests.figures(found.found)
    yield from _heading(found)
    yield ""
    yield from _outcomes(figures)
    yield ""
    yield from _times(figures)
    if notes := list(_notes(recorded, found, figures)):
        yield ""
        for note in notes:
            yield from wrapped(note)
    if by_route:
        yield ""
        yield from _routes(found)
    for request, tree in slowest:
        yield ""
        yield from _tree(request, tree)


def _heading(found: requests.Requests) -> list[str]:
    begin = min(request.span.start for request in found.found)
    end = max(request.span.end for request in found.found)
    text = f"{_counted(len(found.found), 'request')} in {clock(max(end - begin, 0.0))}"
    if found.services:
        text += f", {plural(len(found.services), 'service')} "
        text += escaped(", ".join(found.services))
    return wrapped(text)


def _outcomes(figures: Figures) -> list[str]:
    rows = [(escaped(name), n, trees.MEANING.get(name, "")) for name, n in figures.outcomes.items()]
    if figures.untagged:
        rows.append(("none", figures.untagged, "acquired nothing"))
    return columns(
        [(name, f"{n:,}", f"{n / figures.requests * 100:.1f} %", told) for name, n, told in rows],
        right=(1, 2),
    )


def _times(figures: Figures) -> Iterator[str]:
    rows = [
        ("", "median", "99th", "longest"),
        ("latency", *map(clock, (figures.latency_p50, figures.latency_p99, figures.latency_max))),
    ]
    if figures.wait_max is not None:
        rows.append(("wait", *map(clock, (figures.wait_p50, figures.wait_p99, figures.wait_max))))
    yield from columns(rows, right=(1, 2, 3))
    yield ""
    yield from wrapped(
        f"Waiting for a connection took {_percent(figures.share)} of the requests' time: "
        f"{clock(figures.wait_total)} of {clock(figures.latency_total)}."
    )


def _notes(recorded: Recorded, found: requests.Requests, figures: Figures) -> Iterator[str]:
    if not any(figures.outcomes.values()):
        yield (
            f"Note: none of them has {trees.OUTCOME}. Is the application in PoolGuardMiddleware, "
            "and does the middleware run in the process whose spans these are?"
        )
    if found.elsewhere:
        yield (
            f"Note: {_counted(found.elsewhere, 'request')} of services without poolguard left out."
        )
    if recorded.duplicates:
        yield f"Note: {_counted(recorded.duplicates, 'span')} left out that had come before."
    if recorded.unread:
        told = ", ".join(f"{n:,} × {kind}" for kind, n in recorded.unread.most_common())
        yield f"Note: not read: {told}."


def _routes(found: requests.Requests) -> Iterator[str]:
    by_route = requests.routes(found.found)
    rows = [
        (
            _cut(escaped(route), max(terminal_width() - 56, 16)),
            f"{figures.requests:,}",
            f"{figures.outcomes.get('created', 0):,}",
            f"{figures.outcomes.get('waited', 0):,}",
            clock(figures.wait_p99),
            clock(figures.wait_total),
        )
        for route, figures in list(by_route.items())[:MOST_ROUTES]
    ]
    head = ("route", "requests", "created", "waited", "99th wait", "total wait")
    yield from columns([head, *rows], right=(1, 2, 3, 4, 5))
    if len(by_route) > MOST_ROUTES:
        yield f"and {_counted(len(by_route) - MOST_ROUTES, 'route')} more, all of them in --json"


def _tree(request: Request, tree: trees.Tree) -> Iterator[str]:
    yield from wrapped(
        f"{escaped(request.outcome or '')}: waited {clock(request.wait)} of "
        f"{clock(request.duration)} ({_percent(request.share)}), trace "
        f"{escaped(request.span.trace_id)}"
    )
    pruned = trees.prune(tree, MOST_SPANS)
    for line in trees.draw(pruned, terminal_width(WIDEST), unicode=speaks_unicode()):
        yield line.text
    if hidden := sum(1 for _ in tree.walk()) - sum(1 for _ in pruned.walk()):
        yield f"and {_counted(hidden, 'more span')}"


def _machine(recorded: Recorded, found: requests.Requests, slowest: _Slowest) -> dict[str, Any]:
    """The same figures for machines: times in seconds, moments in seconds since the epoch."""
    return {
        "version": VERSION,
        "services": list(found.services),
        **_figures(requests.figures(found.found)),
        "routes": [
            {"route": route, **_figures(figures)}
            for route, figures in requests.routes(found.found).items()
        ],
        "slowest": [
            {
                "trace_id": request.span.trace_id,
                "outcome": request.outcome,
                "route": request.route,
                "duration": request.duration,
                "wait": request.wait,
                "share": request.share,
                "spans": [
                    {
                        "name": node.span.name,
                        "kind": node.span.kind,
                        "span_id": node.span.span_id,
                        "parent_id": node.span.parent_id,
                        "start": node.span.start,
                        "end": node.span.end,
                        "attributes": trees.shown(node.span),
                    }
                    for _, node in tree.walk()
                ],
            }
            for request, tree in slowest
        ],
        "read": {
            "lines": recorded.lines,
            "spans": len(recorded.spans),
            "duplicates": recorded.duplicates,
            "elsewhere": found.elsewhere,
            "unread": dict(recorded.unread),
        },
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "requests": figures.requests,
        "outcomes": figures.outcomes,
        "acquired_nothing": figures.untagged,
        "latency": {
            "p50": figures.latency_p50,
            "p99": figures.latency_p99,
            "maximum": figures.latency_max,
            "total": figures.latency_total,
        },
        "wait": {
            "p50": figures.wait_p50,
            "p99": figures.wait_p99,
            "maximum": figures.wait_max,
            "total": figures.wait_total,
        },
        "share": figures.share,
    }


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{share * 100:.1f} %" if 0 < share < 0.1 else f"{share * 100:.0f} %"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {plural(n, what)}"
