"""Has the import of psycopg take long, in the midst of it: there another thread may meet it."""

from __future__ import annotations

import sys
import time
from typing import Any

AMID = "psycopg._typeinfo"
"""A part of psycopg that its own beginning imports, and which imports others."""


class Slow:
    """A finder that finds nothing, slowly."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == AMID:
            time.sleep(0.5)


sys.meta_path.insert(0, Slow())
