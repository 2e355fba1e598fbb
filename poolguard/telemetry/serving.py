"""The server span that a context has begun last, as our processor has seen it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import ref

from ..util.rarely import Failures

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["SERVING", "failures", "reference"]

Reference = Callable[[], "Span | None"]

SERVING: ContextVar[Reference | None] = ContextVar("poolguard_serving", default=None)
"""That span, whether it still lasts or not."""

failures = Failures()
"""Of spans, which may be any vendor's."""


def reference(span: Span) -> Reference:
    """What leads to *span* and does not keep it, unless it allows no weak references."""
    try:
        return ref(span)
    except TypeError:
        return lambda: span
