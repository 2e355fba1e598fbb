"""Spans of acquires and connects, made after the fact from the pool's events."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ..pool.acquirer import CURRENT
from ..pool.events import (
    AcquireEnded,
    Connected,
    Listener,
    Place,
)
from ..util.clock import now as clock
from .api import Api, api
from .own import fail
from .request import Request
from .serving import local_span, told

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from ..settings.settings import Spans

__all__ = ["SpanListener"]


class SpanListener(Listener):
    """Tags the request's span at each acquire, and adds child spans.

    :param spans: ``slow`` adds a child span for every acquire that was not immediate, ``all`` for
        every acquire, ``off`` for none. The request's own tags are written in each case.
    """

    def __init__(self, spans: Spans = "slow") -> None:
        self._spans = spans
        self.hears_immediate = spans == "all"  # else they are the request's own business

    def __repr__(self) -> str:
        return f"SpanListener({self._spans!r})"

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        request = CURRENT.get()
        bound = request.note(event) if isinstance(request, Request) else None
        if self._spans == "off" or (self._spans == "slow" and event.outcome == "acquired"):
            return
        otel = api()
        if otel is None:
            return
        parent = local_span()
        if parent is None:
            parent = bound
        if parent is not None:
            _add_spans(otel, event, parent)
        elif isinstance(request, Request):
            request.defer(partial(_add_spans, otel, event))


def _add_spans(otel: Api, event: AcquireEnded, parent: Span | None) -> None:
    # The children of one that has ended are recorded too, as in a background task: it cannot say
    # any more that its request acquired, but they do.
    if parent is None or not (
        parent.is_recording() or parent.get_span_context().trace_flags.sampled
    ):
        return
    # Read in this order: what may pass between the two moves the spans later, and so neither before
    # the request's begin nor past this moment.
    now = clock()
    to_epoch = time.time_ns() - int(now * 1e9)
    attributes: dict[str, AttributeValue] = {
        "db.client.connection.pool.name": event.pool,
        "poolguard.acquire.outcome": event.outcome,
        "poolguard.acquire.wait_time": told(event.ended - event.began),
    }
    connected = event.connected
    if connected is not None:
        attributes["poolguard.connection.age"] = told(event.ended - connected.ended)
    if event.place is not None:
        attributes |= _where(event.place)
    span = otel.tracer.start_span(
        "pool.acquire",
        context=otel.trace.set_span_in_context(parent),
        kind=otel.trace.SpanKind.INTERNAL,
        attributes=attributes,
        start_time=to_epoch + int(event.began * 1e9),
    )
    if connected is None:
        span.set_attribute("error.type", event.outcome)
        fail(span)
    elif event.outcome == "created":
        _add_connect(otel, connected, span, to_epoch)
    span.end(to_epoch + int(event.ended * 1e9))


def _add_connect(otel: Api, connected: Connected, parent: Span, to_epoch: int) -> None:
    # It may have begun before the acquire did: another request set it off.
    otel.tracer.start_span(
        "pool.connect",
        context=otel.trace.set_span_in_context(parent),
        kind=otel.trace.SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", **_where(connected.place)},
        start_time=to_epoch + int(connected.began * 1e9),
    ).end(to_epoch + int(connected.ended * 1e9))


def _where(place: Place) -> dict[str, AttributeValue]:
    known: dict[str, AttributeValue] = {
        "server.address": place.host,
        "server.port": place.port,
        "db.namespace": place.database,
    }
    return {name: value for name, value in known.items() if value}
