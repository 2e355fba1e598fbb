"""The plan: from capacity and settings to each worker's floor and maximum. Arithmetic alone.

What all instances may hold together is the *budget*, and each instance has an equal part of it. Of
that part, each worker is guaranteed its *floor*. What is left over is *shared*, and lent to the
workers that are busy. In a fleet, hosts lend each other what is beyond the floors, too: of the
budget, each has a control session, and one slot is kept free for a host that joins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..errors import PlanError
from ..settings import MOST_SLOTS, Percent, Settings, least_of_fleet
from .advice import advise, advise_of_reserve, count
from .capacity import Capacity
from .fleet import locks as fleet_locks
from .fleet.room import room_for_pools
from .planned import Plan, Step, Workplace

__all__ = [
    "Plan",
    "Step",
    "Workplace",
    "known_budget",
    "make_plan",
    "shares",
    "took_the_reserve",
]


def known_budget(settings: Settings) -> int | None:
    """The budget where it is a number; None where the server must be asked for its capacity."""
    return settings.budget if isinstance(settings.budget, int) else None


def took_the_reserve(usable: int, share: int, settings: Settings) -> bool:
    """Whether a *share* that a process goes by is more than these settings give of *usable*.

    Then the service runs already, and the server grants less than it needs.
    """
    budget = _budget(Capacity(usable), settings, behind=False, needed=0, gives_way=True).value
    return share > _most_of(budget, settings)


def make_plan(
    capacity: Capacity | None,
    settings: Settings,
    workplace: Workplace,
    *,
    pooler: Literal["auto", "none", "session", "transaction"] | None = None,
    runs: bool = False,
    locks: int | None = None,
) -> Plan:
    """Divide the budget among instances and workers.

    :param capacity: what the server said; None only where *settings* give the budget as a number.
    :param pooler: what stands before the server, as detected; by default what *settings* say, and
        none where the settings leave it to detection. Behind a pooler the server's capacity says
        nothing, and the budget counts the pooler's clients.
    :param runs: whether the service runs already. Where the server then grants less than the
        settings need, it goes on with what there is. The reserve is reduced first, then the floors,
        and in the end not every worker has a connection. A warning says so.
    :param locks: how many the lock table of a fleet's ledger is sure to hold; None: not known.

    Raises :exc:`~poolguard.errors.PlanError`, with the arithmetic and what to change, where a
    worker would be left without a connection, or where the settings ask for more than there is.
    """
    behind = (pooler or settings.pooler) in ("session", "transaction")
    try:
        plan = _divided(capacity, settings, workplace, behind=behind, gives_way=False)
        return _insist_on_locks(plan, locks)
    except PlanError as error:
        if not runs:
            raise
        plan = _divided(capacity, settings, workplace, behind=behind, gives_way=True)
        told = (
            f"the server grants less than the settings need, and the service goes on with "
            f"{count(plan.instance, 'connection')} for {count(plan.workers, 'worker')}: {error}"
        )
        return plan._replace(short=True, warnings=(told,))


def _insist_on_locks(plan: Plan, table: int | None) -> Plan:
    """The plan of a fleet, where its locks fit into a lock table of that size."""
    if plan.ledger != "fleet":
        return plan
    if table is not None and (why := fleet_locks.shortage(plan.budget, table)) is not None:
        raise PlanError(why)
    how = f"2 × {plan.budget}, in the lock table of the ledger's server"
    if table is not None:
        how += f", which is sure to hold {table}"
    return plan._replace(steps=(*plan.steps, Step("locks", fleet_locks.needed(plan.budget), how)))


def _divided(
    capacity: Capacity | None,
    settings: Settings,
    workplace: Workplace,
    *,
    behind: bool,
    gives_way: bool,
) -> Plan:
    """The plan. Where it *gives_way*, it divides what there is instead of raising an error."""
    known = None if behind else capacity
    usable = None if known is None else known.usable
    workers = workplace.workers if settings.workers == "auto" else settings.workers
    needed = _needed(workers * (1 if settings.floor == "auto" else settings.floor), settings)
    budget = _budget(known, settings, behind=behind, needed=needed, gives_way=gives_way)
    if settings.ledger == "fleet" and budget.value > MOST_SLOTS:
        budget = Step("budget", MOST_SLOTS, f"what a fleet can count, below {budget.how}")
    instance = _Instance(budget, settings, workplace, gives_way=gives_way)
    floor = instance.floor()
    shared = max(0, instance.share.value - instance.workers.value * floor.value)
    max_size = instance.max_size(floor.value)
    static = settings.ledger == "static"
    warm = instance.workers.value * floor.value
    steps = [budget, instance.share, *instance.fleet_steps(), instance.workers, floor]
    if known is not None:
        steps.insert(0, Step("capacity", known.usable, known.explain()))
    if not static:
        how = f"{instance.share.value} − {warm}, what the workers' floors leave to borrow"
        steps.append(Step("shared", shared, how))
    plan = Plan(
        capacity=usable,
        budget=budget.value,
        instance=instance.share.value,
        workers=instance.workers.value,
        floor=floor.value,
        max_size=max_size.value,
        shared=0 if static else shared,
        ledger=settings.ledger,
        warm_on_reload=warm if static else min(warm, max(0, instance.equal - warm)),
        steps=(*steps, max_size),
        equal=instance.equal,
    )
    warnings = [*instance.warnings, *advise(plan, known, workplace)]
    if usable is not None and settings.budget == settings.reserve == "auto":
        warnings += advise_of_reserve(plan.budget, usable, _usual_reserve(usable))
    return plan._replace(warnings=tuple(warnings))


def _needed(each: int, settings: Settings) -> int:
    """The least budget with which *each* of the instances has so many connections."""
    if settings.ledger == "fleet":
        return least_of_fleet(settings.instances, each)
    return settings.instances * each


def _divided_by(budget: int, settings: Settings) -> int:
    """What each of the instances has of a *budget* for its pools, if all have the same."""
    if settings.ledger == "fleet":
        return (budget - 1) // settings.instances - 1
    return budget // settings.instances


def _most_of(budget: int, settings: Settings) -> int:
    """What one of the instances can have of a *budget* for its pools."""
    if settings.ledger == "fleet":
        return room_for_pools(budget, settings.instances)
    return budget // settings.instances


def shares(
    plan: Plan, capacity: Capacity | None, settings: Settings
) -> tuple[int | None, int | None, int | None]:
    """An instance's shares of what the server grants to all, to the database, and to the role.

    A share is None where there is no such limit. The narrowest is the plan's own. A budget that is
    a number, or a percentage, binds all that use the same database. A percentage leaves the rest of
    the server to other databases.
    """
    if capacity is None or isinstance(settings.budget, int):
        return None, plan.instance, None

    def share(limit: int | None) -> int | None:
        if limit is None or (limit > capacity.server):
            return None
        if limit <= capacity.usable:
            return plan.instance
        budget = _budget(Capacity(limit), settings, behind=False, gives_way=True).value
        return max(plan.instance, budget // settings.instances)

    if isinstance(settings.budget, Percent):
        whole = max(plan.instance, capacity.server // settings.instances)
        own = min(capacity.server, capacity.database or capacity.server)
        return whole, share(own), share(capacity.role)
    return share(capacity.server), share(capacity.database), share(capacity.role)


def _budget(
    capacity: Capacity | None,
    settings: Settings,
    *,
    behind: bool,
    needed: int = 1,
    gives_way: bool = False,
) -> Step:
    """What all instances together may hold.

    :param needed: what their workers need of it. A reserve that was not set is reduced for them,
        where that is enough.
    :param gives_way: whether any reserve is reduced as far as it has to be.
    """
    asked = settings.budget
    if isinstance(asked, int):
        if capacity is not None and asked > capacity.usable:
            raise PlanError(
                f"{settings.cite('budget')} is more than the {capacity.usable} that the server "
                f"grants this role ({capacity.explain()}). Lower budget, or raise what the server "
                f"grants"
            )
        what = "clients of the pooler, " if behind else ""
        return Step("budget", asked, f"{what}as set by {settings.source('budget')}")
    if behind:
        raise PlanError(
            f"{settings.cite('budget')} cannot be worked out behind a pooler, where what the "
            f"server grants says nothing. Set budget to the number of clients that the pooler "
            f"grants this service: its max_client_conn less what others use"
        )
    if capacity is None:
        raise ValueError("a budget that is not a number needs the server's capacity")
    usable = capacity.usable
    if isinstance(asked, Percent):
        part, how = int(usable * asked.value / 100), f"{asked} of {usable}"
        if gives_way and part < needed:
            part = min(needed, usable)
            how = f"{part} of {usable}, since {needed} are needed, and not {how}"
        return Step("budget", part, how)
    if settings.reserve == "auto":
        reserve, why = _usual_reserve(usable), " (the greater of 3 and 10 %)"
        gives_way = gives_way or needed <= usable
    else:
        reserve, why = settings.reserve, f" (as set by {settings.source('reserve')})"
    if gives_way and usable - reserve < needed:
        why = f" (what {needed} for the workers leave of {reserve})"
        reserve = max(0, usable - needed)
    if usable - reserve < 1 and not gives_way:
        raise PlanError(
            f"nothing is left to share: the server grants {count(usable, 'connection')} "
            f"({capacity.explain()}), and {reserve}{why} are reserved for migrations, cron and "
            f"people. Raise what the server grants, or lower reserve"
        )
    return Step("budget", usable - reserve, f"{usable} − {reserve} reserve{why}")


def _usual_reserve(usable: int) -> int:
    return max(3, -(-usable // 10))


class _Instance:
    """The share of one instance, and what its workers get of it."""

    def __init__(
        self, budget: Step, settings: Settings, workplace: Workplace, *, gives_way: bool
    ) -> None:
        self._gives_way = gives_way
        self._budget = budget
        self._settings = settings
        self._at_once = workplace.at_once
        self.warnings: list[str] = []
        n = settings.instances
        how = f"{budget.value} ÷ {count(n, 'instance')}"
        own = max(_divided_by(budget.value, settings), int(gives_way))
        share = max(own, _most_of(budget.value, settings))
        if settings.ledger == "fleet":
            how = f"{budget.value} − {count(n, 'control session')} − 1 kept free for the next host"
        if settings.ledger != "static" and share > MOST_SLOTS:
            share, how = MOST_SLOTS, f"what a host's ledger can count, below {how}"
        self.share = Step("instance", share, how)
        self.equal = min(own, share)
        """What it has if all instances have the same, of which its workers have their floors."""
        if settings.workers == "auto":
            self.workers = Step(
                "workers", workplace.workers, "gunicorn's, else WEB_CONCURRENCY, else 1"
            )
        else:
            how = f"as set by {settings.source('workers')}"
            self.workers = Step("workers", settings.workers, how)
        if self.equal < self.workers.value and not gives_way:
            raise self._too_small(1)

    def fleet_steps(self) -> Iterator[Step]:
        """What is to be told of a fleet beside the most that one host can have."""
        n = self._settings.instances
        if self._settings.ledger == "fleet":
            how = f"if all have the same: ({self._budget.value} − 1) ÷ {count(n, 'host')} − 1"
            yield Step("each", self.equal, how)

    def floor(self) -> Step:
        share, workers = self.equal, self.workers.value
        if self._settings.floor != "auto":
            floor = self._settings.floor
            if floor * workers > share and self._gives_way:
                how = f"{share} ÷ {count(workers, 'worker')}, but at least 1, and not {floor}"
                return Step("floor", max(1, share // workers), how)
            if floor * workers > share:
                raise self._too_small(floor)
            return Step("floor", floor, f"as set by {self._settings.source('floor')}")
        half = share // (2 * workers)
        floor = max(1, min(self._at_once, half))
        how = f"the least of {self._at_once} used at once and {share} ÷ (2 × {workers}) = {half}"
        how += ", but at least 1" if half < 1 else ""
        most = self._settings.max_size
        if most == "auto":
            return Step("floor", floor, how)
        if most < floor:
            return Step("floor", most, f"max_size, below {how}")
        # A max_size that was set matters more than a floor that was not.
        left = share if workers == 1 else max(1, (share - most) // (workers - 1))
        if self._settings.ledger != "static" and left < floor:
            return Step("floor", left, f"what max_size {most} leaves to each other, below {how}")
        return Step("floor", floor, how)

    def max_size(self, floor: int) -> Step:
        share, workers = self.share.value, self.workers.value
        if self._settings.ledger == "static":
            most, how = share // workers, f"{share} ÷ {count(workers, 'worker')}"
        else:
            shared = max(0, share - workers * floor)
            most, how = floor + shared, f"{floor} floor + {shared} shared"
        asked = self._settings.max_size
        if self._gives_way and (asked == "auto" or asked > most):
            return Step("max_size", max(1, floor, most), how)
        if asked == "auto":
            return Step("max_size", most, how)
        if asked > most:
            excess = (
                f"{self._settings.cite('max_size')} is more than a worker can ever hold: "
                f"{_chain(self._budget, self.share)}, and {how} = {most}. Lower max_size, or raise "
                f"budget"
            )
            if known_budget(self._settings) is not None:
                raise PlanError(excess)
            self.warnings.append(excess)  # the budget follows the server: no setting is wrong
            return Step(
                "max_size", most, f"{how}, below what {self._settings.source('max_size')} allows"
            )
        return Step(
            "max_size", asked, f"as set by {self._settings.source('max_size')}; {most} at most"
        )

    def _too_small(self, each: int) -> PlanError:
        workers = self.workers.value
        needed = workers * each
        least = _needed(needed, self._settings)
        part = next(self.fleet_steps(), self.share)
        return PlanError(
            f"the budget is too small to be divided: {_chain(self._budget, part)}, but "
            f"{count(workers, 'worker')} × {count(each, 'warm connection')} = {needed}. Raise "
            f"budget to at least {least} (or what the server grants, where budget "
            f"follows it), or lower workers{', floor' if each > 1 else ''} or instances"
        )


def _chain(*steps: Step) -> str:
    return ", ".join(f"{step.name} {step.value} = {step.how}" for step in steps)
