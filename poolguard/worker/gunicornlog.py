"""Where log records go under gunicorn: ours beside its own, and psycopg's as if nobody was here."""

from __future__ import annotations

import logging
from typing import Any

from ..util.escape import escaped
from ..util.logs import logger

__all__ = ["borrow_log", "hear_psycopg", "heard", "say"]

_named_before: frozenset[str] = frozenset()
"""The loggers that existed before this worker opened a pool."""


def borrow_log(log: Any) -> None:
    """Have poolguard's own log records written where *log*, gunicorn's, writes its own.

    Only while nobody has configured anything else: they would be lost otherwise, or reach standard
    error without a time.
    """
    global _named_before  # noqa: PLW0603
    _named_before = frozenset(logging.root.manager.loggerDict)
    theirs = getattr(log, "error_log", None)
    if isinstance(theirs, logging.Logger):  # a logger_class need not have it
        logger.borrow(theirs)


def hear_psycopg() -> None:
    """Have psycopg's log records written, as they were if the application had imported it.

    The hooks import it earlier, and a configuration of logging disables the loggers it finds.
    """
    for name, each in list(logging.root.manager.loggerDict.items()):
        is_new = name.partition(".")[0] == "psycopg" and name not in _named_before
        if is_new and isinstance(each, logging.Logger):
            each.disabled = False


def heard(log: Any) -> Any:
    """*log*, gunicorn's; ours where the application's configuration of logging has disabled it."""
    theirs = getattr(log, "error_log", None)
    return logger if isinstance(theirs, logging.Logger) and theirs.disabled else log


def say(log: Any, error: Exception) -> None:
    """Log each line of *error* as one of ours."""
    for line in str(error).split("\n"):
        heard(log).error("poolguard: %s", escaped(line.removeprefix("poolguard ")))
