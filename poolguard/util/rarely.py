"""What may go wrong again and again is logged the 1st, 2nd, 4th, 8th … time."""

from __future__ import annotations

from collections.abc import Hashable

from .logs import logger

__all__ = ["Failures", "is_said"]


def is_said(times: int) -> bool:
    """Whether what has happened *times* times is to be logged now."""
    return not times & (times - 1)


class Failures:
    """Failures of code that is not ours, and that we go on without. Any thread may call in."""

    def __init__(self) -> None:
        self._times: dict[Hashable, int] = {}

    def log(self, where: Hashable, text: str, *args: object) -> None:
        """Log the exception that is being handled, with its traceback, or only count it.

        :param where: what has failed; each is counted for itself.
        """
        # Threads may lose a count to each other: then one is logged a little later.
        times = self._times[where] = self._times.get(where, 0) + 1
        if is_said(times):
            if times > 1:
                text, args = f"{text} (%d times so far)", (*args, times)
            logger.exception(text, *args)
