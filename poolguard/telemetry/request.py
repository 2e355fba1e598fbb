"""The record of one request: what its acquires were, and the span that is to say so.

It is a mutable object in a context variable: a value set further in (in the framework, in a thread
of anyio's pool) would not be seen further out, a change to the one object is. Its tags are written
through to the span at each acquire, since a server span may end before the application returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import time_ns
from typing import TYPE_CHECKING

from ..borrower import CURRENT, Borrower
from ..pool.outcome import worst
from ..rarely import Failures
from .api import api

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..listener import AcquireEnded, Outcome
    from .http import Attributes

__all__ = ["CURRENT", "Request", "fail", "local_span"]

_failures = Failures()


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


def fail(span: Span) -> None:
    """Mark *span* as failed."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR))


class Request(Borrower):
    """What one request acquired. Made by the middlewares at its entry.

    :param method: the HTTP method, for a span of our own.
    :param path: the path, for the same.
    :param headers: in lower case, for the trace that a span of our own continues.
    :param describe: gives further attributes for a span of our own.
    """

    __slots__ = (
        "_began",
        "_describe",
        "_ended",
        "_headers",
        "_lock",
        "_method",
        "_own",
        "_path",
        "_span",
        "acquires",
        "created",
        "outcome",
        "wait_time",
        "waited",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        describe: Callable[[], Attributes] = dict,
    ) -> None:
        super().__init__()
        self._began = time_ns()
        self._method = method
        self._path = path
        self._headers = headers
        self._describe = describe
        self._own = False
        self._ended = False
        self._lock = threading.Lock()
        self._span = local_span()
        self.outcome: Outcome = "acquired"
        self.acquires = 0
        self.waited = 0
        self.created = 0
        self.wait_time = 0.0

    def __repr__(self) -> str:
        return (
            f"<Request {self._method} {self._path} {self.outcome} acquires={self.acquires} "
            f"waited={self.waited} created={self.created} wait_time={self.wait_time:.6f}>"
        )

    @property
    def label(self) -> str:
        return f"{self._method} {self._path}"

    @property
    def has_span(self) -> bool:
        """A span was current when the request entered."""
        return self._span is not None

    def note(self, event: AcquireEnded) -> Span | None:
        """Count one acquire and write the tags through; returns the span that has them."""
        with self._lock:  # one request may acquire in several threads at once
            self.acquires += 1
            self.outcome = worst(self.outcome, event.outcome)
            if event.outcome == "waited":
                self.waited += 1
            elif event.outcome == "created":
                self.created += 1
            if event.outcome != "acquired":
                self.wait_time += event.ended - event.began
            span = self._span
            if span is None:
                span = self._span = self._bind()
            if span is not None and span.is_recording():
                span.set_attribute("poolguard.request.outcome", self.outcome)
                span.set_attribute("poolguard.request.acquire_count", self.acquires)
                span.set_attribute("poolguard.request.wait_time", self.wait_time)
                if self.waited:
                    span.set_attribute("poolguard.request.waited_count", self.waited)
                if self.created:
                    span.set_attribute("poolguard.request.created_count", self.created)
            return span

    def _bind(self) -> Span | None:
        """The span for the tags: the one current now, at the first acquire, or one of our own.

        One of our own is not begun at the request's entry: a framework that is instrumented
        further in would find it and make its own server span an internal one.
        """
        span, otel = local_span(), api()
        if span is not None or otel is None:
            return span
        if self._ended:  # a task that outlives its request: nobody would end a span begun now
            return None
        from .http import method_of, span_name

        attributes = {**method_of(self._method), "url.path": self._path, **self._describe()}
        span = otel.tracer.start_span(
            span_name(attributes),
            context=otel.propagate.extract(self._headers, otel.context.get_current()),
            kind=otel.trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=self._began,
        )
        self._own = True  # only now: where that raises, the next acquire may find a span of others
        return span

    def end(self, status: int | None, error: BaseException | None = None) -> None:
        """The response is complete, or the application has failed. Only the first call counts."""
        self.ended()
        with self._lock:
            span = self._span if self._own and not self._ended else None
            self._ended = True
        if span is not None:
            try:
                _end(span, status, error)
            except Exception:  # noqa: BLE001 - a span processor's; logged, and no request's matter
                _failures.log("end", "a request's span could not be ended; the request goes on")


def _end(span: Span, status: int | None, error: BaseException | None) -> None:
    if span.is_recording():
        failed = status is not None and status >= 500
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if error is not None or failed:
            reason = str(status) if error is None else type(error).__qualname__
            span.set_attribute("error.type", reason)
            fail(span)
    span.end()
