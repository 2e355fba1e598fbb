"""How many locks a fleet takes in the lock table of its ledger's server, and whether they fit.

The table is shared by all sessions of the server. Once it is full, it is others' statements that
fail, with "out of shared memory". So a fleet leaves half of it to them.
"""

from __future__ import annotations

__all__ = ["SETTINGS", "needed", "shortage"]

OF_A_SLOT = 2
"""Its lease and its seat (:class:`.Keys`)."""
SETTINGS = "max_locks_per_transaction × (max_connections + max_prepared_transactions)"
"""What makes the number of locks that the table is sure to hold."""


def needed(budget: int) -> int:
    """The locks that all slots of a *budget* take."""
    return OF_A_SLOT * budget


def shortage(budget: int, table: int) -> str | None:
    """Why a *budget* is too large for a *table* of so many locks, and what to do; None: it fits."""
    if needed(budget) * 2 <= table:
        return None
    return (
        f"a fleet with a budget of {budget} takes {needed(budget)} locks ({OF_A_SLOT} for each "
        f"connection), and that is more than half of the {table} that the lock table of its "
        f"ledger's server is sure to hold ({SETTINGS}). Raise max_locks_per_transaction there to "
        f"{-(-2 * needed(budget) // table)} times what it is, or lower budget"
    )
