"""What grows with threads, slots, processes, workers and connections, and how.

Beside plain psycopg_pool, in the same run: 1 to 64 threads that borrow, a ledger of up to 500
slots that up to 16 processes share, up to 16 workers that boot at once, are asked for their status,
and have nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import crew
from ..crew import Stage
from ..table import Table
from . import boot, idle, slots, status, threads

__all__ = ["PARTS", "run"]

PARTS: Mapping[str, Callable[[Stage], Table]] = {
    "threads": threads.run,
    "slots": slots.run,
    "boot": boot.run,
    "status": status.run,
    "idle": idle.run,
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns them as plain data.

    *quick* shows that they work, with too few rounds for figures worth anything.
    """
    return crew.measure("scale", PARTS, parts, quick)
