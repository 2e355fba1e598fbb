"""The server span of a request for which nobody else has begun one.

It begins when the request ends, and is dated back: an instrumentation further in than the first
acquire may yet begin the server span, as an internal one if it found another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..pool.acquirer import CURRENT
from .exclusions import LEFT_OUT, is_excluded, is_silenced, leads_to

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from .api import Api
    from .http import Attributes

__all__ = ["HEADERS_ALONE", "Reader", "Seen", "begin_own", "end_own", "fail"]


class Reader(NamedTuple):
    """How a protocol's own record of a request is read."""

    headers: Callable[[Any], Mapping[str, str]]
    """Names in lower case, for the trace that the span continues."""
    describe: Callable[[Any], Attributes]
    """Further attributes."""


HEADERS_ALONE = Reader(lambda headers: headers, lambda _: {})


class Seen(NamedTuple):
    """What is known of a request for a span of its own."""

    began: int
    """In nanoseconds since the epoch."""
    method: str
    path: str
    record: Any
    """The protocol's own."""
    reader: Reader
    """Reads that."""
    left_out: str | None
    """The URL that an instrumentation has left out last, within the request."""


def begin_own(otel: Api, seen: Seen) -> Span | None:
    """The span of a request; None where it is to have none."""
    from .http import method_of, span_name

    headers, describe = seen.reader
    attributes = {**method_of(seen.method), "url.path": seen.path, **describe(seen.record)}
    if is_silenced(otel) or is_excluded(attributes):
        return None
    if any(url and leads_to(url, seen.path) for url in (seen.left_out, LEFT_OUT.get())):
        return None  # an instrumentation, further in or further out, has left the request out
    token = CURRENT.set(None)  # or our processor would tell a request further out of it
    try:
        return otel.tracer.start_span(
            span_name(attributes),
            context=otel.propagate.extract(headers(seen.record), otel.context.get_current()),
            kind=otel.trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=seen.began,
        )
    finally:
        CURRENT.reset(token)


def end_own(span: Span, status: int | str | None, error: BaseException | None) -> None:
    """End it with what became of the request: a *status*, or a line that begins with one."""
    if isinstance(status, str):
        status = int(status[:3]) if status[:3].isdecimal() else None
    if span.is_recording():
        failed = status is not None and status >= 500
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if error is not None or failed:
            span.set_attribute(
                "error.type", str(status) if error is None else type(error).__qualname__
            )
            fail(span)
    span.end()


def fail(span: Span) -> None:
    """Mark *span* as failed."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR))
