"""What ``poolguard status --fleet`` shows, as lines of text: each fleet's hosts, and its slots."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..budget.fleet.survey import Host, Survey
from ..util.escape import escaped
from .fleet_findings import of_survey
from .table import Column, fitted, shortened, trimmed
from .text import plural, span, wrapped

__all__ = ["frame", "nothing", "report"]


def report(surveys: Sequence[Survey], database: str, width: int | None) -> list[str]:
    """All lines; *width* is the terminal's, or None where there is no terminal to fit."""
    lines: list[str] = []
    for survey in surveys:
        lines += [""] if lines else []
        lines += _table(survey, width)
        lines += ["", *_notes(survey, database, width)]
    return lines


def frame(
    surveys: Sequence[Survey], database: str, none: list[str], now: float, size: tuple[int, int]
) -> list[str]:
    """The lines that fit on a terminal of *size*, its columns and lines.

    :param none: what to show where there is no host.
    """
    width, height = size
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    n = sum(len(each.hosts) for each in surveys)
    lines = [f"{clock}  {n} {plural(n, 'host')}  (Ctrl-C ends)", ""]
    if not n:
        return trimmed([*lines, *none], width, height)
    shown = [survey for survey in surveys if survey.hosts]
    for left, survey in zip(range(len(shown), 0, -1), shown, strict=True):
        room = (height - len(lines)) // left
        head, *rows = _table(survey, width)
        # Rows give way before notes, but a few rows stay.
        few = 1 + min(len(rows), max(4, room // 2))
        notes = shortened(["", *_notes(survey, database, width)], max(0, room - few))
        lines += [head, *shortened(rows, room - 1 - len(notes)), *notes]
    return trimmed(lines, width, height)


def nothing(surveys: Sequence[Survey], database: str, role: str, width: int | None) -> list[str]:
    """What to say where no host is there."""
    label = escaped(surveys[0].label) if surveys else "?"
    text = (
        f"no host of the fleet {label} is there: looked in the database {escaped(database)} as "
        f"role {escaped(role)}. Where its hosts share the budget in another database, or by "
        f"another name, say so by --ledger-dsn and --ledger-label, or the hosts' own variables "
        f"POOLGUARD_LEDGER_DSN and POOLGUARD_LEDGER_LABEL"
    )
    lines = [text] if width is None else wrapped(text, width=width)
    for survey in surveys:
        lines += _findings(survey, width)
    return lines


def _table(survey: Survey, width: int | None) -> list[str]:
    shown: list[Column[Host]] = [
        Column("host", lambda host: host.line.host or f"pid {host.session.pid}", right=False),
        Column("address", lambda host: host.session.address or "-", goes=3, right=False),
        Column("since", lambda host: _age(host.session.age), goes=2),
        Column("budget", lambda host: host.line.budget or "?", goes=1),
        Column("workers", lambda host: host.line.workers, goes=5),
        Column("floors", lambda host: host.line.floors, goes=4),
        Column("fair", lambda host: host.fair, goes=6),
        Column("leased", lambda host: host.leased),
        Column("used", survey.used),
        Column("needs", lambda host: host.lacks),
        Column("state", _state, right=False),
    ]
    return fitted(shown, survey.hosts, width)


def _notes(survey: Survey, database: str, width: int | None) -> Iterator[str]:
    n = len(survey.hosts)
    yield from _note(
        "fleet",
        f"{escaped(survey.label)} in the database {escaped(database)}: {n} {plural(n, 'host')}, "
        f"{(workers := sum(host.line.workers for host in survey.hosts))} "
        f"{plural(workers, 'worker')}",
        width,
    )
    yield from _note("slots", _slots(survey), width)
    yield from _findings(survey, width)


def _slots(survey: Survey) -> str:
    """What the slots of the budget are used for, which add up to it."""
    slots = survey.slots
    if not survey.budget:
        return f"the budget is not known yet; {len(survey.leased)} are leased"
    parts = [
        f"{slots.controls} of control sessions",
        f"{slots.pools} leased for pools",
        *([f"{slots.lost} occupied without a lease"] if slots.lost else []),
        f"{slots.free} free",
        f"1 kept for a host that joins, which is {'free' if survey.in_door is None else 'taken'}",
    ]
    told = ", ".join(parts)
    n = len(survey.pooled)
    sitting = f"Sessions of pools that occupy slots: {n}"
    if not n and any(host.line.used for host in survey.hosts):
        sitting = "No session of a pool occupies its slot: pools are in another database, or pooled"
    return f"budget {survey.budget}: {told}. {sitting}"


def _findings(survey: Survey, width: int | None) -> Iterator[str]:
    for finding in of_survey(survey):
        remedy = f". {finding.remedy[:1].upper()}{finding.remedy[1:]}" if finding.remedy else ""
        yield from _note(finding.level, finding.found + remedy, width)


def _note(head: str, text: str, width: int | None) -> list[str]:
    return wrapped(text, head.ljust(9), 9, width)


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


def _state(host: Host) -> str:
    states = {
        "joining": 0 in host.session.occupied,
        "draining": host.line.draining,
        "rejoined": host.line.rejoined,
        "starves": host.starves,
    }
    return ", ".join(name for name, holds in states.items() if holds)
