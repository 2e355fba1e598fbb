"""What an acquire was, judged on the connection that was delivered. Pure."""

from __future__ import annotations

from ..listener import Outcome

__all__ = ["OUTCOMES", "judge", "worst"]

OUTCOMES: tuple[Outcome, ...] = ("acquired", "waited", "created", "timeout", "rejected", "error")
"""From best to worst."""

_RANK = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}


def judge(*, began: float, connected: float, was_free: bool) -> Outcome:
    """What an acquire that delivered a connection was.

    *began* is when the acquire began and *connected* when the delivered connection's connect had
    finished, both by the monotonic clock; *was_free* tells that the connection lay in the pool.

    An acquire that set a connect off and was then served by a connection which somebody returned
    has waited; it has created nothing. So it is not what the acquire caused that counts, but
    whether the connection it was given is younger than the acquire itself.
    """
    if connected >= began:
        return "created"
    return "acquired" if was_free else "waited"


def worst(a: Outcome, b: Outcome) -> Outcome:
    """The worse of two outcomes: what a request with several acquires is tagged with."""
    return a if _RANK[a] >= _RANK[b] else b
