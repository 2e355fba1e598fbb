"""The package's logger, which the application's configuration of logging does not silence.

``logging.config`` disables each logger that it finds and does not name, unless it is told not to.
Under the gunicorn hooks this one exists before the application configures logging.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # which takes no parameter before Python 3.11

__all__ = ["logger", "name_of"]


class _Log(Adapter):
    """The logger ``poolguard``. Its level, handlers and filters are the user's to set."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("poolguard"), {})
        self._borrowed: list[logging.Handler] = []
        self._level = logging.NOTSET

    def isEnabledFor(self, level: int) -> bool:
        """Whether a record of *level* is written. logging asks this before each record."""
        self.logger.disabled = False
        if self._borrowed and self._is_configured():
            self._give_back()
        return self.logger.isEnabledFor(level)

    def borrow(self, theirs: logging.Logger) -> None:
        """Write where *theirs* writes, until the user configures where this logger writes."""
        if self._borrowed or self._is_configured():
            return
        self._borrowed = list(theirs.handlers)
        for handler in self._borrowed:
            self.logger.addHandler(handler)
        if self.logger.level == logging.NOTSET:
            self._level = theirs.level
            self.logger.setLevel(theirs.level)

    def _is_configured(self) -> bool:
        """Whether the user has given this logger, or the root logger, a handler."""
        own = [each for each in self.logger.handlers if each not in self._borrowed]
        return bool(own or logging.getLogger().handlers)

    def _give_back(self) -> None:
        for handler in self._borrowed:
            self.logger.removeHandler(handler)
        self._borrowed = []
        if self.logger.level == self._level:
            self.logger.setLevel(logging.NOTSET)


logger = _Log()


def name_of(thing: object) -> str:
    """The name by which to show an object that is not ours: its repr may hold a secret."""
    return (thing if isinstance(thing, FunctionType | type) else type(thing)).__qualname__
