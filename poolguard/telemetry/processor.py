"""Sees server spans begin. To be imported only where the process has OpenTelemetry's SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

# The SDK's own class as the base: a later SDK may call a method that this one knows nothing of.
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from ..pool.acquirer import CURRENT
from .serving import SERVING, failures, reference

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

__all__ = ["ServerSpans"]


class ServerSpans(SpanProcessor):
    """Tells a request of the server span that an instrumentation further in begins for it, and
    leaves the one that began further out where the request finds it.

    It keeps no span: the request does, until it ends.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        try:
            if span.kind is SpanKind.SERVER:
                SERVING.set(reference(span))
                if (request := CURRENT.get()) is not None:
                    request.began(span)
        except Exception:  # noqa: BLE001 - logged; it would be raised where the span begins
            failures.log("on_start", "a span could not be seen to begin; it goes on")
