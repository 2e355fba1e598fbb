"""The texts of errors for a pool that gets no slot: which processes hold them, and what helps."""

from __future__ import annotations

from collections.abc import Collection

from .quotas import Quota
from .sharing import Member, rights

__all__ = ["before_any_terms", "explained"]

MOST_NAMED = 8
"""Processes that an error names."""


def before_any_terms(me: Member, siblings: Collection[Member]) -> str:
    """Why *me* has no connection while no process has learned what the server grants."""
    return (
        f"nobody has learned yet what the server grants ({_holders(me, siblings)}). Look for what "
        f"keeps those from connecting, or set budget to a number"
    )


def explained(quota: Quota, me: Member, siblings: Collection[Member]) -> str:
    """Which processes hold the taken slots of *quota* while *me* starves, and what helps."""
    if quota.scope is None:
        whose = "that this host's processes may have"
    else:
        whose = "that this role may have" if quota.scope.role else "for this database"
    dead = max(0, quota.taken - sum(each.held for each in (me, *siblings)))
    text = f"of the {quota.limit} connections {whose}, {_holders(me, siblings, dead)}"
    right = rights(quota.limit, [me, *siblings])[me.number]
    processes = len(siblings) + 1
    if processes > quota.limit:
        return (
            f"{text}. There are {processes} pools for {quota.limit} connections: raise budget to "
            f"{processes} at least, or run fewer"
        )
    if me.held < right.fair and dead >= quota.taken - dead:
        return f"{text}. Wait until the server has ended the sessions of those that have ended"
    if me.held < right.fair:
        return (
            f"{text}. Of these {right.fair} are this one's by right, and the others return none: "
            f"have them hold connections shorter, or raise budget"
        )
    return f"{text}. Raise budget, or hold connections shorter"


def _holders(me: Member, siblings: Collection[Member], dead: int = 0) -> str:
    """How many connections each process holds."""
    holding = sorted((each for each in siblings if each.held), key=lambda each: -each.held)
    named = [f"this pool holds {me.held}"]
    for each in holding[:MOST_NAMED]:
        who = "another pool of this process" if each.pid == me.pid else f"process {each.pid}"
        named.append(f"{who} {each.held}")
    if others := holding[MOST_NAMED:]:
        named.append(f"{len(others)} others {sum(each.held for each in others)}")
    if dead:
        named.append(f"and {dead} are kept for processes that have ended")
    return ", ".join(named)
