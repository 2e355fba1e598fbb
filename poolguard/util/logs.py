"""The package's logger, which the application's configuration of logging does not silence.

``logging.config`` disables each logger that exists by then and is not named, unless it is told not
to; and under the gunicorn hooks this one exists before the application does.
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
    """The logger ``poolguard``: whose level, handlers and filters are the user's to set."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("poolguard"), {})
        self._borrowed: list[logging.Handler] = []
        self._level = logging.NOTSET

    def isEnabledFor(self, level: int) -> bool:
        """Asked before each record."""
        self.logger.disabled = False
        if self._borrowed and self._is_configured():
            self._give_back()
        return self.logger.isEnabledFor(level)

    def borrow(self, theirs: logging.Logger) -> None:
        """Write where *theirs* writes, for as long as nobody has said where ours is to."""
        if self._borrowed or self._is_configured():
            return
        self._borrowed = list(theirs.handlers)
        for handler in self._borrowed:
            self.logger.addHandler(handler)
        if self.logger.level == logging.NOTSET:
            self._level = theirs.level
            self.logger.setLevel(theirs.level)

    def _is_configured(self) -> bool:
        """Somebody has given the logger, or the root of all, a handler."""
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
    """What to call an object that is not ours: what it says of itself may hold a secret."""
    return (thing if isinstance(thing, FunctionType | type) else type(thing)).__qualname__
