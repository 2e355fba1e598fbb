"""What of a fleet's budget is left for pools: arithmetic that plans need, too."""

from __future__ import annotations

__all__ = ["room_for_pools"]


def room_for_pools(budget: int, hosts: int, lost: int = 0) -> int:
    """The slots that are left for pooled connections: each host has a control session, and the
    door is kept free for the next one.

    :param lost: slots that are occupied, and that no host has leased.
    """
    return max(0, budget - hosts - 1 - lost)
