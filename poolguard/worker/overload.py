"""What a door answers where the pool had no connection for a request: 503, and when to try again.

An acquire that timed out, or was rejected, says that there is more to do than can be done. That is
an answer, and no stack trace for each of the requests that come too many.
"""

from __future__ import annotations

from ..pool.acquirer import CURRENT
from ..util.clock import now as clock
from ..util.escape import escaped
from ..util.logs import logger
from ..util.rarely import Paced

__all__ = ["BODY", "REASON", "caused", "is_told", "note"]

REASON = "503 Service Unavailable"
BODY = b"The service is busy. Try again later.\n"
DEEPEST = 16
"""Errors looked at, in what an error was raised from."""
SAID_EVERY = 1.0
"""Seconds between two lines in the log."""


def caused(error: BaseException) -> BaseException | None:
    """The pool's own error that *error* is, or was raised from; None where there is none."""
    from psycopg_pool import PoolTimeout, TooManyRequests

    found: list[BaseException] = [error]
    for each in found:
        if isinstance(each, PoolTimeout | TooManyRequests):
            return each
        if len(found) < DEEPEST:
            within = getattr(each, "exceptions", ())  # a group of them, from Python 3.11 on
            found += [e for e in (each.__cause__, each.__context__, *within) if e is not None]
    return None


def is_told(error: BaseException | None) -> bool:
    """Whether the request that is current fails with *error* for an overload, which a middleware
    answers with 503: then that is logged here, and a framework is to log no traceback."""
    request = CURRENT.get()
    if error is None or request is None or not request.retry_after:
        return False
    if (cause := caused(error)) is None:
        return False
    note(request.label, cause)
    return True


_pace = Paced(SAID_EVERY)


def note(label: str, error: BaseException) -> None:
    """Say that the request called *label* was answered with 503 because of *error*: of many such
    requests in a few lines."""
    unsaid = _pace.left_out(clock())
    if unsaid is None:
        return
    others = f", and {unsaid} requests before it" if unsaid else ""
    said = escaped(str(error))  # it may be of another pool, or of the application's own
    logger.warning("poolguard: %s was answered with 503%s: %s", label, others, said)
