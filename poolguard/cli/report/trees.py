"""Three requests as trees of spans: one that acquired, one that waited, one that created."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import TextWrapper

from ...lab.result import Run, Span
from .summary import clock

__all__ = ["MEANING", "OUTCOMES", "Line", "Tree", "attributes", "draw", "missing", "pick"]

OUTCOMES = ("acquired", "waited", "created")

MEANING = {
    "acquired": "took a free connection and did not wait",
    "waited": "waited for another request to return one",
    "created": "waited while a connection was being created",
}
"""What a request of each outcome did."""

_OUTCOME = "poolguard.request.outcome"
_WAIT = "poolguard.request.wait_time"

_SHOWN = (
    _OUTCOME,
    "poolguard.request.acquire_count",
    "poolguard.request.waited_count",
    "poolguard.request.created_count",
    _WAIT,
    "poolguard.acquire.outcome",
    "poolguard.acquire.wait_time",
    "poolguard.connection.age",
)
_SHOWN_OF_CLIENTS = ("server.address", "server.port", "db.namespace")


@dataclass(frozen=True, slots=True)
class Tree:
    """A span with those that it caused, in the order in which they began."""

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

        A connect may have begun before the request that it served: another one set it off.
        """
        spans = [tree.span for _, tree in self.walk()]
        begin = min(span.start for span in spans)
        return begin, max(max(span.end for span in spans) - begin, 1e-9)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a drawn tree: a span, or a detail of the span above it."""

    text: str
    detail: bool = False


def pick(run: Run) -> dict[str, Tree | None]:
    """One typical request of each outcome, that of the median wait; ``None`` where none is."""
    found: dict[str, Tree | None] = {}
    for outcome in OUTCOMES:
        requests = [span for span in run.spans if span.attributes.get(_OUTCOME) == outcome]
        requests.sort(key=_by_wait)
        found[outcome] = _grow(requests[(len(requests) - 1) // 2], run.spans) if requests else None
    return found


def missing(outcome: str, run: Run) -> str:
    """What stands where a tree would."""
    return f"no recorded request of {run.name}'s run {MEANING[outcome]}."


def attributes(span: Span) -> list[tuple[str, str]]:
    """The few attributes that matter, as (name, value to read)."""
    names = _SHOWN + (_SHOWN_OF_CLIENTS if span.kind.upper().endswith("CLIENT") else ())
    return [
        (name, _readable(name, span.attributes[name])) for name in names if name in span.attributes
    ]


def draw(tree: Tree, width: int, *, unicode: bool = True) -> list[Line]:
    """A tree as lines of text: names, bars placed in time, durations; attributes beneath."""
    label_width = min(max(width // 3, 16), 32)
    room = max(width - label_width - 11, 4)
    begin, length = tree.window()
    block, joint = ("█", " · ") if unicode else ("#", ", ")
    lines = []
    for indent, rest, node in _branches(tree, unicode):
        first = min(int((node.span.start - begin) / length * room), room - 1)
        last = max(math.ceil((node.span.end - begin) / length * room), first + 1)
        bar = " " * first + block * (last - first)
        name = (indent + _printable(node.span.name))[:label_width]
        lines.append(Line(f"{name:<{label_width}} {bar:<{room}} {clock(node.duration):>9}"[:width]))
        details = _wrapped(attributes(node.span), rest, width, joint)
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
    """Attributes on as few lines as they need; a prefix is said once, then stands for the rest."""
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


def _grow(span: Span, spans: Iterable[Span]) -> Tree:
    by_parent: dict[str, list[Span]] = {}
    for other in spans:
        if other.trace_id == span.trace_id and other.parent_id not in (None, other.span_id):
            by_parent.setdefault(other.parent_id or "", []).append(other)

    def grown(root: Span) -> Tree:
        # pop, not get: a span that is somehow its own ancestor ends here instead of never
        below = sorted(by_parent.pop(root.span_id, ()), key=lambda s: (s.start, s.span_id))
        return Tree(root, tuple(grown(child) for child in below))

    return grown(span)


def _by_wait(span: Span) -> tuple[float, float, float, str]:
    wait = span.attributes.get(_WAIT, 0.0)
    seconds = float(wait) if isinstance(wait, (int, float)) else 0.0
    return seconds, span.end - span.start, span.start, span.span_id


def _readable(name: str, value: str | int | float | bool) -> str:
    if name.endswith(("wait_time", ".age")) and isinstance(value, (int, float)):
        return clock(float(value))
    return _printable(str(value))


def _printable(text: str) -> str:
    """Without line breaks and escape sequences, which would break a terminal's lines."""
    return "".join(char if char.isprintable() else "?" for char in text)
