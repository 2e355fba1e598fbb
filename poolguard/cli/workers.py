"""What ``poolguard status`` shows: from the workers' statuses to lines of text, with no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..util.escape import escaped
from .text import columns, span, wrapped

__all__ = ["Rates", "frame", "is_whole", "report"]

NAMED_MOST = 4
STALLED_AFTER = 5.0
"""Seconds since a worker last wrote, after which it is said to stall. They write every second."""

Status: TypeAlias = dict[str, Any]


_SHAPE: dict[str, Any] = {
    "name": str,
    "pid": int,
    "at": int | float,
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
"""Seconds since the epoch, in 3,169 years: what was written later was written by no clock."""


def is_whole(status: Status) -> bool:
    """Whether it says what is shown here: another version of poolguard may publish less."""
    if not all(isinstance(status.get(key, ...), kind) for key, kind in _SHAPE.items()):
        return False
    budget, ledger = status["budget"], status["ledger"]
    known = [budget.get(key) for key in ("capacity", "budget", "instance")]
    return (
        abs(status["at"]) < _LATEST
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


# -- rates


class Rates:
    """Acquires per second, by the counters of one look at the workers and of the next."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, Any], tuple[float, dict[str, int]]] = {}
        self._rates: dict[tuple[Any, Any], dict[str, float]] = {}

    def look(self, statuses: Iterable[Status]) -> None:
        """Take note of what the workers say now."""
        seen, rates = {}, {}
        for status in statuses:
            key = _key(status)
            counts = {
                "acquires": sum(status["acquires"].values()),
                **{name: status["acquires"].get(name, 0) for name in ("waited", "created")},
            }
            at = status["at"]
            seen[key] = (at, counts)
            before = self._seen.get(key)
            if before is None:
                continue
            # By its own clock: how often it writes and how often it is looked at are not in step.
            if at > before[0]:
                rates[key] = {
                    # A guard that was opened anew counts from 0 again.
                    name: max(0, n - before[1][name]) / (at - before[0])
                    for name, n in counts.items()
                }
            elif at == before[0] and key in self._rates:
                rates[key] = self._rates[key]
        self._seen, self._rates = seen, rates

    def of(self, status: Status, name: str) -> float | None:
        """None for a worker that was seen only once."""
        return self._rates.get(_key(status), {}).get(name)


def _key(status: Status) -> tuple[Any, Any]:
    return status["pid"], status["name"]


# -- the table


@dataclass(frozen=True)
class _Column:
    """A column of the table."""

    head: str
    cell: Callable[[Status], object]
    goes: int = 0
    """Where the terminal is too narrow, columns go in this order; 0 stays."""
    right: bool = True


def _table(
    statuses: Sequence[Status], now: float, width: int | None, rates: Rates | None = None
) -> list[str]:
    """Head and rows, no wider than *width* where that can be had."""
    table = _columns(statuses, now, rates)
    lines = _lines(table, statuses)
    if width is None or _widest(lines) <= width:
        return lines
    gone = [0, *sorted(column.goes for column in table if column.goes)]
    for last in gone:
        left = [column for column in table if not 0 < column.goes <= last]
        lines = _lines(left, statuses, blanks=1)
        if _widest(lines) <= width:
            break
    return lines


def _columns(statuses: Sequence[Status], now: float, rates: Rates | None) -> list[_Column]:
    table = [
        _Column("pid", lambda status: status["pid"]),
        _Column("class", _worker_class, goes=1, right=False),
    ]
    if {status["name"] for status in statuses} - {"default"}:
        table.append(_Column("guard", lambda status: status["name"], right=False))
    table += [
        _Column("ready", lambda status: _state(status, now), right=False),
        _Column("idle", lambda status: status["idle"]),
        _Column("used", lambda status: status["used"]),
        _Column("opening", lambda status: status["opening"], goes=3),
        _Column("waiting", lambda status: status["waiting"]),
        _Column("floor/max", _size, goes=2),
    ]
    if rates is None:
        table += [_Column(name, _count(name)) for name in ("acquired", "waited", "created")]
    else:
        table += [
            _Column(f"{name}/s", _rate(name, rates, now))
            for name in ("acquires", "waited", "created")
        ]
    return [*table, _Column("failed", _count("timeout", "rejected", "error"))]


def _lines(table: Sequence[_Column], statuses: Iterable[Status], blanks: int = 2) -> list[str]:
    rows = [[column.head for column in table]]
    rows += [[escaped(str(column.cell(status))) for column in table] for status in statuses]
    return columns(rows, [n for n, column in enumerate(table) if column.right], blanks)


def _widest(lines: Iterable[str]) -> int:
    return max(map(len, lines))


def _worker_class(status: Status) -> str:
    """As gunicorn knows it; of a class that is named by its place, the name."""
    return (status.get("worker_class") or "-").rpartition(".")[2]


def _stalled_for(status: Status, now: float) -> float | None:
    age = now - float(status["at"])
    return age if age > STALLED_AFTER else None


def _state(status: Status, now: float) -> str:
    age = _stalled_for(status, now)
    if age is not None:
        return f"stalled {span(age)}"
    return "yes" if status["ready"] else "leaving" if status.get("leaving") else "no"


