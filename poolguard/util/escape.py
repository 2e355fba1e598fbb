"""What outsiders write, made fit for a log or a screen.

Anybody chooses the path of a request, a server the words of its errors, other processes what their
files hold. A terminal obeys some characters and does not show them: escapes, which clear a screen
or set a title, and those that turn the direction of writing. A line's end forges another line.
"""

from __future__ import annotations

import json
import logging
from typing import Any

__all__ = ["as_json", "escape_errors", "escaped"]


def escaped(text: str) -> str:
    r"""*text* in one line of visible characters; others as Python writes them: ``\n``, ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def as_json(value: object, indent: int | None = None) -> str:
    """*value* as JSON of nothing but ASCII that is visible, but for its own line ends."""
    # DEL is the only character outside of these that JSON leaves as it is, and only in texts.
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def escape_errors(record: logging.LogRecord) -> bool:
    """A filter for loggers: what exceptions among a record's arguments say is escaped."""
    if isinstance(record.args, tuple) and any(isinstance(a, BaseException) for a in record.args):
        record.args = tuple(map(_visible, record.args))
    return True


def _visible(argument: Any) -> Any:
    return escaped(str(argument)) if isinstance(argument, BaseException) else argument
