"""Keeps Django from logging a traceback, and mailing it, for each request that an overload refuses.

To Django that is an error like any other, which it answers with 500; the middleware makes a 503 of
it, which the log is told of in a few lines.
"""

from __future__ import annotations

import logging

from ..worker import overload

__all__ = ["hear"]


class _Refusals(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not overload.is_told(record.exc_info[1] if record.exc_info else None)


_refusals = _Refusals()


def hear() -> None:
    """Hear, before the handlers do, what Django logs of requests that have failed."""
    logging.getLogger("django.request").addFilter(_refusals)
