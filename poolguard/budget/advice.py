"""What of a plan works but is likely not meant, in sentences.

Each says what it is, and how to change it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .capacity import Capacity
from .planned import Plan, Workplace

__all__ = ["advise", "advise_of_reserve", "count"]


def advise(plan: Plan, capacity: Capacity | None, workplace: Workplace) -> Iterator[str]:
    """Of the division itself. *capacity* is what the server said, where that matters."""
    at_once = workplace.at_once
    if workplace.bounded and plan.max_size < at_once:
        yield (
            f"a worker handles {at_once} requests at once but holds at most "
            f"{count(plan.max_size, 'connection')}: the other requests wait, and those that take "
            f"a second connection while they hold one can wait for each other. Raise max_size or "
            f"budget, or lower threads"
        )
    if workplace.bounded and plan.floor > at_once:
        yield (
            f"floor {plan.floor} is more than the {count(at_once, 'connection')} that a worker "
            f"uses at once: the rest stay idle. Lower floor to {at_once}"
        )
    yield from _reload_warnings(plan)
    if capacity is None:
        return
    left = capacity.left_by_others
    if left is not None and plan.budget > left:
        yield (
            f"of the budget of {plan.budget} only {left} can be opened now, since others hold the "
            f"rest. Set budget to {max(left, 1)}, or have them hold fewer"
        )
    # A role's own limit does not concern other roles.
    granted = min(capacity.server, capacity.database or capacity.server)
    if plan.budget >= granted:
        yield (
            f"the budget takes all of the {granted} connections that there are for everybody: "
            f"migrations, cron and people are refused while it is used up. Lower budget, or raise "
            f"reserve"
        )


def _reload_warnings(plan: Plan) -> Iterator[str]:
    warm = plan.workers * plan.floor
    if plan.ledger == "static":
        yield (
            f"with ledger=static a reload may hold up to {plan.held_on_reload} connections, twice "
            f"the workers' {plan.held}, since old and new workers do not know "
            f"of each other. Take another ledger, or halve budget"
        )
    elif plan.warm_on_reload < warm:
        half = plan.equal // (2 * plan.workers)
        remedy = f"Lower floor to {half}, or raise" if half else "Raise"
        yield (
            f"a reload warms {plan.warm_on_reload} of the new workers' {warm} connections, the "
            f"rest only as the old workers let go of theirs. {remedy} what the instance gets to "
            f"{2 * warm}"
        )


def advise_of_reserve(budget: int, usable: int, usual: int) -> Iterator[str]:
    """Where the workers need so much that less than the *usual* reserve is left."""
    left = usable - budget
    if left < usual:
        yield (
            f"the workers need {budget} of {count(usable, 'connection')}, and leave {left} instead "
            f"of {usual} to migrations, cron and people. Lower workers, floor or instances, or "
            f"raise what the server grants"
        )


def count(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
