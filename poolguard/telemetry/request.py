"""The record of one request: what its acquires were, and the span that is to say so.

It is a mutable object in a context variable: a value set further in (in the framework, in a thread
of anyio's pool) would not be seen further out, a change to the one object is. Its tags are written
through to the span at each acquire, since a server span may end before the application returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from time import time_ns
from typing import TYPE_CHECKING, Any

from ..pool.acquirer import CURRENT, Acquirer
from ..pool.outcomes import worst
from ..util.escape import escaped
from .api import api
from .exclusions import is_marked, listen
from .own import HEADERS_ALONE, Reader, Seen, begin_own, end_own
from .providers import watch
from .serving import failures, local_span, span_around, told

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ..pool.events import AcquireEnded, Outcome
    from .api import Api
    from .http import Attributes

__all__ = [
    "CURRENT",
    "DEFERRED_AT_MOST",
    "Reader",
    "Request",
    "hear_exclusions",
    "prepare",
]

DEFERRED_AT_MOST = 100
"""Spans of acquires that wait for the span of their request."""


def prepare() -> None:
    """Import what the first request would, and see which spans begin from now on."""
    import_module(f"{__package__}.http")
    hear_exclusions()
    if (otel := api()) is not None:
        watch(otel)


def hear_exclusions() -> None:
    """Learn from now on which requests an instrumentation leaves out, also one further out."""
    listen(_leave_out)


def _leave_out(url: str) -> None:
    """An instrumentation begins no span for the request for *url*: this one, or one of a client."""
    request = CURRENT.get()
    if isinstance(request, Request):
        request.left_out = url


def _span_at_entry(otel: Api) -> Span | None:
    try:
        hear_exclusions()
        watch(otel)
        return span_around()
    except Exception:  # noqa: BLE001 - a vendor's span may do anything; logged
        failures.log("entry", "a request's span could not be found; the request goes on")
        return None


class Request(Acquirer):
    """What one request acquired. Made by the middlewares at its entry, for each request: it does
    little, and asks for what only a span of our own needs at the end.

    :param method: the HTTP method, for a span of our own.
    :param path: the path, for the same.
    :param record: the protocol's record of the request, for the same.
    :param reader: reads that.
    :param source: tells this request from others whose server runs them in the same context, as
        WSGI's may; None where the server gives each request a context.
    """

    __slots__ = (
        "_began",
        "_deferred",
        "_is_marked",
        "_lock",
        "_method",
        "_path",
        "_reader",
        "_record",
        "_span",
        "acquires",
        "answered",
        "created",
        "left_out",
        "outcome",
        "source",
        "wait_time",
        "waited",
    )

    def __init__(
        self,
        method: str,
        path: str,
        record: Any,
        reader: Reader = HEADERS_ALONE,
        source: object = None,
    ) -> None:
        self.checkouts = {}  # as Acquirer.__init__ does, without a call: this is each request's
        self.retry_after = 0
        self.over = False
        self._began = time_ns()
        self._method = method
        self._path = path
        self._record = record
        self._reader = reader
        self.source = source
        self.answered = False
        """The response is complete: what begins in this context now may be another request, since
        some servers begin the next one of a connection from within this one's last ``send``."""
        self._deferred: list[Callable[[Span | None], None]] | None = None
        self._is_marked = False
        """An instrumentation has marked the record: the request is to have no server span."""
        self.left_out: str | None = None
        """The URL that an instrumentation has left out last, while this request lasted."""
        self._lock = threading.Lock()
        self._span = None if (otel := api()) is None else _span_at_entry(otel)
        self.outcome: Outcome = "acquired"
        self.acquires = 0
        self.waited = 0
        self.created = 0
        self.wait_time = 0.0

    def __repr__(self) -> str:
        return (
            f"<Request {self.label} {self.outcome} acquires={self.acquires} "
            f"waited={self.waited} created={self.created} wait_time={self.wait_time:.6f}>"
        )

    @property
    def label(self) -> str:
        return escaped(f"{self._method} {self._path}")

    @property
    def span(self) -> Span | None:
        """The one that has the tags; None while it is not known which that will be."""
        return self._span

    def lasts(self, source: object) -> bool:
        """A middleware of ours further in, of an application that is mounted in another one, has
        nothing to record: a request's acquires are counted once, for the one span that it has."""
        if self.over or self.answered:
            return False
        return self.source is None or self.source is source

    def began(self, span: Any) -> None:
        """A server span has begun within the request. The first has the tags, if none has yet."""
        with self._lock:
            if self._span is None and not self.over:
                self._span = span
                if self.acquires:  # before the instrumentation's turn, as in a hook of Flask's
                    self._tag(span)

    def note_unsampled(self) -> None:
        """Look whether the request is one that is not sampled, where that cannot be seen later.

        No processor is told of such a span, and it may be over when a body is iterated that
        acquires: a span of our own would then be of a request that nobody wants recorded.
        """
        if self._span is not None:
            return
        try:
            if (span := local_span()) is not None and not span.is_recording():
                self._span = span
        except Exception:  # noqa: BLE001 - as at the entry
            failures.log("unsampled", "a request's span could not be found; the request goes on")

    def acquired(self) -> None:
        """Count an acquire that was immediate."""
        with self._lock:
            self.acquires += 1
            self._write()

    def note(self, event: AcquireEnded) -> Span | None:
        """Count one acquire and write the tags through; returns the span that has them, or None
        where the request has none so far."""
        with self._lock:  # one request may acquire in several threads at once
            self.acquires += 1
            self.outcome = worst(self.outcome, event.outcome)
            if event.outcome == "waited":
                self.waited += 1
            elif event.outcome == "created":
                self.created += 1
            if event.outcome != "acquired":
                self.wait_time += event.ended - event.began
            return self._write()

    def _write(self) -> Span | None:
        """Write the tags through, under the lock."""
        if self._span is None and self.acquires == 1 and not self.over:
            self._span = local_span()  # no server span was seen to begin
            self._is_marked = self._span is None and is_marked(self._record)
        if self._span is not None:
            self._tag(self._span)
        return self._span

    def defer(self, add: Callable[[Span | None], None], at_most: int = DEFERRED_AT_MOST) -> bool:
        """Have *add* called at the request's end, with its span, or with None if it gets none.

        False once it is over, and where *at_most* so many wait already: those beyond are left out,
        since a request may be a websocket of many hours.
        """
        with self._lock:
            deferred = self._deferred = [] if self._deferred is None else self._deferred
            takes = not self.over and len(deferred) < at_most
            if takes:
                deferred.append(add)
            return takes

    def _tag(self, span: Span) -> None:
        if span.is_recording():
            tags: Attributes = {
                "poolguard.request.outcome": self.outcome,
                "poolguard.request.acquire_count": self.acquires,
                "poolguard.request.wait_time": told(self.wait_time),
            }
            if self.waited:
                tags["poolguard.request.waited_count"] = self.waited
            if self.created:
                tags["poolguard.request.created_count"] = self.created
            span.set_attributes(tags)

    def end(self, status: int | str | None, error: BaseException | None = None) -> None:
        """The response is complete, or the application has failed. Only the first call counts.

        *status* is the response's, or a line that begins with it; read for a span of our own only.
        """
        with self._lock:
            if self.over:
                return
            self.over = True
        if self.checkouts:
            self.report()
        if (otel := api()) is not None:
            try:
                try:
                    self._finish(otel, status, error)
                finally:
                    # A task that is left behind keeps this, but neither the span nor what else the
                    # request was. What it acquires is still a child of the span.
                    if self._span is not None:
                        self._span = otel.trace.NonRecordingSpan(self._span.get_span_context())
            except Exception:  # noqa: BLE001 - a span processor's; logged, and no request's matter
                failures.log("end", "a request's span could not be completed; the request goes on")
        self._deferred = self._record = self.source = None

    def _finish(self, otel: Api, status: int | str | None, error: BaseException | None) -> None:
        own = None
        try:
            if self._span is None and self.acquires and not self._is_marked:
                own = self._span = begin_own(otel, self._seen())
            if own is not None:
                self._tag(own)
        finally:
            try:
                self._add_deferred()
            finally:
                if own is not None:
                    end_own(own, status, error)

    def _seen(self) -> Seen:
        return Seen(
            self._began, self._method, self._path, self._record, self._reader, self.left_out
        )

    def _add_deferred(self) -> None:
        for add in self._deferred or ():
            try:
                add(self._span)
            except Exception:  # noqa: BLE001 - as in end; the next one may do better
                failures.log("deferred", "an acquire could not be told of; the request goes on")
