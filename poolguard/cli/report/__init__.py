"""How the demo's comparison is shown: in a terminal, as a web page, as JSON, and in a file.

:mod:`.summary` computes every figure once, and the others only show it: :mod:`.terminal` with
:mod:`.picture` and :mod:`.trees`, :mod:`.html` with :mod:`.charts`, and :mod:`.machine`.
:mod:`.requests` computes the figures of recorded spans, which ``poolguard trace`` shows, with
:mod:`.trees` too.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import LabError

__all__ = ["write"]


def write(path: str | os.PathLike[str], text: str) -> None:
    """Write a report, as UTF-8.

    :raises LabError: it cannot be written; the text names the path and what to do.
    """
    target = Path(path)
    try:
        # "replace", since the report must not fail for a lone surrogate in an attribute
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise LabError(f"cannot write {target}: {_remedy(target, error)}") from error


def _remedy(target: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"the folder {target.parent} does not exist; create it or choose another path"
    if isinstance(error, IsADirectoryError):
        return f"it is a folder; name a file in it, such as {target / 'report.html'}"
    if isinstance(error, NotADirectoryError):
        return "a part of the path is a file, not a folder; choose another path"
    if isinstance(error, PermissionError):
        return "permission denied; choose a path that you may write to"
    return f"{error.strerror or error}; choose another path"
