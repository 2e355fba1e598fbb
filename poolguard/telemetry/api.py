"""OpenTelemetry's API, where the process has imported it: without it nobody sees a span.

Whoever sets an SDK up imports the API before. A worker that has neither is spared the import, which
takes as long as a good part of its boot, and each request the calls.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

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
        self.tracer = trace.get_tracer("poolguard")


logger = logging.getLogger("poolguard")

_known: Api | None = None
_is_unusable = False


def api() -> Api | None:
    """The API; None until somebody has imported it, and where it is set up so that it fails."""
    return _known or _look()


def _look() -> Api | None:
    global _known, _is_unusable  # noqa: PLW0603
    if "opentelemetry.trace" in sys.modules and not _is_unusable:
        try:
            _known = Api()  # imports again, and so waits for another thread that is importing it
        except Exception:  # OTEL_PROPAGATORS may name what is not installed
            _is_unusable = True
            logger.exception("OpenTelemetry cannot be used, so no span says what was acquired")
    return _known