def _size(status: Status) -> str:
    floor, most = status["floor"], status["max_size"]
    return "-" if floor is None else f"{floor}/{most}"


def _count(*outcomes: str) -> Callable[[Status], object]:
    return lambda status: sum(status["acquires"].get(outcome, 0) for outcome in outcomes)


def _rate(name: str, rates: Rates, now: float) -> Callable[[Status], object]:
    def cell(status: Status) -> str:
        rate = rates.of(status, name)
        if rate is None or _stalled_for(status, now) is not None:
            return "-"
        return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"

    return cell


# -- below it


def _budgets(statuses: Iterable[Status]) -> Iterator[str]:
    """A line for each ledger, and so for each database."""
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
        # What follows the name tells those of one name on several servers apart.
        database = name.rpartition("-")[0]
        known_as = database if database and databases.count(database) == 1 else name
        yield f"{escaped(known_as)}: {_in_use(members, kind)}"
        for member in members:
            inert.pop(member["name"], None)
    for name in inert:
        yield f"{escaped(name)}: not known yet"


def _in_use(members: Iterable[Status], kind: str) -> str:
    """What they say of the ledger that they share, the latest last."""
    said = [each["budget"] for each in sorted(members, key=lambda each: float(each["at"]))]
    # A static ledger is each process' own; of another, each tells how much of it all have taken.
    taken = sum(each["in_use"] for each in said) if kind == "static" else said[-1]["in_use"]
    known = [each for each in said if each["budget"] is not None]
    if not known:
        return f"not known yet, slots in use: {taken}"
    share = min(each["instance"] for each in known)  # where they differ, the smallest rules
    text = f"{taken} of this instance's {share} slots in use, budget {known[-1]['budget']}"
    capacity = known[-1]["capacity"]
    text += "" if capacity is None else f", capacity {capacity}"
    told: list[dict[str, Any]] = next((n["others"] for n in known[::-1] if n.get("others")), [])
    named = ", ".join(_session(each) for each in told[:NAMED_MOST])
    return f"{text}; the server has room for no more: {named}" if named else text


def _session(told: dict[str, Any]) -> str:
    """Who holds how many connections, as a worker has heard it from the server."""
    name = f" ({escaped(told['application'])})" if told["application"] else ""
    return f"{told['connections']} of {escaped(told['role'])}{name}"


def _errors(statuses: Iterable[Status]) -> Iterator[str]:
    """A line for each last error that differs, with whose it is."""
    whose: dict[str, list[str]] = {}
    for status in statuses:
        if status["last_error"] is not None:
            text = escaped(" ".join(status["last_error"].split()))
            pids = whose.setdefault(text, [])
            if str(status["pid"]) not in pids:
                pids.append(str(status["pid"]))
    for text, pids in whose.items():
        yield f"{', '.join(pids)}: {text}"


def _notes(head: str, texts: Iterable[str], width: int | None) -> Iterator[str]:
    for n, text in enumerate(texts):
        yield from wrapped(text, (head if n == 0 else "").ljust(9), 11, width)


# -- all of it


def report(
    statuses: Sequence[Status], now: float, *, runtime_dir: Path, width: int | None
) -> list[str]:
    """All lines; *width* is that of the terminal, None where there is none to fit."""
    lines = _table(statuses, now, width)
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
    """What fits on a terminal of *size* (its columns and lines); *nothing* is said of no worker."""
    width, height = size
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    lines = [f"{clock}  {_summary(statuses, now)}  (Ctrl-C ends)", ""]
    if not statuses:
        lines += wrapped(nothing, width=width)
        return _cut(lines, width, height)
    table = _table(statuses, now, width, rates)
    notes = [
        "",
        *_notes("budget", _budgets(statuses), width),
        *_notes("error", _errors(statuses), width),
        f"folder   {escaped(str(runtime_dir))}",
    ]
    # The rows give way first, but for a few: there may be a hundred workers, or errors.
    few = len(lines) + min(len(table), max(4, height // 2))
    notes = _shortened(notes, max(0, height - few))
    lines += [table[0], *_shortened(table[1:], height - len(lines) - 1 - len(notes))]
    return _cut(lines + notes, width, height)


def _summary(statuses: Sequence[Status], now: float) -> str:
    """How many workers there are, each by the worst of its guards."""
    worst: dict[int, int] = {}
    for status in statuses:
        stalled = _stalled_for(status, now) is not None
        state = 2 if stalled else 0 if status["ready"] else 1
        worst[status["pid"]] = max(state, worst.get(status["pid"], 0))
    found = list(worst.values())
    names = enumerate(("ready", "not ready", "stalled"))
    counts = [f"{found.count(state)} {name}" for state, name in names if state in found]
    head = f"{len(worst)} worker" if len(worst) == 1 else f"{len(worst)} workers"
    return ": ".join([head, *([", ".join(counts)] if counts else [])])


def _shortened(lines: list[str], room: int) -> list[str]:
    """As many lines as there is room for; the last says how many there are more."""
    if len(lines) <= room:
        return lines
    if room < 1:
        return []
    return [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]


def _cut(lines: Iterable[str], width: int, height: int) -> list[str]:
    """No more and no wider lines than the terminal has."""
    fitting = [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
    return fitting[:height]
