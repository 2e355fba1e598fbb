"""The provider of spans: whichever it is, our processor is to see which spans begin."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..logs import logger

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from .api import Api

__all__ = ["watch"]


_latest: TracerProvider | None = None
_watched: WeakKeyDictionary[object, object] = WeakKeyDictionary()
"""The providers that have our processor, each with who has added it."""


def watch(otel: Api) -> None:
    """See which spans begin. Called at each request: a provider may be set after the first."""
    global _latest  # noqa: PLW0603
    provider = otel.trace.get_tracer_provider()
    if provider is not _latest:
        _add(provider)
        _latest = provider


def _add(provider: TracerProvider) -> None:
    """Add our processor, where the provider is the SDK's or wraps one, and has none of ours yet."""
    add = getattr(provider, "add_span_processor", None)
    if add is None or "opentelemetry.sdk.trace" not in sys.modules:
        return
    from .processor import ServerSpans

    ours = object()
    try:
        # No lock, which a fork could leave held: several first requests may come at once, and
        # exactly one of them finds its own object.
        if _watched.setdefault(provider, ours) is ours:
            add(ServerSpans())
    except Exception:
        logger.warning("poolguard cannot see which spans %r begins", provider, exc_info=True)
