"""The record of one request: what its acquires were, and the span that is to say so.

It is a mutable object in a context variable: a value set further in (in the framework, in a thread
of anyio's pool) would not be seen further out, a change to the one object is. Its tags are written
through to the span at each acquire, since a server span may end before the application returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ..pool.outcome import worst

if TYPE_CHECKING:
    from ..listener import AcquireEnded, Outcome

__all__ = ["CURRENT", "Request"]

CURRENT: ContextVar[Request | None] = ContextVar("poolguard_request", default=None)
"""The request that this context serves."""

tracer = trace.get_tracer("poolguard")


class Request:
    """What one request acquired. Made by the middlewares at its entry.

    :param method: the HTTP method, for a span of our own.
    :param path: the path, for the same.
    :param headers: in lower case, for the trace that a span of our own continues.
    """

    __slots__ = (
        "_began",
        "_headers",
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

    def __init__(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        self._began = time_ns()
        self._method = method
        self._path = path
        self._headers = headers
        self._own = False
        span = trace.get_current_span()
        self._span: Span | None = span if span.get_span_context().is_valid else None
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
    def has_span(self) -> bool:
        """A span was current when the request entered."""
        return self._span is not None

    @property
    def has_own_span(self) -> bool:
        """A span of our own was begun for it, and must be ended with it."""
        return self._own

    def note(self, event: AcquireEnded) -> Span:
        """Count one acquire and write the tags through; returns the span that has them."""
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
        if span.is_recording():
            span.set_attribute("poolguard.request.outcome", self.outcome)
            span.set_attribute("poolguard.request.acquire_count", self.acquires)
            span.set_attribute("poolguard.request.wait_time", self.wait_time)
            if self.waited:
                span.set_attribute("poolguard.request.waited_count", self.waited)
            if self.created:
                span.set_attribute("poolguard.request.created_count", self.created)
        return span

    def _bind(self) -> Span:
        """The span for the tags: the one current now, at the first acquire, or one of our own.

        One of our own is not begun at the request's entry: a framework that is instrumented
        further in would find it and make its own server span an internal one.
        """
        span = trace.get_current_span()
        if span.get_span_context().is_valid:
            return span
        self._own = True
        return tracer.start_span(
            self._method,
            context=propagate.extract(self._headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": self._method, "url.path": self._path},
            start_time=self._began,
        )

    def end(self, status: int | None, error: BaseException | None = None) -> None:
        """The response is complete, or the application has failed."""
        if not self._own or self._span is None:
            return
        self._own = False
        if self._span.is_recording():
            if status is not None:
                self._span.set_attribute("http.response.status_code", status)
            if error is not None:
                self._span.set_attribute("error.type", type(error).__qualname__)
            if error is not None or (status is not None and status >= 500):
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
