"""What ``poolguard status`` shows, as lines of text: the table, the budgets and the errors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..util.escape import escaped
from .status_table import Rates, Status, stalled_for, table
from .table import shortened, trimmed
from .text import plural, sessions, wrapped

__all__ = ["frame", "is_whole", "report"]

NAMED_MOST = 4
"""How many of the server's other sessions are named."""

_SHAPE: dict[str, Any] = {
    "name": str,
    "pid": int,
    **dict.fromkeys(("at", "due"), int | float),
    "ready": bool,
    **dict.fromkeys(("idle", "used", "opening", "waiting"), int),
    **dict.fromkeys(("floor", "max_size"), int | None),
    "acquires": dict,
    "budget": dict,
    "last_error": str | None,
    "worker_class": str | None,
    "ledger": dict | None,
}
_LATEST = 1e11
"""Seconds since the epoch, in the year 5138: no clock has written a later time."""


def is_whole(status: Status) -> bool:
    """Whether *status* has all that is shown here; other versions of poolguard may publish less."""
    if not all(isinstance(status.get(key, ...), kind) for key, kind in _SHAPE.items()):
        return False
    budget, ledger = status["budget"], status["ledger"]
    known = [budget.get(key) for key in ("capacity", "budget", "instance")]
    return (
        max(abs(status["at"]), abs(status["due"])) < _LATEST
        and isinstance(budget.get("in_use"), int)
        and all(isinstance(n, int | None) for n in known)
        and _are_sessions(budget.get("others", []))
        and all(isinstance(n, int) for n in status["acquires"].values())
        and (ledger is None or all(isinstance(ledger.get(k), str) for k in ("name", "kind")))
    )


def _are_sessions(others: object) -> bool:
    return isinstance(others, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("connections"), int)
        and all(isinstance(each.get(key), str) for key in ("role", "application"))
        for each in others
    )


def _budgets(statuses: Iterable[Status]) -> Iterator[str]:
    """A line for each ledger that the guards share, and for each guard that has none yet."""
    ledgers: dict[tuple[str, str], list[Status]] = {}
    inert: dict[str, Status] = {}
    for status in statuses:
        ledger = status.get("ledger")
        if ledger is None:
            inert[status["name"]] = status
        else:
            ledgers.setdefault((ledger["name"], ledger["kind"]), []).append(status)
    databases = [name.rpartition("-")[0] for name, _ in ledgers]
    for (name, kind), members in ledgers.items():
        # What follows the database's name tells ledgers of the same name apart.
        database = name.rpartition("-")[0]
        known_as = database if database and databases.count(database) == 1 else name
        yield f"{escaped(known_as)}: {_in_use(members, kind)}"
        for member in members:
            inert.pop(member["name"], None)
    for name in inert:
        yield f"{escaped(name)}: not known yet"


def _in_use(members: Iterable[Status], kind: str) -> str:
    """What *members* say of the ledger that they share; the latest word counts."""
    said = [each["budget"] for each in sorted(members, key=lambda each: float(each["at"]))]
    # A static ledger is a process's own. Of any other, each member tells what all have taken.
    taken = sum(each["in_use"] for each in said) if kind == "static" else said[-1]["in_use"]
    known = [each for each in said if each["budget"] is not None]
    if not known:
        return f"not known yet, slots in use: {taken}"
    share = min(each["instance"] for each in known)  # where they differ, the smallest rules
    text = f"{taken} of this instance's {share} slots in use, budget {known[-1]['budget']}"
    capacity = known[-1]["capacity"]
    text += "" if capacity is None else f", capacity {capacity}"
    text += _of_fleet(next((each["fleet"] for each in said[::-1] if each.get("fleet")), None))
    told: list[dict[str, Any]] = next((n["others"] for n in known[::-1] if n.get("others")), [])
    named = ", ".join(
        sessions(each["connections"], escaped(each["role"]), escaped(each["application"]))
        for each in told[:NAMED_MOST]
    )
    return f"{text}; the server has room for no more: {named}" if named else text


