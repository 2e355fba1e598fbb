"""The span around a request: the current one, or the server span that our processor has seen."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import ref

from ..util.rarely import Failures
from .api import api

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = [
    "SERVING",
    "context_of",
    "failures",
    "lasting",
    "local_span",
    "reference",
    "span_around",
    "told",
]

Reference = Callable[[], "Span | None"]

SERVING: ContextVar[Reference | None] = ContextVar("poolguard_serving", default=None)
"""The server span that this context has begun last, whether it still lasts or not."""

failures = Failures()
"""Of spans, which may be any vendor's."""


def reference(span: Span) -> Reference:
    """What leads to *span* and does not keep it, unless it allows no weak references."""
    try:
        return ref(span)
    except TypeError:
        return lambda: span


def told(seconds: float) -> float:
    """As a tag: to the microsecond, since somebody reads it."""
    return round(seconds, 6)


def lasting(span: Span) -> Span:
    """What says of *span* which one it is, and keeps nothing else of it."""
    otel = api()
    return span if otel is None else otel.trace.NonRecordingSpan(span.get_span_context())


def context_of(span: Span | None) -> Context | None:
    """This context with *span* as the current one, or with no span at all; None where nobody
    records spans, and the context is as good as any."""
    otel = api()
    if otel is None:
        return None
    current = otel.trace.INVALID_SPAN if span is None else span
    context: Context = otel.trace.set_span_in_context(current)
    return context


def local_span() -> Span | None:
    """The current span, if it is one of this process, whether recording or not.

    One that was only announced to us, by a ``traceparent`` that somebody extracted, is none.
    """
    otel = api()
    if otel is None:
        return None
    span: Span = otel.trace.get_current_span()
    known = span.get_span_context()
    return span if known.is_valid and not known.is_remote else None


def span_around() -> Span | None:
    """The span that a request lies in, which is to have its tags; None where none is known yet."""
    span = local_span()
    if span is None:
        return None
    if span.is_recording():
        return _server_of(span)
    # One that is sampled and records no more has ended, and is not this request's: asyncio leaks
    # a request's context into the next one of its connection (python/cpython#140947).
    return None if span.get_span_context().trace_flags.sampled else span


def _server_of(span: Span) -> Span:
    """The server span that *span* lies in, where our processor has seen it; else *span*."""
    seen = SERVING.get()
    server = None if seen is None else seen()
    if server is None or server is span or not server.is_recording():
        return span
    same = server.get_span_context().trace_id == span.get_span_context().trace_id
    return server if same else span
