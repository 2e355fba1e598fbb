"""poolguard's metrics by the names that Prometheus has for them, and those in a PromQL query."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from poolguard.telemetry.metrics import INSTRUMENTS, Instrument
from poolguard.telemetry.names import POOL_NAME

__all__ = ["LABELS", "METRICS", "Names", "names_in", "series_of"]

_AGGREGATIONS = {"sum", "max", "min", "avg", "count"}
_FUNCTIONS = {"rate", "increase", "histogram_quantile"}
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_OPERATORS = {"and", "or", "unless", "bool", "offset"}
_TOKEN = re.compile(
    r"""\s+ | (?P<text>"(?:[^"\\]|\\.)*") | (?P<range>\[[^\]]*\])
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*) | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+|ms|[smhdwy])?)
    | (?P<sign>=~|!~|!=|<=|>=|==|[-+*/%^<>=(){},])""",
    re.VERBOSE,
)


def _label(attribute: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", attribute)


def series_of(instrument: Instrument) -> dict[str, set[str]]:
    """The series that OpenTelemetry's rules make of an instrument, each with its labels.

    Dots become underscores; the unit is appended, unless it is a note in braces; ``_total`` to what
    only grows.
    """
    name = _label(instrument.name)
    if instrument.unit == "s":
        name += "_seconds"
    else:
        assert re.fullmatch(r"\{\w+\}", instrument.unit), "a unit whose suffix is not known here"
    labels = {_label(POOL_NAME), *([_label(instrument.attribute)] if instrument.attribute else [])}
    if instrument.kind == "counter":
        return {f"{name}_total": labels}
    if instrument.kind == "histogram":
        return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {name: labels}


METRICS = {name: labels for each in INSTRUMENTS for name, labels in series_of(each).items()}
"""By the series' name: its labels, but for those that Prometheus adds."""
TARGET = {"job", "instance"}
"""The labels that tell who told a series, in each way that leads to Prometheus."""
LABELS = TARGET.union(*METRICS.values())


class Names(NamedTuple):
    """What a query names."""

    metrics: set[str]
    labels: set[str]


def names_in(query: str) -> Names:
    """The metrics and the labels of *query*.

    :raises ValueError: where it is no PromQL, or has more of it than this reads.
    """
    metrics: set[str] = set()
    labels: set[str] = set()
    tokens = [*_tokens(query)]
    within, lists = 0, False
    for at, (kind, token) in enumerate(tokens):
        after = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if token in ("{", "}"):
            within += 1 if token == "{" else -1
        elif token == ")":
            lists = False
        elif kind == "name" and within:
            if after not in ("=", "!=", "=~", "!~"):
                raise ValueError(f"{token!r} is compared with nothing: {query}")
            labels.add(token)
        elif kind == "name" and lists:
            labels.add(token)
        elif token in _LISTS and after == "(":
            lists = True
        elif kind == "name" and (after == "(" or token in _AGGREGATIONS):
            if token not in _FUNCTIONS | _AGGREGATIONS:
                raise ValueError(f"{token!r} is no function known here: {query}")
        elif kind == "name" and token not in _OPERATORS:
            metrics.add(token)
    return Names(metrics, labels)


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    at = 0
    pairs = {")": "(", "}": "{"}
    open_ones: list[str] = []
    while at < len(query):
        found = _TOKEN.match(query, at)
        if found is None:
            raise ValueError(f"not read from {query[at:]!r}")
        at = found.end()
        token = found[0]
        if token in ("(", "{"):
            open_ones.append(token)
        elif token in pairs and (not open_ones or open_ones.pop() != pairs[token]):
            raise ValueError(f"{token!r} closes nothing: {query}")
        if found.lastgroup is not None:
            yield found.lastgroup, token
    if open_ones:
        raise ValueError(f"{open_ones[-1]!r} is not closed: {query}")
