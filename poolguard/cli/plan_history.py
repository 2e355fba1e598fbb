"""What ``poolguard plan --history`` adds: the numbers that would have sufficed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..budget.plan import Plan
from ..history.minutes import DAY
from ..history.numbers import Floor, Numbers, cost, numbers
from ..settings import Settings
from .folder import add_folder
from .history_files import Recorded, days_kept, recorded
from .history_table import recorded_there
from .history_text import as_data, known, lower, period, summary
from .text import plural, wrapped

__all__ = ["Learned", "add_options", "as_machine", "history_lines", "learned"]

_OPTIONS = ("guard", "runtime_dir", "database")


class Learned(NamedTuple):
    """What the history of one guard says of a plan."""

    of: Recorded
    days: int
    """Those that were looked at."""
    found: Numbers | None
    """None where nothing is known of them."""
    planned: Floor
    """What the plan's floor would have meant."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say of what history."""
    parser.add_argument(
        "--history",
        metavar="DAYS",
        nargs="?",
        type=days_kept,
        const=7,
        help="also say which numbers would have sufficed in the last DAYS (7), as they were "
        "recorded on this host, and what less would have cost",
    )
    parser.add_argument("--guard", metavar="NAME", help="of --history, only the guard of this name")
    parser.add_argument(
        "--database",
        action="store_true",
        default=None,
        help='of --history, what all hosts have recorded in the table (history="database")',
    )
    add_folder(parser)


def learned(options: argparse.Namespace, plan: Plan, settings: Settings) -> list[Learned] | None:
    """What the history says of *plan*; None where it was not asked for.

    Raises :exc:`~poolguard.errors.PoolguardError` where nothing is recorded.
    """
    days: int | None = options.history
    if days is None:
        for name in _OPTIONS:
            if getattr(options, name) is not None:
                option = "--" + name.replace("_", "-")
                options.parser.error(f"{option} says whose history to read: add --history")
        return None
    folder: Path | None = options.runtime_dir
    if options.database:
        told = recorded_there(settings, "plan", options.guard)
    else:
        told = recorded(folder, options.guard)
    found = []
    for each in told:
        minutes = each.last(days)
        planned = cost(minutes, plan.floor)
        found.append(Learned(each, days, numbers(minutes, settings.instances), planned))
    return found


def history_lines(all_learned: Sequence[Learned], plan: Plan) -> Iterator[str]:
    """The same as lines of text."""
    for each in all_learned:
        yield ""
        yield f"history of guard {each.of.called}"
        if each.found is None:
            yield f"  nothing is recorded of the last {period(each.days * DAY)}"
        else:
            yield from _numbers(each, each.found, plan)


def _numbers(each: Learned, found: Numbers, plan: Plan) -> Iterator[str]:
    yield from wrapped(summary(found), "  ")
    if note := known(found):
        yield from wrapped(f"note: {note}", "  ")
    yield from wrapped(_planned(each.planned, found, plan), "  ")
    yield ""
    for line in lower(found):
        yield f"  {line}".rstrip()


def _planned(planned: Floor, found: Numbers, plan: Plan) -> str:
    told = (
        f"the floor of this plan, {planned.floor}, would have been too low in "
        f"{planned.minutes:,} {plural(planned.minutes, 'minute')}"
    )
    if planned.minutes:
        told += f", with about {planned.created:,} created while a request waited"
    warm = found.floor.floor * plan.workers * found.instances
    if warm > plan.budget:
        told += (
            f". A floor of {found.floor.floor} in {plan.workers * found.instances} workers needs a "
            f"budget of {warm}, and this plan has {plan.budget}"
        )
    return told


def as_machine(all_learned: Sequence[Learned] | None) -> list[dict[str, Any]] | None:
    """The same for machines."""
    if all_learned is None:
        return None
    return [
        {
            "guard": each.of.guard,
            "database": each.of.database,
            "days": each.days,
            "numbers": as_data(each.found),
            "planned": {
                "floor": each.planned.floor,
                "minutes_beyond": each.planned.minutes,
                "created_while_waiting_estimate": each.planned.created,
            },
        }
        for each in all_learned
    ]
