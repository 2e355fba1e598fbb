"""Escapes text that comes from outside, so that it is safe in a log and on a screen.

Clients choose the path of a request, servers the words of their errors, other processes what their
files hold. A terminal obeys some characters and does not show them: escapes, which clear the screen
or set a title, and those that turn the direction of writing. The end of a line forges another line.
"""

from __future__ import annotations

import json
import logging
from typing import Any

__all__ = ["as_json", "escape_errors", "escaped"]


def escaped(text: str) -> str:
    r"""*text* in one line of visible characters, others written as in Python: ``\n``, ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def as_json(value: object, indent: int | None = None) -> str:
    """*value* as JSON, of nothing but visible ASCII and its own line ends."""
    # DEL is the only other character that JSON leaves as it is, and it stands in strings only.
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def escape_errors(record: logging.LogRecord) -> bool:
    """A filter for loggers: it escapes the texts of exceptions among a record's arguments."""
    if isinstance(record.args, tuple) and any(isinstance(a, BaseException) for a in record.args):
        record.args = tuple(map(_visible, record.args))
    return True


def _visible(argument: Any) -> Any:
    return escaped(str(argument)) if isinstance(argument, BaseException) else argument
