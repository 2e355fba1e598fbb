"""The provider of spans: whichever it is, our processor is to see which spans begin.

It is anybody's object. It need be neither hashable nor open to weak references, and what it says of
itself may hold a secret, so that only its type is named.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from weakref import ref

from ..util.logs import logger, name_of

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from .api import Api

__all__ = ["watch"]

_latest: TracerProvider | None = None
_watched: dict[int, tuple[object, object]] = {}
"""The providers that have our processor, by identity: each with the call that has added it, and
what keeps its number from being another's."""


def watch(otel: Api) -> None:
    """See which spans begin. Called at each request: a provider may be set after the first."""
    global _latest  # noqa: PLW0603
    provider = otel.trace.get_tracer_provider()
    if provider is not _latest:
        _add(provider)
        _latest = provider


def _add(provider: TracerProvider) -> None:
    """Add our processor, where the provider is the SDK's or wraps one, and has none of ours yet."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return
    from .processor import ServerSpans

    ours = object()
    try:
        add = getattr(provider, "add_span_processor", None)
        # No lock, which a fork could leave held: several first requests may come at once, and
        # exactly one of them finds its own object.
        if add is not None and _watched.setdefault(*_entry(provider, ours))[0] is ours:
            add(ServerSpans())
    except Exception as error:  # noqa: BLE001 - its words may hold what its repr does
        logger.warning(
            "poolguard cannot see which spans %s begins, which has raised %s",
            name_of(provider),
            name_of(error),
        )


def _entry(provider: object, ours: object) -> tuple[int, tuple[object, object]]:
    number = id(provider)
    try:
        return number, (ours, ref(provider, lambda _: _watched.pop(number, None)))
    except TypeError:
        return number, (ours, provider)
