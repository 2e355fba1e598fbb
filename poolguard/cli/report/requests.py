"""Finds requests in recorded spans: the figures of all of them, by route, and the slowest.

A request is a SERVER span of a service that has poolguard's tags on any of its spans. Where the
tags are on an inner span, they count for the SERVER span around it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...telemetry.recorded import SERVICE, Span
from . import trees
from .summary import percentile

__all__ = ["Figures", "Request", "Requests", "figures", "find", "routes", "slowest"]

_ROUTES = ("http.route", "url.path", "http.target")
"""Attributes that say where a request went; the first one that is there counts."""

_SLACK = 10
"""The most parents that are followed from the span with the tags up to its request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its own span, and the span that has poolguard's tags, if any."""

    span: Span
    tagged: Span | None

    @property
    def outcome(self) -> str | None:
        """The outcome that poolguard's tags tell; None where it acquired nothing."""
        return None if self.tagged is None else str(self.tagged.attributes[trees.OUTCOME])

    @property
    def wait(self) -> float:
        return 0.0 if self.tagged is None else trees.wait_of(self.tagged)

    @property
    def duration(self) -> float:
        return max(self.span.end - self.span.start, 0.0)

    @property
    def share(self) -> float:
        """The part of its time that it waited; above 1 where it waited in several threads."""
        return self.wait / self.duration if self.duration else 0.0

    @property
    def route(self) -> str:
        for name in _ROUTES:
            if name in self.span.attributes:
                return str(self.span.attributes[name]).partition("?")[0]  # a query may be secret
        return self.span.name


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests found, and what was left out."""

    found: tuple[Request, ...]
    services: tuple[str, ...]
    """The services that answered them."""
    elsewhere: int
    """SERVER spans of services that never have poolguard's tags."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of some requests; times in seconds, None where there is nothing to measure."""

    requests: int
    outcomes: dict[str, int]
    """How many there were of each outcome, the worst last."""
    untagged: int
    """Requests that acquired nothing."""
    latency_p50: float | None
    latency_p99: float | None
    latency_max: float | None
    wait_p50: float | None
    """This and the next two are over the requests that acquired."""
    wait_p99: float | None
    wait_max: float | None
    wait_total: float
    latency_total: float
    share: float
    """``wait_total`` ÷ ``latency_total``."""


def find(spans: Sequence[Span]) -> Requests:
    """The requests among *spans*, in whatever order these are."""
    tagged = [span for span in spans if trees.OUTCOME in span.attributes]
    known = {_key(span): span for span in spans} if any(map(_is_inner, tagged)) else {}
    tags: dict[tuple[str, str | None], Span] = {}
    roots: list[Span] = []
    for span in sorted(tagged, key=_is_inner):
        root = _server_around(span, known)
        if _key(root) in tags:  # two records in one request: the second stands for itself
            root = span
        tags[_key(root)] = span
        roots.append(root)
    services = {_service(span) for span in tagged}
    others = [span for span in spans if span.kind == "SERVER" and _key(span) not in tags]
    ours = [span for span in others if not services or _service(span) in services]
    roots += ours
    return Requests(
        tuple(Request(root, tags.get(_key(root))) for root in roots),
        tuple(sorted({name for name in map(_service, roots) if name})),
        len(others) - len(ours),
    )


def figures(requests: Iterable[Request]) -> Figures:
    """All figures of *requests*."""
    requests = list(requests)
    latencies = sorted(request.duration for request in requests)
    waits = sorted(request.wait for request in requests if request.tagged is not None)
    counted = Counter(request.outcome for request in requests)
    untagged = counted.pop(None, 0)
    order = [*trees.MEANING, *sorted(set(map(str, counted)) - trees.MEANING.keys())]
    wait, latency = sum(waits), sum(latencies)
    return Figures(
        requests=len(requests),
        outcomes={name: counted[name] for name in order if counted[name] or name in trees.OUTCOMES},
        untagged=untagged,
        latency_p50=percentile(latencies, 0.50),
        latency_p99=percentile(latencies, 0.99),
        latency_max=latencies[-1] if latencies else None,
        wait_p50=percentile(waits, 0.50),
        wait_p99=percentile(waits, 0.99),
        wait_max=waits[-1] if waits else None,
        wait_total=wait,
        latency_total=latency,
        share=wait / latency if latency else 0.0,
    )


def routes(requests: Iterable[Request]) -> dict[str, Figures]:
    """The figures of each route; that on which most time was spent waiting comes first."""
    by_route: dict[str, list[Request]] = {}
    for request in requests:
        by_route.setdefault(request.route, []).append(request)
    found = {route: figures(of_route) for route, of_route in by_route.items()}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1].wait_total, pair[0])))


def slowest(
    requests: Iterable[Request], spans: Iterable[Span], most: int
) -> list[tuple[Request, trees.Tree]]:
    """The *most* requests that waited longest, with their trees; only such as waited at all."""
    picked = heapq.nsmallest(
        most, (r for r in requests if r.wait > 0), key=lambda r: (-r.wait, r.span.start)
    )
    of_trace: dict[str, list[Span]] = {request.span.trace_id: [] for request in picked}
    for span in spans:
        if span.trace_id in of_trace:
            of_trace[span.trace_id].append(span)
    return [(r, trees.grow(r.span, of_trace[r.span.trace_id])) for r in picked]


def _key(span: Span) -> tuple[str, str | None]:
    return span.trace_id, span.span_id


def _is_inner(span: Span) -> bool:
    return span.kind != "SERVER"


def _service(span: Span) -> str:
    return str(span.attributes.get(SERVICE, ""))


def _server_around(span: Span, known: dict[tuple[str, str | None], Span]) -> Span:
    """The SERVER span that *span* is or lies in, if it is of the same service."""
    around: Span | None = span
    for _ in range(_SLACK):
        if around is None or _service(around) != _service(span):
            break
        if not _is_inner(around):
            return around
        around = known.get((around.trace_id, around.parent_id))
    return span
