"""The table of ``poolguard status``: a row for each guard of each worker, with counts or rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, get_args

from ..history.expected import Reason
from .table import Column, fitted
from .text import span

__all__ = ["Rates", "Status", "stalled_for", "table"]

STALLED_AFTER = 5.0
"""Seconds after which a worker is said to stall whose status was due to be written again."""

Status: TypeAlias = dict[str, Any]
"""What a worker publishes of one of its guards."""


class Rates:
    """Acquires per second, from the counters at one look at the workers and at the next."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, Any], tuple[float, dict[str, int]]] = {}
        self._rates: dict[tuple[Any, Any], dict[str, float]] = {}

    def look(self, statuses: Iterable[Status]) -> None:
        """Take note of the workers' counters, as they are now."""
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
            # The worker's own clock counts: it is not looked at in step with its writing.
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
        """The rate of one of a guard's counters; None for one that was seen only once."""
        return self._rates.get(_key(status), {}).get(name)


def _key(status: Status) -> tuple[Any, Any]:
    return status["pid"], status["name"]


def table(
    statuses: Sequence[Status], now: float, width: int | None, rates: Rates | None = None
) -> list[str]:
    """The head and the rows, no wider than *width* where that is possible."""
    return fitted(_columns(statuses, now, rates), statuses, width)


def _columns(statuses: Sequence[Status], now: float, rates: Rates | None) -> list[Column[Status]]:
    found = [
        Column("pid", lambda status: status["pid"]),
        Column("class", _worker_class, goes=1, right=False),
    ]
    if {status["name"] for status in statuses} - {"default"}:
        found.append(Column("guard", lambda status: status["name"], right=False))
    found += [
        Column("ready", lambda status: _state(status, now), right=False),
        Column("idle", lambda status: status["idle"]),
        Column("used", lambda status: status["used"]),
        Column("opening", lambda status: status["opening"], goes=3),
        Column("waiting", lambda status: status["waiting"]),
        Column("floor/max", _size, goes=2),
    ]
    if any(map(_expected, statuses)):
        found.append(Column("expected", lambda status: _expected(status) or "-", goes=2))
    if rates is None:
        found += [Column(name, _count(name)) for name in ("acquired", "waited", "created")]
    else:
        found += [
            Column(f"{name}/s", _rate(name, rates, now))
            for name in ("acquires", "waited", "created")
        ]
    return [*found, Column("failed", _count("timeout", "rejected", "error"))]


def _worker_class(status: Status) -> str:
    """The class as gunicorn knows it; of a dotted path, the last name."""
    return (status.get("worker_class") or "-").rpartition(".")[2]


def stalled_for(status: Status, now: float) -> float | None:
    """Seconds for which a worker has not written its status; None where that was not due."""
    late = now - float(status["due"]) > STALLED_AFTER
    return now - float(status["at"]) if late else None


def _state(status: Status, now: float) -> str:
    age = stalled_for(status, now)
    if age is not None:
        return f"stalled {span(age)}"
    return "yes" if status["ready"] else "leaving" if status.get("leaving") else "no"


def _size(status: Status) -> str:
    floor, most = status["floor"], status["max_size"]
    return "-" if floor is None else f"{floor}/{most}"


def _expected(status: Status) -> str:
    """How many connections are kept warm beyond the floor, and why; empty where that is none.

    Other versions of poolguard may publish no such thing."""
    expected = status.get("expected")
    if not isinstance(expected, dict) or not isinstance(level := expected.get("level"), int):
        return ""
    reason, is_above = expected.get("reason"), level > (status["floor"] or 0)
    return f"{level} ({reason})" if is_above and reason in get_args(Reason) else ""


def _count(*outcomes: str) -> Callable[[Status], object]:
    return lambda status: sum(status["acquires"].get(outcome, 0) for outcome in outcomes)


def _rate(name: str, rates: Rates, now: float) -> Callable[[Status], object]:
    def cell(status: Status) -> str:
        rate = rates.of(status, name)
        if rate is None or stalled_for(status, now) is not None:
            return "-"
        return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"

    return cell
