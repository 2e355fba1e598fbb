"""Spans as they were written to a file: OTLP/JSON, and what the SDK's ConsoleSpanExporter writes.

Only plain data goes in and comes out, so no package of OpenTelemetry is needed to read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = ["SERVICE", "STATUS", "Span", "Unreadable", "Value", "spans_of"]

Value = str | int | float | bool

SERVICE = "service.name"
STATUS = "otel.status_code"
"""What OpenTelemetry calls a span's status where it has to be an attribute."""

_NOTHING: dict[str, Any] = {}
_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
"""By their numbers in OTLP."""
_ERROR = 2
"""OTLP's number of the status."""
_SCALARS: dict[str, Callable[[Any], Value]] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": int,  # written as a text, since JavaScript has no integers of 64 bits
    "doubleValue": float,
}


_Reader = Callable[[Mapping[str, Any], Mapping[str, Value]], "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """One OpenTelemetry span; times in seconds since the epoch."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    """Its own, with its resource's ``service.name`` and, where it is an error, its status."""


class Unreadable(ValueError):
    """JSON that holds no spans in a known encoding; the text says what it is, as a noun."""


def spans_of(value: object) -> Iterator[Span | None]:
    """The spans in one JSON value; ``None`` for each that is not whole.

    :raises Unreadable: before the first span.
    """
    if isinstance(value, dict) and isinstance(value.get("resourceSpans"), list):
        return _of_request(value["resourceSpans"])
    if isinstance(value, dict) and isinstance(value.get("context"), dict):
        return iter((_whole(_from_console, value, _NOTHING),))
    raise Unreadable(_kind_of(value))


def _kind_of(value: object) -> str:
    first = _map(next(iter(value), None) if isinstance(value, list) else value)
    if {"resourceMetrics", "resourceLogs"} & first.keys():
        return "metrics or logs, no traces"
    if any("traceID" in each for each in (first, *_maps(first.get("data")))):
        return "Jaeger's JSON"
    if "traceId" in first and {"localEndpoint", "timestamp", "duration"} & first.keys():
        return "Zipkin's JSON"
    return "another kind of JSON"


def _of_request(resources: list[Any]) -> Iterator[Span | None]:
    for of_resource in _maps(resources):
        resource = _map(of_resource.get("resource"))
        shared = {
            name: value for name, value in _typed(resource.get("attributes")) if name == SERVICE
        }
        for of_scope in _maps(of_resource.get("scopeSpans")):
            for span in _list(of_scope.get("spans")):
                yield _whole(_from_otlp, span, shared)


def _whole(read: _Reader, span: Any, shared: Mapping[str, Value]) -> Span | None:
    """What *read* makes of it, unless something that every span has is missing or malformed."""
    try:
        found = read(span, shared)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return found if found.trace_id and found.span_id else None


def _from_otlp(span: Mapping[str, Any], shared: Mapping[str, Value]) -> Span:
    attributes = {**shared, **dict(_typed(span.get("attributes")))}
    if _map(span.get("status")).get("code") in (_ERROR, "STATUS_CODE_ERROR"):
        attributes[STATUS] = "ERROR"
    return Span(
        _text(span.get("name", "")),
        _kind(span.get("kind", 0)),
        _identity(span["traceId"]),
        _identity(span["spanId"]),
        _identity(span.get("parentSpanId") or "") or None,
        _seconds(span["startTimeUnixNano"]),
        _seconds(span["endTimeUnixNano"]),
        attributes,
    )


def _from_console(span: Mapping[str, Any], _: Mapping[str, Value]) -> Span:
    resource = _map(_map(span.get("resource")).get("attributes"))
    given = {SERVICE: resource.get(SERVICE), **_map(span.get("attributes"))}
    attributes = {name: value for name, value in given.items() if _is_value(value)}
    if _map(span.get("status")).get("status_code") == "ERROR":
        attributes[STATUS] = "ERROR"
    return Span(
        _text(span["name"]),
        _kind(span["kind"]),
        _identity(span["context"]["trace_id"]),
        _identity(span["context"]["span_id"]),
        _identity(span["parent_id"] or "") or None,
        _moment(span["start_time"]),
        _moment(span["end_time"]),
        attributes,
    )


def _typed(pairs: object) -> Iterator[tuple[str, Value]]:
    """OTLP's attributes; those that are no single value are left out."""
    for pair in _maps(pairs):
        key = pair.get("key")
        for name, raw in _map(pair.get("value")).items():
            if isinstance(key, str) and name in _SCALARS and _is_value(raw):
                try:
                    value = _SCALARS[name](raw)
                except (ValueError, OverflowError):
                    continue
                if _is_value(value):
                    yield key, value


def _is_value(value: object) -> bool:
    """A single value as OTLP has them, but neither NaN nor infinite: JSON cannot tell those."""
    if isinstance(value, int):
        return -1 << 63 <= value < 1 << 63
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _kind(kind: object) -> str:
    if isinstance(kind, int):
        return _KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0]
    return _text(kind).removeprefix("SpanKind.").removeprefix("SPAN_KIND_")


def _identity(text: object) -> str:
    """In lower case, as hex; one of nothing but zeros is none."""
    plain = _text(text).lower().removeprefix("0x")
    return plain if plain.strip("0") else ""


def _seconds(nanoseconds: str | int) -> float:
    given = int(nanoseconds)
    if not 0 < given < 1 << 64:
        raise ValueError(f"no moment: {given}")
    return given / 10**9  # not by 1e9, which would round twice


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text is due")
    return value


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NOTHING


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _maps(value: object) -> Iterator[Mapping[str, Any]]:
    return (each for each in _list(value) if isinstance(each, dict))
