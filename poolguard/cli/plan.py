"""``poolguard plan``: how many connections each instance and each worker gets, and why.

It says so of reloads and rollouts too. It needs no database where the capacity, or the budget, is
given.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..budget.capacity import Capacity
from ..budget.fleet.survey import PLACE
from ..budget.plan import Plan, Workplace, known_budget, make_plan
from ..budget.queries import one_row
from ..errors import PlanError, PoolguardError
from ..settings import VARIABLES, Settings
from ..util.escape import as_json
from . import database, deployment, plan_history
from .arguments import from_zero, positive
from .plan_fleet import fleet_lines, fleet_rollout, fleet_table, machine
from .pooler import Kind
from .text import columns, say, wrapped

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="how many connections each worker gets, also during a reload and a rollout",
        description="Works out how many connections each instance and each worker gets, without a "
        "database where --capacity or --budget N is given. Options that are left out are taken "
        "from their POOLGUARD_* variables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--capacity",
        metavar="N",
        type=positive,
        help="connections that the server grants this role; without it, the server is asked",
    )
    deployment.add_options(parser)
    parser.add_argument(
        "--surge",
        metavar="N",
        type=from_zero,
        default=1,
        help="how many more instances run during a rollout (1)",
    )
    plan_history.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    settings = deployment.settings_of(options)
    workplace = deployment.workplace_of(options, settings)
    capacity, pooler, locks = _capacity(options, settings)
    try:
        plan = make_plan(capacity, settings, workplace, pooler=pooler, locks=locks)
    except PlanError as error:
        raise PlanError(deployment.spoken(str(error))) from None
    rollout = None
    if options.surge:
        rollout = _rollout(
            plan,
            capacity=capacity,
            settings=settings,
            workplace=workplace,
            pooler=pooler,
            surge=options.surge,
        )
    learned = plan_history.learned(options, plan, settings)
    case = _Case(plan, rollout, settings, workplace, pooler, options.worker_class, learned)
    if options.json:
        print(as_json(_machine(case), indent=1))
    else:
        say(_report(case))
    return 0


def _capacity(
    options: argparse.Namespace, settings: Settings
) -> tuple[Capacity | None, Kind, int | None]:
    """What the server grants, and what stands before it: as given, else as it is found there. And
    how many locks a fleet's ledger has room for, where that is known."""
    declared: Kind = "none" if settings.pooler == "auto" else settings.pooler
    if options.capacity is not None:
        if options.dsn is not None:
            options.parser.error("--capacity and --dsn: both say what the server grants; drop one")
        return Capacity(server=options.capacity), declared, None
    if options.dsn is None and known_budget(settings) is not None:
        return None, declared, None
    if options.dsn is None and not Settings.has_dsn():
        raise PoolguardError(
            "what the server grants is not known: give it with --capacity, say where the database "
            "is with --dsn, or set the budget to a number"
        )
    with database.connect(settings, "plan") as conn:
        own = settings.ledger == "fleet" and settings.ledger_dsn is None
        locks = one_row(conn, PLACE)["locks"] if own else None
        return database.ask_capacity(conn), database.ask_pooler(conn, settings, "plan"), locks


@dataclass(frozen=True)
class _Rollout:
    """What happens while *surge* more instances run."""

    surge: int
    instances: int
    """How many run at the same time then."""
    held: int
    """Connections that all of them may hold if the setting ``instances`` stays as it is."""
    plan: Plan | None
    """The plan if the setting ``instances`` is raised to that number."""
    error: str = ""
    """Why there is no such plan."""


def _rollout(
    plan: Plan,
    *,
    capacity: Capacity | None,
    settings: Settings,
    workplace: Workplace,
    pooler: Kind,
    surge: int,
) -> _Rollout:
    instances = settings.instances + surge
    held = instances * plan.held
    if plan.ledger == "fleet":
        held = min(held, plan.budget)
    try:
        changed = settings.replace(instances=instances)
        then = make_plan(capacity, changed, workplace, pooler=pooler)
    except PoolguardError as error:
        return _Rollout(surge, instances, held, None, deployment.spoken(str(error)))
    return _Rollout(surge, instances, held, then)


@dataclass(frozen=True)
class _Case:
    """All that the command has to tell of."""

    plan: Plan
    rollout: _Rollout | None
    settings: Settings
    workplace: Workplace
    pooler: Kind
    worker_class: str | None
    learned: list[plan_history.Learned] | None
    """What the history says of it, where that was asked for."""

    def warnings(self) -> Iterator[str]:
        yield from map(deployment.spoken, self.plan.warnings)
        # Of a fleet, what is said of the rollout says this too.
        if self.rollout and self.rollout.plan is None and self.plan.ledger != "fleet":
            yield (
                f"a rollout with {self.rollout.surge} more at the same time has no room: "
                f"{self.rollout.error}"
            )

    def conf(self) -> list[str]:
        """Lines for gunicorn.conf.py."""
        given = [
            name
            for name in deployment.SETTINGS
            if name != "workers" and self.settings.source(name).startswith("keyword")
        ]
        keywords = dict.fromkeys(given)
        if self.pooler != "none":
            keywords["pooler"] = None
        lines = ["import poolguard"] if keywords else []
        lines += ["from poolguard.gunicorn import *", "", f"workers = {self.plan.workers}"]
        if self.worker_class:
            lines.append(f"worker_class = {json.dumps(self.worker_class)}")
        if self.workplace.bounded and self.workplace.at_once > 1:
            lines.append(f"threads = {self.workplace.at_once}")
        if keywords:
            words = (f"{name}={self._value(name)}" for name in keywords)
            lines.append(f"poolguard.Guard({', '.join(words)})")
        if self.settings.ledger_dsn is not None:
            lines.append(f"# and, since it may hold a password, from {VARIABLES['ledger_dsn']}")
        return lines

    def _value(self, name: str) -> str:
        if name == "pooler":
            return json.dumps(self.pooler)
        value = getattr(self.settings, name)
        return str(value) if isinstance(value, int) else json.dumps(str(value))


