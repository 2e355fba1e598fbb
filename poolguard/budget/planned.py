"""What a plan is made for, and what it says: numbers, and where each of them came from."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

__all__ = ["Plan", "Step", "Workplace"]


class Workplace(NamedTuple):
    """The server around this process: gunicorn's numbers, or one process alone."""

    workers: int = 1
    at_once: int = 10
    """Connections that one worker uses at once if each request uses one: 1 for a sync worker, the
    threads of a gthread one; 10 where the worker class sets no such bound."""
    mode: Literal["sync", "async"] | None = None
    """What kind of pool the worker class asks for; None outside gunicorn: the first use decides."""
    bounded: bool = False
    """Whether the class handles no more than *at_once* requests, rather than likely as many."""

    @property
    def most_at_once(self) -> float:
        """Requests that it can handle at once."""
        return self.at_once if self.bounded else math.inf

    @classmethod
    def of(cls, worker_class: str, workers: int = 1, threads: int = 1) -> Workplace:
        """What a worker class means, named as gunicorn's setting takes it.

        gunicorn makes ``gthread`` of ``sync`` where there are several threads, and so does this.
        """
        name = worker_class.rpartition(".")[2].lower()
        if "asgi" in name or "uvicorn" in name:
            return cls(workers, mode="async")
        if name in ("sync", "syncworker", "gthread", "threadworker"):
            at_once = 1 if threads == 1 and name.startswith("sync") else threads
            return cls(workers, at_once, "sync", bounded=True)
        return cls(workers, mode="sync")


class Step(NamedTuple):
    """One number of a plan, and where it came from."""

    name: str
    value: int
    how: str


class Plan(NamedTuple):
    """How many connections each instance and each worker gets."""

    capacity: int | None
    """What the server grants; None behind a pooler, and where the server was not asked since the
    budget was given as a number."""
    budget: int
    """What all instances together may hold. Behind a pooler: clients of the pooler."""
    instance: int
    """This instance's share of the budget; in a fleet, what a host can have while others need
    nothing."""
    workers: int
    floor: int
    """Warm connections of each worker."""
    max_size: int
    """Most connections of one worker."""
    shared: int = 0
    """What the instance has beyond its workers' floors, for them to borrow; 0 where the ledger is
    static, and nothing is lent."""
    ledger: Literal["static", "host", "fleet"] = "static"
    warm_on_reload: int = 0
    """Of the workers × floor connections of a new generation, how many can be open while the old
    one still holds its floors. With a static ledger these are all, since the two generations are
    not counted together."""
    warnings: tuple[str, ...] = ()
    """What works but is likely not meant. Each is one sentence that says what it is, and one that
    says how to change it."""
    steps: tuple[Step, ...] = ()
    short: bool = False
    """There is less than the settings need: the reserve was reduced, and perhaps the floors."""
    equal: int = 0
    """What each instance has if all have the same. Only in a fleet is that less than
    ``instance``."""

    @property
    def held(self) -> int:
        """Most connections that the instance may hold."""
        return min(self.instance, self.workers * self.max_size)

    @property
    def held_on_reload(self) -> int:
        """The same while two generations of workers live."""
        both = 2 * self.workers * self.max_size
        return both if self.ledger == "static" else min(self.instance, both)

    @property
    def most_hosts(self) -> int:
        """Hosts like this one whose floors a fleet's budget covers, and their control sessions."""
        return (self.budget - 1) // (self.workers * self.floor + 1)

    def explain(self) -> str:
        """The arithmetic, line by line: each number, and where it came from."""
        name = max((len(step.name) for step in self.steps), default=0)
        value = max((len(str(step.value)) for step in self.steps), default=0)
        return "\n".join(
            f"{step.name:<{name}}  {step.value:>{value}}  = {step.how}" for step in self.steps
        )
