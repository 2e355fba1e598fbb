"""The plan: from capacity and settings to each worker's floor and maximum. Arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import PlanError
from ..settings import Percent, Settings
from .capacity import Capacity

__all__ = ["Plan", "Workplace", "known_budget", "make_plan"]


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the server around this process is: gunicorn's numbers, or one process alone."""

    workers: int = 1
    at_once: int = 10
    """Connections that one worker uses at once if each request uses one: 1 for a sync worker, the
    threads of a gthread one; 10 where the worker class sets no such bound."""
    mode: Literal["sync", "async"] | None = None
    """What kind of pool the worker class asks for; None outside gunicorn: the first use decides."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who gets how many connections."""

    capacity: int | None
    """What the server grants; None where the budget was given as a number and nobody asked."""
    budget: int
    """What all instances together may hold."""
    instance: int
    """This instance's share of the budget."""
    workers: int
    floor: int
    """Warm connections of each worker."""
    max_size: int
    """Most connections of one worker."""

    def explain(self) -> str:
        """The arithmetic, line by line."""
        lines = []
        if self.capacity is not None:
            lines.append(f"capacity   {self.capacity:>5}  what the server grants this role")
        lines += [
            f"budget     {self.budget:>5}  what all instances together may hold",
            f"instance   {self.instance:>5}  the share of this one",
            f"workers    {self.workers:>5}",
            f"floor      {self.floor:>5}  warm connections of each worker",
            f"max_size   {self.max_size:>5}  most connections of one worker",
        ]
        return "\n".join(lines)


def known_budget(settings: Settings) -> int | None:
    """The budget where it is a number; None where the server must be asked for its capacity."""
    return settings.budget if isinstance(settings.budget, int) else None


def make_plan(capacity: Capacity | None, settings: Settings, workplace: Workplace) -> Plan:
    """Divide the budget among instances and workers.

    Raises :exc:`~poolguard.errors.PlanError` where a worker would be left without a connection.
    """
    usable = None if capacity is None else capacity.usable
    budget = _budget(usable, settings)
    instance = budget // settings.instances
    workers = workplace.workers if settings.workers == "auto" else settings.workers
    share = instance // workers
    if share < 1:
        raise PlanError(
            f"a budget of {budget} connections cannot be divided: {budget} // "
            f"{settings.instances} instance(s) = {instance}, and {instance} // {workers} "
            f"worker(s) = {share}, but each worker needs at least 1. Raise budget (or what the "
            f"server grants), or lower workers or instances"
        )
    max_size = share if settings.max_size == "auto" else settings.max_size
    if max_size > share:
        raise PlanError(
            f"max_size={max_size} is more than a worker's share of the budget: {budget} // "
            f"{settings.instances} instance(s) // {workers} worker(s) = {share}. Lower max_size, "
            f"or raise budget"
        )
    if settings.floor == "auto":
        floor = min(max(1, min(workplace.at_once, instance // (2 * workers))), max_size)
    else:
        floor = settings.floor
    if floor > max_size:
        raise PlanError(
            f"floor={floor} is more than max_size={max_size}, the most that one of {workers} "
            f"worker(s) may hold of a budget of {budget}. Lower floor, or raise budget"
        )
    return Plan(usable, budget, instance, workers, floor, max_size)


def _budget(usable: int | None, settings: Settings) -> int:
    if isinstance(settings.budget, int):
        return settings.budget
    if usable is None:
        raise ValueError("a budget that is not a number needs the server's capacity")
    if isinstance(settings.budget, Percent):
        return int(usable * settings.budget.value / 100)
    reserve = max(3, -(-usable // 10)) if settings.reserve == "auto" else settings.reserve
    if usable - reserve < 1:
        raise PlanError(
            f"nothing is left to share: the server grants {usable} connection(s), and {reserve} "
            f"are reserved for migrations, cron and people. Raise what the server grants, or "
            f"lower reserve"
        )
    return usable - reserve