def _report(case: _Case) -> Iterator[str]:
    yield from _table(case)
    yield ""
    yield from _reload(case.plan)
    if case.plan.ledger == "fleet":
        yield from fleet_lines(case.plan, case.settings.instances)
    if case.rollout is not None:
        yield from _rollout_lines(case)
    if warnings := list(case.warnings()):
        yield from ("", "warnings")
        for warning in warnings:
            yield from wrapped(warning, "  - ", 4)
    if case.learned is not None:
        yield from plan_history.history_lines(case.learned, case.plan)
    yield from ("", "arithmetic")
    yield from (f"  {line}" for line in deployment.spoken(case.plan.explain()).splitlines())
    yield from ("", "gunicorn.conf.py")
    yield from (f"  {line}".rstrip() for line in case.conf())
    for name in deployment.SETTINGS:
        if case.settings.source(name).startswith("variable"):
            value = os.environ.get(VARIABLES[name], "").strip()
            yield f"  # in the environment: {VARIABLES[name]}={value}"


def _table(case: _Case) -> list[str]:
    plan, n = case.plan, case.settings.instances
    together = n * plan.instance
    clients = "" if case.pooler == "none" else f", clients of the pooler ({case.pooler})"
    if plan.ledger == "fleet":
        return fleet_table(plan, n, clients)
    rows = [
        ("", "each", "together", ""),
        ("budget", "", str(plan.budget), f"all instances, at their peak{clients}"),
        ("  instance", str(plan.instance), str(together), f"instances: {n}"),
        (
            "    worker, warm",
            str(plan.floor),
            str(n * plan.workers * plan.floor),
            f"floor; workers of each instance: {plan.workers}",
        ),
        ("    worker, at most", str(plan.max_size), "", "max_size"),
    ]
    if plan.ledger != "static":
        lent = str(n * plan.shared)
        rows.insert(4, ("    shared", str(plan.shared), lent, "borrowed by workers that are busy"))
    if rest := plan.budget - together:
        rows.append(("  not given out", "", str(rest), "what the division leaves"))
    if plan.capacity is not None:
        left = str(plan.capacity - plan.budget)
        rows.append(("left to others", "", left, "migrations, cron, people"))
    return columns(rows, right=(1, 2))


def _reload(plan: Plan) -> list[str]:
    warm = plan.workers * plan.floor
    return wrapped(
        f"an instance holds at most {plan.held_on_reload}; {plan.warm_on_reload} of the new "
        f"workers' {warm} connections can be warm before the old ones let go",
        "reload   ",
    )


def _rollout_lines(case: _Case) -> list[str]:
    plan, rollout = case.plan, case.rollout
    assert rollout is not None
    if plan.ledger == "fleet":
        return [*fleet_rollout(plan, rollout.surge, rollout.instances)]
    text = (
        f"with {rollout.surge} more at the same time, {rollout.instances} instances may hold "
        f"{rollout.held} of the budget of {plan.budget}"
    )
    if rollout.plan is not None:
        then = rollout.plan
        text += (
            f": set instances to {rollout.instances} where rollouts do that. An instance then "
            f"gets {then.instance}, a worker {then.floor} warm and {then.max_size} at most"
        )
    return wrapped(text, "rollout  ")


def _machine(case: _Case) -> dict[str, Any]:
    plan, rollout = case.plan, case.rollout
    warm = plan.workers * plan.floor
    answer: dict[str, Any] = {
        "capacity": plan.capacity,
        "budget": plan.budget,
        "left_to_others": None if plan.capacity is None else plan.capacity - plan.budget,
        "instances": case.settings.instances,
        "instance": plan.instance,
        "workers": plan.workers,
        "floor": plan.floor,
        "shared": plan.shared,
        "max_size": plan.max_size,
        "ledger": plan.ledger,
        "fleet": machine(plan, case.settings.instances),
        "pooler": case.pooler,
        "reload": {"held": plan.held_on_reload, "warm": plan.warm_on_reload, "wanted": warm},
        "rollout": None,
        "history": plan_history.as_machine(case.learned),
        "warnings": list(case.warnings()),
        "arithmetic": [
            {**step._asdict(), "how": deployment.spoken(step.how)} for step in plan.steps
        ],
        "gunicorn_conf": "\n".join(case.conf()) + "\n",
    }
    if rollout is not None:
        then = rollout.plan
        answer["rollout"] = {
            "surge": rollout.surge,
            "instances": rollout.instances,
            "held": rollout.held,
            "instance": then and then.instance,
            "floor": then and then.floor,
            "max_size": then and then.max_size,
        }
    return answer