def _of_fleet(fleet: object) -> str:
    """What the host's keeper knows of all hosts, as the latest of its workers has told it."""
    if not isinstance(fleet, dict):
        return ""
    if unreachable := fleet.get("unreachable"):
        return (
            f"; the fleet's ledger cannot be used, and no connection is opened until it can: "
            f"{escaped(' '.join(str(unreachable).split()))}"
        )
    names = ("hosts", "budget", "granted", "used", "needed", "guaranteed", "fair")
    known: list[int] = [n for name in names if isinstance(n := fleet.get(name), int)]
    if len(known) < len(names) or not fleet["budget"]:
        return "; the fleet is not known yet"
    hosts, budget, granted, used, needed, guaranteed, fair = known
    return (
        f"; fleet of {hosts} {plural(hosts, 'host')}: {used} of {budget} used, {granted} leased, "
        f"{needed} more needed; {guaranteed} are guaranteed to this one, {fair} its fair share"
    )


def _errors(statuses: Iterable[Status]) -> Iterator[str]:
    """A line for each last error that differs, with the pids of its workers."""
    pids_of: dict[str, list[str]] = {}
    for status in statuses:
        if status["last_error"] is not None:
            text = escaped(" ".join(status["last_error"].split()))
            pids = pids_of.setdefault(text, [])
            if str(status["pid"]) not in pids:
                pids.append(str(status["pid"]))
    for text, pids in pids_of.items():
        yield f"{', '.join(pids)}: {text}"


def _notes(head: str, texts: Iterable[str], width: int | None) -> Iterator[str]:
    for n, text in enumerate(texts):
        yield from wrapped(text, (head if n == 0 else "").ljust(9), 11, width)


def report(
    statuses: Sequence[Status], now: float, *, runtime_dir: Path, width: int | None
) -> list[str]:
    """All lines; *width* is the terminal's, or None where there is no terminal to fit."""
    lines = table(statuses, now, width)
    lines.append("")
    lines += _notes("budget", _budgets(statuses), width)
    lines += _notes("error", _errors(statuses), width)
    lines.append(f"folder   {escaped(str(runtime_dir))}")
    return lines


def frame(
    statuses: Sequence[Status],
    now: float,
    *,
    runtime_dir: Path,
    rates: Rates,
    nothing: str,
    size: tuple[int, int],
) -> list[str]:
    """The lines that fit on a terminal of *size*, its columns and lines.

    :param nothing: what to show when there is no worker.
    """
    width, height = size
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    lines = [f"{clock}  {_summary(statuses, now)}  (Ctrl-C ends)", ""]
    if not statuses:
        lines += wrapped(nothing, width=width)
        return trimmed(lines, width, height)
    rows = table(statuses, now, width, rates)
    notes = [
        "",
        *_notes("budget", _budgets(statuses), width),
        *_notes("error", _errors(statuses), width),
        f"folder   {escaped(str(runtime_dir))}",
    ]
    # Rows give way before notes, but a few rows stay: there may be a hundred of either.
    few = len(lines) + min(len(rows), max(4, height // 2))
    notes = shortened(notes, max(0, height - few))
    lines += [rows[0], *shortened(rows[1:], height - len(lines) - 1 - len(notes))]
    return trimmed(lines + notes, width, height)


def _summary(statuses: Sequence[Status], now: float) -> str:
    """How many workers there are in each state; a worker's is that of its worst guard."""
    worst: dict[int, int] = {}
    for status in statuses:
        stalled = stalled_for(status, now) is not None
        state = 2 if stalled else 0 if status["ready"] else 1
        worst[status["pid"]] = max(state, worst.get(status["pid"], 0))
    found = list(worst.values())
    names = enumerate(("ready", "not ready", "stalled"))
    counts = [f"{found.count(state)} {name}" for state, name in names if state in found]
    head = f"{len(worst)} {plural(len(worst), 'worker')}"
    return ": ".join([head, *([", ".join(counts)] if counts else [])])
