"""Requests as trees of spans: how they grow, which are shown, and how they are drawn as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from textwrap import TextWrapper

from ...lab.result import Run, Span
from ...telemetry.recorded import SERVICE, STATUS, Value
from ...util.escape import escaped
from .summary import clock

__all__ = [
    "MEANING",
    "OUTCOME",
    "OUTCOMES",
    "WAIT",
    "Line",
    "Tree",
    "attributes",
    "draw",
    "grow",
    "missing",
    "pick",
    "prune",
    "shown",
    "wait_of",
]

OUTCOMES = ("acquired", "waited", "created")

MEANING = {
    "acquired": "took a free connection and did not wait",
    "waited": "waited for another request to return one",
    "created": "waited while a connection was being created",
    "timeout": "gave up waiting after acquire_timeout",
    "rejected": "found the queue full (max_waiting)",
    "error": "could not acquire for another reason",
}
"""What a request of each outcome did; the worst outcome comes last."""

OUTCOME = "poolguard.request.outcome"
WAIT = "poolguard.request.wait_time"

DEEPEST = 100
"""The most spans below one another in a tree: nothing deeper could be drawn."""

_SHOWN = (
    "http.route",
    STATUS,
    OUTCOME,
    "poolguard.request.acquire_count",
    "poolguard.request.waited_count",
    "poolguard.request.created_count",
    WAIT,
    "poolguard.acquire.outcome",
    "poolguard.acquire.wait_time",
    "poolguard.connection.age",
)
_SHOWN_OF_CLIENTS = ("server.address", "server.port", "db.namespace")


@dataclass(frozen=True, slots=True)
class Tree:
    """A span with the spans that it caused, in the order in which they began."""

    span: Span
    children: tuple[Tree, ...] = ()

    @property
    def duration(self) -> float:
        return max(self.span.end - self.span.start, 0.0)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Tree]]:
        """This tree and all below it with their depths, parents first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def window(self) -> tuple[float, float]:
        """When the first span of the tree begins, and how long it is until the last ends.

        A connect may have begun before the request that it served, for the sake of another one. A
        span that lies wholly outside its request does not count: with a clock that is wrong, it
        would leave no room for the others.
        """
        spans = [
            tree.span
            for _, tree in self.walk()
            if tree.span.start <= self.span.end and tree.span.end >= self.span.start
        ]
        begin = min((span.start for span in spans), default=self.span.start)
        end = max((span.end for span in spans), default=self.span.end)
        return begin, max(end - begin, 1e-9)

    def place(self, begin: float, length: float) -> tuple[float, float]:
        """Where this tree's span begins and ends in a window: 0 at its left, 1 at its right."""
        start = min(max((self.span.start - begin) / length, 0.0), 1.0)
        return start, min(max((self.span.end - begin) / length, start), 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a drawn tree: a span, or a detail of the span above it."""

    text: str
    detail: bool = False


def pick(run: Run) -> dict[str, Tree | None]:
    """One typical request of each outcome, by its wait the median one; None where there is none."""
    found: dict[str, Tree | None] = {}
    for outcome in OUTCOMES:
        requests = [span for span in run.spans if span.attributes.get(OUTCOME) == outcome]
        requests.sort(key=_by_wait)
        found[outcome] = grow(requests[(len(requests) - 1) // 2], run.spans) if requests else None
    return found


def missing(outcome: str, run: Run) -> str:
    """The sentence that stands in place of a tree."""
    return f"no recorded request of {run.name}'s run {MEANING[outcome]}."


def shown(span: Span) -> dict[str, Value]:
    """The few attributes that matter. No others may be shown, since they could hold secrets."""
    names = _SHOWN + (_SHOWN_OF_CLIENTS if span.kind.upper().endswith("CLIENT") else ())
    return {name: span.attributes[name] for name in names if name in span.attributes}


def attributes(span: Span) -> list[tuple[str, str]]:
    """The same attributes as pairs of a name and a value for people to read."""
    return [(name, _readable(name, value)) for name, value in shown(span).items()]


def draw(tree: Tree, width: int, *, unicode: bool = True) -> list[Line]:
    """A tree as lines of text: a span's name, bar in time and duration, its attributes below."""
    label_width = min(max(width // 3, 16), 32)
    room = max(width - label_width - 11, 4)
    begin, length = tree.window()
    block, joint = ("█", " · ") if unicode else ("#", ", ")
    lines = []
    for indent, rest, node in _branches(tree, unicode):
        start, end = node.place(begin, length)
        first = min(int(start * room), room - 1)
        last = max(math.ceil(end * room), first + 1)
        bar = " " * first + block * (last - first)
        name = (indent + escaped(node.span.name))[:label_width]
        lines.append(Line(f"{name:<{label_width}} {bar:<{room}} {clock(node.duration):>9}"[:width]))
        pairs = attributes(node.span)
        service = node.span.attributes.get(SERVICE)
        if service is not None and service != tree.span.attributes.get(SERVICE):
            pairs.insert(0, (SERVICE, escaped(str(service))))
        details = _wrapped(pairs, rest, width, joint)
        lines += [Line(text[:width], detail=True) for text in details]
    return lines


def _branches(tree: Tree, unicode: bool) -> Iterator[tuple[str, str, Tree]]:
    """Each span with what stands left of its own line, and left of the lines beneath it."""
    tee, corner, bar = ("├─ ", "└─ ", "│  ") if unicode else ("+- ", "`- ", "|  ")

    def below(node: Tree, prefix: str) -> Iterator[tuple[str, str, Tree]]:
        for number, child in enumerate(node.children, 1):
            last = number == len(node.children)
            rest = prefix + ("   " if last else bar)
            yield prefix + (corner if last else tee), _under(rest, child), child
            yield from below(child, rest)

    def _under(prefix: str, node: Tree) -> str:
        return prefix + (bar if node.children else "   ")

    yield "", _under("", tree), tree
    yield from below(tree, "")


def _wrapped(pairs: Iterable[tuple[str, str]], indent: str, width: int, joint: str) -> list[str]:
    """Attributes on as few lines as they need; a prefix that repeats is written once."""
    parts, before = [], ""
    for name, value in pairs:
        prefix, dot, last = name.rpartition(".")
        # a no-break space keeps name, figure and unit on one line
        parts.append(f"{dot + last if prefix == before else name} {value}".replace(" ", "\xa0"))
        before = prefix
    wrapper = TextWrapper(
        width=max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in wrapper.wrap(joint.join(parts))]


def grow(span: Span, spans: Iterable[Span]) -> Tree:
    """The tree below *span*, of those among *spans* that belong to it."""
    by_parent: dict[str, list[Span]] = {}
    for other in spans:
        if other.trace_id == span.trace_id and other.parent_id not in (None, other.span_id):
            by_parent.setdefault(other.parent_id or "", []).append(other)

    def grown(root: Span, depth: int) -> Tree:
        # pop() ends the recursion where a span is its own ancestor; get() would not
        below = by_parent.pop(root.span_id, ()) if depth < DEEPEST else ()
        ordered = sorted(below, key=lambda s: (s.start, s.span_id))
        return Tree(root, tuple(grown(child, depth + 1) for child in ordered))

    return grown(span, 0)


def prune(tree: Tree, most: int) -> Tree:
    """The tree cut to about *most* spans: the pool's and the longest, with their ancestors."""
    nodes = [node for _, node in tree.walk()]
    if len(nodes) <= most:
        return tree
    nodes.sort(key=lambda node: (not node.span.name.startswith("pool."), -node.duration))
    kept = {id(node) for node in nodes[:most]}

    def cut(node: Tree) -> Tree:
        children = [(child, cut(child)) for child in node.children]
        return replace(
            node, children=tuple(new for old, new in children if new.children or id(old) in kept)
        )

    return cut(tree)


def wait_of(span: Span) -> float:
    """The seconds that a request waited, as its span says."""
    wait = span.attributes.get(WAIT, 0.0)
    return float(wait) if isinstance(wait, (int, float)) and 0 < wait < math.inf else 0.0


def _by_wait(span: Span) -> tuple[float, float, float, str]:
    return wait_of(span), span.end - span.start, span.start, span.span_id


def _readable(name: str, value: str | int | float | bool) -> str:
    if name.endswith(("wait_time", ".age")) and isinstance(value, (int, float)):
        return clock(float(value))
    return escaped(str(value))
