"""Values in errors and reprs: one line each, and nothing secret."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["LONGEST", "Plain", "shown"]

LONGEST = 100
"""Characters of a name, and of a value that an error shows."""
# what looks like part of a conninfo may be one that was put in the wrong place
_SECRETIVE = r"(?i::/|[=@]|passw)"


class Plain:
    """A value whose own text is fit to be shown."""

    __slots__ = ()


def shown(value: object) -> str:
    """One line that stands for ``value`` in an error or a repr, without anything secret."""
    if isinstance(value, str | Path):
        text = str(value)
        if re.search(_SECRETIVE, text):
            return "<hidden>"
        return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}…"
    if value is None or isinstance(value, int | float | Plain):
        # Python writes out no number of more than some thousand digits.
        huge = isinstance(value, int) and abs(value) >= 10**40
        return "a number of more than 40 digits" if huge else str(value).removesuffix(".0")
    return f"<{type(value).__name__}>"
