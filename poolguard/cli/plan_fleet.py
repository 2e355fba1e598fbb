"""What ``poolguard plan`` says of a fleet: what a host has depends on who else is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..budget.fleet import locks
from ..budget.plan import Plan
from .text import columns, plural, wrapped

__all__ = ["fleet_lines", "fleet_rollout", "fleet_table", "machine"]


def fleet_table(plan: Plan, hosts: int, clients: str) -> list[str]:
    """The budget of a fleet of so many *hosts*, from the whole down to a worker.

    :param clients: what the budget counts, where that is not the server's connections.
    """
    warm = plan.workers * plan.floor
    rows = [
        ("", "each", "together", ""),
        ("budget", "", str(plan.budget), f"all hosts, at their peak{clients}"),
        ("  control session", "1", str(hosts), f"instances: {hosts}"),
        ("  door", "", "1", "kept free for the next host that joins"),
        ("  host, at most", str(plan.instance), "", "while the others need nothing"),
        ("  host, all the same", str(plan.equal), str(hosts * plan.equal), ""),
        (
            "    worker, warm",
            str(plan.floor),
            str(hosts * warm),
            f"floor; workers of each host: {plan.workers}",
        ),
        ("    worker, at most", str(plan.max_size), "", "max_size"),
    ]
    if rest := plan.budget - 1 - hosts * (plan.equal + 1):
        rows.append(("  not given out", "", str(rest), "lent to whoever needs it"))
    if plan.capacity is not None:
        left = str(plan.capacity - plan.budget)
        rows.append(("left to others", "", left, "migrations, cron, people"))
    return columns(rows, right=(1, 2))


def fleet_lines(plan: Plan, hosts: int) -> Iterator[str]:
    """How many hosts there may be, and what it means not to have told."""
    most = plan.most_hosts
    text = (
        f"the budget covers the floors of {most} such {plural(most, 'host')}, each with a control "
        f"session; where there are more, all floors are cut to one height, and the budget is kept"
    )
    if hosts == 1:
        text += (
            ". instances is 1, so these are the figures of a host that is alone: a fleet finds out "
            "by itself how many hosts there are, and only a floor that is worked out follows the "
            "number that was told"
        )
    yield from wrapped(text, "fleet    ")


def fleet_rollout(plan: Plan, surge: int, hosts: int) -> Iterator[str]:
    """What happens while *surge* more run, and so *hosts* in all."""
    each = max(0, (plan.budget - 1) // hosts - 1)
    text = (
        f"with {surge} more at the same time, {hosts} hosts hold no more than the budget of "
        f"{plan.budget}: each has {each} if all have the same"
    )
    if hosts <= plan.most_hosts:
        text += f", and their floors of {plan.workers * plan.floor} fit"
    else:
        text += (
            f", which is less than its floors of {plan.workers * plan.floor}: the new hosts are "
            f"warm as the old ones let go"
        )
    yield from wrapped(text, "rollout  ")


def machine(plan: Plan, hosts: int) -> dict[str, Any] | None:
    """The same for machines; None where there is no fleet."""
    if plan.ledger != "fleet":
        return None
    return {
        "control_sessions": hosts,
        "door": 1,
        "each": plan.equal,
        "most_hosts": plan.most_hosts,
        "locks": locks.needed(plan.budget),
    }
