"""OpenTelemetry's API, once somebody has set a provider: without one, nobody sees a span.

A worker that has none is spared the import, which takes as long as a good part of its boot, and
each request the calls.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from ..util.logs import logger
from ..util.version import __version__

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.trace import Tracer

__all__ = ["Api", "api"]


class Api:
    """The parts that are used."""

    __slots__ = ("context", "propagate", "trace", "tracer")

    context: ModuleType
    propagate: ModuleType
    trace: ModuleType
    tracer: Tracer

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace

        self.context = context
        self.propagate = propagate
        self.trace = trace
        self.tracer = trace.get_tracer("poolguard", __version__)


LOOK_AGAIN = 0.1
"""Seconds between two looks at whether somebody has set a provider. Where nobody has, the API looks
into the environment for one each time, which takes longer than all else that a request costs."""

_known: Api | None = None
_is_unusable = False
_looked_at = -LOOK_AGAIN


def api() -> Api | None:
    """The API; None until somebody has set a provider of spans, and where it is set up so that it
    fails."""
    return _known or _look()


def _look() -> Api | None:
    global _known, _is_unusable, _looked_at  # noqa: PLW0603
    if "opentelemetry.trace" not in sys.modules or _is_unusable:
        return None
    now = monotonic()
    if now - _looked_at < LOOK_AGAIN:
        return None
    try:
        # imports again, and so waits for another thread that is importing it
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

        if isinstance(get_tracer_provider(), ProxyTracerProvider):
            _looked_at = now
        else:  # other first requests may be here just now: each looks for itself
            _known = Api()
    except Exception:  # OTEL_PROPAGATORS may name what is not installed
        is_said, _is_unusable = _is_unusable, True  # another thread may have looked as well
        if not is_said:
            logger.exception("OpenTelemetry cannot be used, so no span says what was acquired")
    return _known
