"""``poolguard history``: what the guards of this host have been asked for, minute by minute."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..history.minutes import DAY, HOUR, Demand
from ..history.numbers import Numbers, numbers
from ..util.escape import as_json
from . import history_picture, history_table
from .arguments import positive
from .folder import add_folder
from .history_days import Day, days
from .history_files import Recorded, days_kept, recorded
from .history_text import as_data, known, period, summary
from .text import plural, say, speaks_unicode, terminal_width, wrapped

__all__ = ["add_to"]

VERSION = 1
"""The version of the JSON. It is raised when a key changes its meaning or goes, and not when keys
are added."""
WEEK = 7
"""Days."""
NOTHING = (
    "nothing is recorded of that time. While workers run, a minute is seen here about one minute "
    "after it is over"
)
WIDEST = 160
"""The most columns of a picture, which gains from wider lines than text does."""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "history",
        help="what the pools of this host have been asked for in the last week, as a picture",
        description="Draws what this user's workers on this host have recorded: for each day the "
        "most connections that were lent at once in one worker, by the time of day here, the level "
        "that was kept warm, and where connections were created while a request waited. Then it "
        "names the numbers that would have sufficed; plan --history says what less would have "
        "cost. It asks neither the workers nor, without --database, the database.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--days", metavar="N", type=days_kept, default=WEEK, help="the last N days (7), at most 35"
    )
    parser.add_argument("--guard", metavar="NAME", help="only the guard of this name")
    add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print the minutes as JSON")
    parser.add_argument(
        "--every",
        metavar="MINUTES",
        type=_every,
        help="with --json, an entry for each 5, 10, 15, 20, 30 or 60 MINUTES instead of each one",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="write it as one web page instead of drawing it"
    )
    history_table.add_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _every(text: str) -> int:
    minutes = positive(text)
    if HOUR % minutes or minutes not in (1, 5, 10, 15, 20, 30, 60):
        raise argparse.ArgumentTypeError(f"{text} is none of 1, 5, 10, 15, 20, 30 and 60 minutes")
    return minutes


def _run(options: argparse.Namespace) -> int:
    if options.every is not None and not options.json:
        options.parser.error("--every says how fine the JSON is: add --json")
    if options.html is not None and options.json:
        options.parser.error("--html writes a page and --json prints data: drop one")
    if options.create:
        return history_table.create(options)
    for name in ("sql", "role"):
        if getattr(options, name):
            options.parser.error(f"--{name} says how the table is made: add --create")
    if options.database:
        settings = history_table.settings_of(options)
        found = history_table.recorded_there(settings, "history", options.guard)
    elif options.dsn is not None:
        options.parser.error("--dsn says where the table is: add --database or --create")
    else:
        found = recorded(options.runtime_dir, options.guard)
    if options.json:
        print(as_json(_machine(found, options.days, options.every or 1), indent=1))
    elif options.html is not None:
        _write(found, options.days, options.html)
    else:
        say(_report(found, options.days))
    return 0


def _write(found: list[Recorded], shown: int, path: Path) -> None:
    from . import history_page
    from .report import write

    write(path, history_page.page(found, shown))
    say([f"written: {path}"])


def _report(found: list[Recorded], shown: int) -> Iterator[str]:
    width, unicode = terminal_width(WIDEST), speaks_unicode()
    drawn = False
    for number, each in enumerate(found):
        if number:
            yield ""
        yield from wrapped(
            f"guard {each.called}: the last {period(shown * DAY)}, by the clock here "
            f"({time.strftime('%Z')})"
        )
        yield ""
        sums = numbers(each.last(shown))
        if sums is None:
            yield from wrapped(NOTHING)
            continue
        yield from history_picture.draw(_days(each, sums), width, unicode=unicode)
        yield ""
        yield from _numbers(sums)
        drawn = True
    if not drawn:
        return
    yield ""
    for line in history_picture.legend(width, unicode=unicode):
        yield from wrapped(line)


def _days(each: Recorded, sums: Numbers) -> list[Day]:
    """The days to draw: from the first of which anything is known, until today."""
    return days(each.past, each.end - sums.span, each.end + 1)


def _numbers(sums: Numbers) -> Iterator[str]:
    text = f"{summary(sums)}."
    if sums.created:
        what = plural(sums.created, "connection")
        text += f" {sums.created:,} {what} created while a request waited."
    yield from wrapped(text)
    if note := known(sums):
        yield from wrapped(f"Note: {note}.")


def _machine(found: list[Recorded], shown: int, every: int) -> dict[str, Any]:
    """The same for machines: moments in seconds since 1970."""
    return {
        "version": VERSION,
        "days": shown,
        "every_minutes": every,
        "guards": [
            {
                "guard": each.guard,
                "database": each.database,
                "numbers": as_data(numbers(each.last(shown))),
                "minutes": [
                    {"at": at * 60, **minute._asdict()}
                    for at, minute in _entries(each, shown, every)
                ],
            }
            for each in found
        ],
    }


def _entries(each: Recorded, shown: int, every: int) -> Iterator[tuple[int, Demand]]:
    """What is known, in steps of *every* minutes, each with the minute in which it begins."""
    first = each.end - shown * DAY
    merged: dict[int, Demand] = {}
    for at, minute in enumerate(each.last(shown), first):
        if minute is not None:
            step = at - at % every
            merged[step] = minute.merged(merged[step]) if step in merged else minute
    return iter(merged.items())
